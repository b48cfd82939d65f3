"""Sweeps whose numbers are made up, with epochs and stages, recorded as a driver records them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orca_core.floors.rows import COMPLETE, FloorRow
from orca_core.rows import EpochRow, ProbeRow, Row, StageRow
from sweeper.planning.planner import make_plan
from sweeper.results import Workspace
from sweeper.running.plan_note import plan_note
from sweeper.running.recorder import Recorder
from sweeper.space.reading import parse_space

Cells = Mapping[str, Any]

RICH = {
    "name": "rich",
    "space": {
        "task": {"grid": ["digits", "mnist1d"]},
        "align.epochs": {"grid": [0, 2, 4]},
        "proxy": {"grid": ["recipe", "noise-matched"], "when": {"freezing": "full"}},
        "freezing": {"grid": ["full", "frozen-body"]},
    },
    "base": {"finetune": {"epochs": 3}},
    "seeds": 3,
    "question": {"factor": "align.epochs", "baseline": 0},
}
"""The other proxy has arms with everything trained alone, as in the quickstart."""

FROZEN, NOISE = 0.2, 0.04


def rich_error(cells: Mapping[str, Any]) -> float:
    """Alignment does nothing; freezing and the proxy do something."""
    wobble = random.Random(repr((cells["task"], cells["seed"]))).uniform(0, 0.01)
    is_noise = str(cells["proxy"]).startswith("noise")
    return 0.1 + FROZEN * (cells["freezing"] == "frozen-body") + NOISE * is_noise + wobble


def record(
    workspace: Workspace,
    space: Mapping[str, Any],
    error: Callable[[Cells], float | Cells | None],
    *,
    curve: Callable[[Cells, int], float] | None = None,
    distance: Callable[[Cells, int], float] | None = None,
    labels: Callable[[Cells, int], Sequence[Sequence[float]]] | None = None,
    probe: Callable[[Cells, str, int], float] | None = None,
    params: Callable[[Cells], list[int]] = lambda cells: [100],
    seconds: float = 1.0,
) -> None:
    """Record a sweep.

    Args:
        workspace: Where it is recorded.
        space: Its search space.
        error: Test error of a trial with these cells; or cells of one that ended otherwise; or None for one that has not started.
        curve: Test error after an epoch of fine-tuning; None = no rows of epochs.
        distance: Distance in an epoch of alignment.
        labels: Distances of labels in an epoch of alignment.
        probe: Effective rank at a moment and a layer, of which there are three.
        params: Parameters that train, by phase.
        seconds: Seconds of fine-tuning; alignment takes half of it, and a quarter more was saved by reuse.
    """
    plan = make_plan(parse_space(space))
    workspace.results.save_plan(space["name"], plan.hash, plan_note(plan))
    recorder = Recorder(workspace.results, space["name"], "valid_error")
    for trial in plan.trials:
        cells = trial.cells() | {"candidate": trial.candidate, "variant": trial.variant or None}
        if (end := error(cells)) is None:
            continue
        recorder.start(trial, device="cpu")
        recorder.locate(trial.id, "here", 1)
        rows: list[Row] = []
        epochs = cells.get("align_epochs") or 0
        if epochs and (distance or labels):
            rows += [
                EpochRow(
                    stage="align",
                    epoch=epoch,
                    distance=distance(cells, epoch) if distance else None,
                    label_distances=[list(row) for row in labels(cells, epoch)] if labels else None,
                )
                for epoch in range(1, epochs + 1)
            ]
            rows.append(StageRow(stage="align", key="k", epochs=epochs, reused_epochs=0, seconds=0.5 * seconds, saved_s=0.0))
        if curve:
            rows += [
                EpochRow(stage="finetune", epoch=epoch, test_error=curve(cells, epoch), valid_error=curve(cells, epoch), train_loss=1.0)
                for epoch in range(1, cells["finetune_epochs"] + 1)
            ]
        rows.append(
            StageRow(stage="finetune", key="k", epochs=cells["finetune_epochs"], reused_epochs=0, seconds=seconds, saved_s=0.25 * seconds)
        )
        if probe:
            rows += [
                ProbeRow(probe="effective-rank", moment=moment, layer=layer, key="k", value=probe(cells, moment, layer))
                for moment in (("start", "aligned", "fine-tuned") if epochs else ("start", "fine-tuned"))
                for layer in range(3)
            ]
        recorder.add_rows(trial.id, rows)
        ended = end if isinstance(end, Mapping) else {"test_error": end}
        scores = {"status": "COMPLETE", "valid_error": ended.get("test_error"), "test_samples": 10_000, "params_trained": params(cells)}
        recorder.end(trial.id, scores | dict(ended))
    recorder.flush()


def record_floor(workspace: Workspace, task: str, model: str, error: float, **cells: Any) -> None:
    """Record a floor of a task, whose validation error is half of its test error."""
    known = {"status": COMPLETE, "valid_error": error / 2, "test_error": error, "task_digest": "d", "score": "1-accuracy"}
    row = FloorRow(task=task, model=model, version=1, sklearn_version="1", numpy_version="2", **known | cells)
    workspace.results.append_floors([row])
