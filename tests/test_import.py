"""Importing metarlgym is light: no model library, and little time beyond gymnasium."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "transformers", "vllm", "trl", "numba", "matplotlib", "aiohttp", "textarena", "pandas", "scipy")


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_no_heavy_module_is_loaded():
    code = "import sys, metarlgym; metarlgym.list_envs(); print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    assert not set(HEAVY) & set(run(code).split())


def test_extra_time_beyond_gymnasium():
    """The aim is 0.2 s. Time of the processor, since test machines are shared."""
    code = (
        "import time, gymnasium, numpy, importlib.metadata; s = time.process_time(); import metarlgym; "
        "print(time.process_time() - s)"
    )
    extra = min(float(run(code)) for _ in range(3))
    print(f"import metarlgym: {extra:.3f} s beyond gymnasium")
    assert extra < 1.0


def test_public_names():
    import metarlgym

    assert sorted(metarlgym.__all__) == metarlgym.__all__
    assert all(hasattr(metarlgym, name) for name in metarlgym.__all__)
