"""Stages that go epoch by epoch, and how they are resumed, reused and stored."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Generator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from orca_core.errors import NotFiniteError
from orca_core.memory import peak_bytes, start_peak
from orca_core.stages import Stage
from orca_core.store import Artifact, Store

Row = dict[str, Any]
"""One row of a table: `table` is `metrics` or `stages`, the rest are columns (`sweeper.results.records`)."""

SAVE_EVERY_S = 60.0
"""Seconds of work after which a trajectory stores its state at the next epoch's end."""


class Trajectory(Protocol):
    """A stage that goes epoch by epoch.

    Attributes:
        device: Where it computes.
    """

    device: torch.device

    def run_epoch(self, epoch: int) -> dict[str, Any]:
        """Run one epoch (the first is 1) and give its metrics: numbers, or lists."""

    def state(self) -> dict[str, Tensor]:
        """All tensors that the next epoch depends on, optimiser included."""

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a state."""


def advance(
    stage: Stage,
    store: Store,
    build: Callable[[], Trajectory],
    *,
    keep_tensors: bool = True,
    keep_at: Collection[int] = (),
    save_every_s: float = SAVE_EVERY_S,
) -> Generator[Row, None, Artifact]:
    """Bring a trajectory to the stage's end, from the furthest stored state on its way, and store it there.

    Args:
        stage: The stage; `start` and `end` are epochs of the trajectory.
        store: Where states are found and kept.
        build: Makes the trajectory at the stage's start; not called if the stage is stored whole.
        keep_tensors: Whether the end state is needed again; if not, only its rows are stored.
        keep_at: Further epochs whose states are kept, for trials that leave the trajectory earlier.
        save_every_s: Seconds of work between states that are stored in case the process dies; dropped at the end.

    Yields:
        One metrics row per epoch, reused ones included, then one row for the stage.

    Raises:
        NotFiniteError: If a metric is NaN or infinite.
    """
    end = stage.end or 0
    done = store.get(stage.address)
    if done is not None and (done.tensors or not keep_tensors):
        yield from done.data["rows"]
        yield _stage_row(stage, reused_epochs=end - stage.start, seconds=0.0, saved_s=_seconds(done))
        return done

    started = time.perf_counter()
    trajectory = build()
    start_peak(trajectory.device)
    rows: list[Row] = []
    begun = stage.start
    if (found := _furthest(stage, store)) is not None:
        trajectory.load_state(found.tensors)
        rows = list(found.data["rows"])
        begun = rows[-1]["epoch"]
    yield from rows
    saved_s = sum(row["seconds"] for row in rows)
    last_save = time.perf_counter()
    for epoch in range(begun + 1, end + 1):
        epoch_started = time.perf_counter()
        metrics = trajectory.run_epoch(epoch)
        for name, value in metrics.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise NotFiniteError(f"{name} is {value} after {stage.kind} epoch {epoch}")
        row: Row = {"table": "metrics", "stage": stage.kind, "phase": stage.phase, "epoch": epoch}
        row |= metrics | {"seconds": time.perf_counter() - epoch_started}
        if trajectory.device.type == "cuda":
            row["memory_bytes"] = peak_bytes(trajectory.device)
        rows.append(row)
        if epoch < end and epoch in keep_at:
            # This also replaces rows without a state, as a trial that ends here leaves them.
            store.put(stage.address_at(epoch), trajectory.state(), {"rows": rows})
            last_save = time.perf_counter()
        elif epoch < end and time.perf_counter() - last_save >= save_every_s:
            store.put(stage.interim, trajectory.state(), {"rows": rows})
            last_save = time.perf_counter()
        try:
            yield row
        except GeneratorExit:  # stopped: the next run goes on from here
            if epoch < end and epoch not in keep_at:
                store.put(stage.interim, trajectory.state(), {"rows": rows})
            raise
    artifact = Artifact(trajectory.state() if keep_tensors else {}, {"rows": rows})
    stored = store.put(stage.address, artifact.tensors, artifact.data)
    store.drop(stage.interim)
    seconds = time.perf_counter() - started
    yield _stage_row(stage, begun - stage.start, seconds, saved_s, stored_bytes=stored, memory_bytes=peak_bytes(trajectory.device))
    return artifact


def _furthest(stage: Stage, store: Store) -> Artifact | None:
    """The stored state that is furthest on the way to the stage's end: a kept one, or the interim one of a run that was cut short."""

    def on_the_way(artifact: Artifact | None) -> bool:
        return artifact is not None and bool(artifact.tensors) and stage.start < artifact.data["rows"][-1]["epoch"] < (stage.end or 0)

    interim = store.get(stage.interim)
    best = interim if on_the_way(interim) else None
    for epoch in reversed(store.epochs(stage.place)):
        if best is not None and epoch <= best.data["rows"][-1]["epoch"]:
            break
        if stage.start < epoch < (stage.end or 0) and on_the_way(artifact := store.get(stage.address_at(epoch))):
            return artifact
    return best


def _seconds(artifact: Artifact) -> float:
    return float(sum(row["seconds"] for row in artifact.data["rows"]))


def _stage_row(stage: Stage, reused_epochs: int, seconds: float, saved_s: float, **more: int) -> Row:
    epochs = (stage.end or 0) - stage.start
    return {
        "table": "stages",
        "stage": stage.kind,
        "phase": stage.phase,
        "key": stage.key,
        "epochs": epochs,
        "reused_epochs": reused_epochs,
        "seconds": seconds,
        "saved_s": saved_s,
        "stored_bytes": None,
        "memory_bytes": None,
    } | more
