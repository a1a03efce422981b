"""The README's Python example runs."""

import importlib
import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_python_example_runs(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert len(blocks) == 1
    (tmp_path / "readme_example.py").write_text(blocks[0])
    monkeypatch.syspath_prepend(tmp_path)  # as a file of one's own: environments can be pickled
    assert importlib.import_module("readme_example").trial.live
