"""Each notebook runs from the first cell to the last in a fresh kernel."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_the_first_cell_to_the_last(notebook, tmp_path):
    read = nbformat.read(notebook, as_version=4)
    client = NotebookClient(
        read, timeout=300, resources={"metadata": {"path": str(tmp_path)}}, kernel_name="python3"
    )
    client.execute()
    outputs = [
        o for cell in read.cells for o in cell.get("outputs", []) if o.output_type == "error"
    ]
    assert not outputs


def test_notebooks_are_committed_with_their_outputs():
    for notebook in NOTEBOOKS:
        cells = [c for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "code"]
        assert all(cell.execution_count for cell in cells), notebook.name
        assert any(cell.outputs for cell in cells), notebook.name
