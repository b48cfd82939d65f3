"""A recorded sweep with everything that a report tells: two tasks, floors, a failure, names that would do harm in a page."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from figures.recorded import record, record_floor

from sweeper.results import Workspace

HARM = "<script>window.harmed = 1</script>"
"""What must come out of every form as text."""

SPACE: dict[str, Any] = {
    "name": "embedder",
    "description": f"Does the embedder need training? {HARM} \\input{{x}} | `code` *stars*",
    "space": {
        "task": {"grid": ["digits", "mnist1d"]},
        "align.epochs": {"grid": [0, 10, 20]},
        "freezing": {"grid": ["full", "frozen-body"]},
    },
    "seeds": 4,
    "question": {"factor": "align.epochs", "baseline": 0},
}

FLOORS = {"digits": 0.05, "mnist1d": 0.5}
"""Test errors of the nearest neighbours: the arms of digits are above, those of mnist1d below."""


def error_of(cells: dict[str, Any]) -> Any:
    """Alignment helps by 0.02 on digits, whatever its length; on mnist1d nothing does. Seed 3 of one arm fails."""
    if (cells["task"], cells["align_epochs"], cells["freezing"], cells["seed"]) == ("mnist1d", 20, "frozen-body", 3):
        cause = {"status": "FAIL", "cause": "not-finite", "error": f"loss is nan {HARM}", "traceback": f"Traceback: {HARM}\n  line 2"}
        return cause | {"test_error": None}
    noise = 2e-4 * ((7 * cells["seed"] + 3 * cells["align_epochs"] // 10) % 5)
    gain = 0.02 * (cells["align_epochs"] > 0) * (cells["task"] == "digits")
    error = 0.2 + 0.1 * (cells["freezing"] == "frozen-body") + 0.01 * cells["seed"] - gain + noise
    times = {"started_at": datetime(2026, 1, 1, 10, tzinfo=UTC), "ended_at": datetime(2026, 1, 1, 10, 5, tzinfo=UTC), "seconds": 90.0}
    machine = {"device_name": f"a processor {HARM}", "cpu_capability": "AVX2", "blas": "MKL", "torch_version": "2.9.0", "host": "here"}
    return {"test_error": error, "valid_samples": 200, "score": "1-accuracy", "selection": "valid", **times, **machine}


def record_sweep(workspace: Workspace) -> None:
    """Record it."""
    record(workspace, SPACE, error_of, curve=lambda cells, epoch: 0.9 / epoch, seconds=36.0)
    for task, error in FLOORS.items():
        record_floor(workspace, task, "neighbours", error, fitted_samples=1000)
        record_floor(workspace, task, "majority", 0.9, fitted_samples=1000)
