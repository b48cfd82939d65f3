"""A sweep run from a notebook: in a real kernel, with the line of progress where a reader of the notebook sees it."""

from __future__ import annotations

import json
import os
import sys

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

CELLS = (
    """
from sweeper import Results, load_space, run

tuning = {"epochs": 2, "warmup_epochs": 0, "decay_epochs": None}
space = load_space({
    "name": "from-a-notebook",
    "base": {"task": "openml/187", "body.weights": "random", "align.epochs": 0, "finetune": tuning},
    "space": {"finetune.lr": {"grid": (1e-3, 1e-2)}},
})
code = run(space, "results")
""",
    """Results("results").sql("select finetune_lr, test_error from trials where sweep = 'from-a-notebook'")""",
    "code",
)


@pytest.mark.slow
def test_a_sweep_runs_in_a_notebook_with_a_live_line(tmp_path, monkeypatch):
    kernel = tmp_path / "kernels" / "here" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": argv, "display_name": "here", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    lines = []

    class Client(nbclient.NotebookClient):
        def process_message(self, message, cell, index):
            if message["msg_type"] in ("display_data", "update_display_data"):
                lines.append(message["content"]["data"]["text/plain"])
            return super().process_message(message, cell, index)

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    Client(notebook, timeout=300, kernel_name="here", resources={"metadata": {"path": str(tmp_path)}}).execute()
    running, answer, code = (cell.outputs for cell in notebook.cells)
    assert lines[0] == "starting workers"
    assert len(lines) > 2, "the line changes while the sweep runs"
    (line,) = [output["data"]["text/plain"] for output in running if output["output_type"] == "display_data"]
    assert line.startswith("2/2 trials, 0 running"), "the last line stays in the notebook"
    assert "rank  valid_error" in "".join(output["text"] for output in running if output["output_type"] == "stream")
    assert "<th>finetune_lr</th>" in answer[0]["data"]["text/html"]
    assert code[0]["data"]["text/plain"] == "0"
