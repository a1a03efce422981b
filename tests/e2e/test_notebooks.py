"""Every notebook runs from top to bottom, and what is committed was run without an error."""

import nbformat
import pytest
from nbclient import NotebookClient

from tests.e2e.launchers import ROOT

pytestmark = pytest.mark.e2e

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def test_there_are_some():
    assert {path.stem for path in NOTEBOOKS} >= {"pretraining", "rlm_exploration", "sources_and_predictors"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert outputs and not any(output.output_type == "error" for output in outputs)
    assert str(ROOT) not in path.read_text() and path.stat().st_size < 1_000_000
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    pictures = [o for cell in notebook.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert pictures
