"""Trajectories: stages that run epoch by epoch, and how they are resumed, reused and stored."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from orca_core.addresses import Address
from orca_core.errors import NotFiniteError
from orca_core.memory import peak_bytes, start_peak
from orca_core.numerics import NumericalKind, is_mixed, made_by
from orca_core.rows import EpochRow, Row, StageRow
from orca_core.stages import Stage
from orca_core.store import Artifact, Store

SAVE_EVERY_S = 60.0
"""Seconds of work after which a trajectory stores its state at the end of the epoch."""


class Trajectory(Protocol):
    """A stage that runs epoch by epoch.

    Attributes:
        device: Where it computes.
    """

    device: torch.device

    def run_epoch(self, epoch: int) -> EpochRow:
        """Run one epoch (the first is 1) and return its row, without time and memory."""

    def state(self) -> dict[str, Tensor]:
        """All tensors that the next epoch depends on, including the optimiser's."""

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a state."""


@runtime_checkable
class Joining(Trajectory, Protocol):
    """A trajectory whose epochs can be trained together with those of other trials.

    Attributes:
        share_s: Seconds of the latest epoch that were spent together with others and fall to it, before its `run_epoch`.
    """

    share_s: float

    @property
    def is_ahead(self) -> bool:
        """Whether its next epoch has been trained already, and only its `run_epoch` is left."""


@dataclass(frozen=True)
class Due:
    """An epoch that is about to be run, and can be trained together with those of other trials first."""

    trajectory: Joining
    epoch: int


def advance(
    stage: Stage,
    store: Store,
    build: Callable[[], Trajectory],
    *,
    kind: NumericalKind,
    keep_tensors: bool = True,
    keep_at: Collection[int] = (),
    save_every_s: float = SAVE_EVERY_S,
    announces: bool = False,
) -> Generator[Row, None, Artifact]:
    """Advance a trajectory to the end of a stage, from the furthest stored state before it, and store the result.

    Args:
        stage: The stage; `start` and `end` are epochs of the trajectory.
        store: Where states are found and kept.
        build: Makes the trajectory at the stage's start; not called if the stage is stored completely.
        kind: What computes in this process.
        keep_tensors: Whether the end state is needed later; if not, only its rows are stored.
        keep_at: Further epochs whose states are kept, for trials that end there.
        save_every_s: Seconds of work between states stored in case the process dies; they are dropped at the end.
        announces: Whether a `Due` is yielded before each epoch of a trajectory that joins others. Seconds then leave out those in which
            this generator waits.

    Yields:
        One metrics row per epoch, reused ones included, then one row for the stage.

    Raises:
        NotFiniteError: If a metric is NaN or infinite.
    """
    end = stage.end
    done = _take(stage, store, stage.address)
    if done is not None and (done.tensors or not keep_tensors):
        rows = rows_of(done)
        yield from _reused(rows)
        saved_s = sum(row.seconds for row in rows)
        yield _stage_row(stage, end - stage.start, seconds=0.0, saved_s=saved_s, mixed_numerics=is_mixed(kind, done.data))
        return done

    started = time.perf_counter()
    trajectory = build()
    start_peak(trajectory.device)
    rows = []
    begun = stage.start
    interim = _take(stage, store, stage.interim)
    has_interim = interim is not None
    if (found := _furthest(stage, store, interim)) is not None:
        trajectory.load_state(found.tensors)
        rows = rows_of(found)
        begun = rows[-1].epoch
    makers = made_by(kind, found.data if found else None)
    yield from _reused(rows)
    saved_s = sum(row.seconds for row in rows)
    last_save = time.perf_counter()
    away_s = share_s = 0.0
    joining = trajectory if announces and isinstance(trajectory, Joining) else None  # such a check of a protocol takes 50 us

    def run(epoch: int) -> EpochRow:
        nonlocal share_s
        epoch_started = time.perf_counter()
        row = trajectory.run_epoch(epoch)
        _check_finite(row)
        share = joining.share_s if joining is not None else 0.0
        share_s += share
        row = replace(row, phase=stage.phase, seconds=time.perf_counter() - epoch_started + share)
        if trajectory.device.type == "cuda":
            row = replace(row, memory_bytes=peak_bytes(trajectory.device))
        rows.append(row)
        return row

    def save_interim() -> None:
        store.put(stage.interim, trajectory.state(), _as_data(rows, makers))

    for epoch in range(begun + 1, end + 1):
        if joining is not None:
            left = time.perf_counter()
            try:
                yield cast(Row, Due(joining, epoch))  # not a row: for the caller who asked for it
            except GeneratorExit:
                with suppress(Exception):  # what is wrong with this trial does not matter any more
                    if joining.is_ahead:
                        run(epoch)
                    if rows and begun < rows[-1].epoch < end and rows[-1].epoch not in keep_at:
                        save_interim()
                raise
            away_s += time.perf_counter() - left
        row = run(epoch)
        if epoch < end and epoch in keep_at:
            # This also replaces rows without a state, which a trial that ends here leaves behind.
            store.put(stage.address_at(epoch), trajectory.state(), _as_data(rows, makers))
            last_save = time.perf_counter()
        elif epoch < end and time.perf_counter() - last_save >= save_every_s:
            save_interim()
            has_interim, last_save = True, time.perf_counter()
        left = time.perf_counter()
        try:
            yield row
        except GeneratorExit:  # stopped: the next run continues from here
            if epoch < end and epoch not in keep_at:
                save_interim()
            raise
        if announces:
            away_s += time.perf_counter() - left
    artifact = Artifact(trajectory.state() if keep_tensors else {}, _as_data(rows, makers))
    stored = store.put(stage.address, artifact.tensors, artifact.data)
    if has_interim:  # in an object store, each look costs time and money
        store.drop(stage.interim)
    seconds = time.perf_counter() - started - away_s + share_s
    yield _stage_row(
        stage,
        begun - stage.start,
        seconds,
        saved_s,
        stored_bytes=stored,
        memory_bytes=peak_bytes(trajectory.device),
        mixed_numerics=is_mixed(kind, found.data) if found else False,
    )
    return artifact


def rows_of(artifact: Artifact) -> list[EpochRow]:
    """The rows that an artifact of a trajectory carries, from the trajectory's first epoch on."""
    return [EpochRow.from_cells(row) for row in artifact.data["rows"]]


def _reused(rows: Sequence[EpochRow]) -> list[EpochRow]:
    return [replace(row, is_reused=True) for row in rows]


def _as_data(rows: Sequence[EpochRow], makers: Mapping[str, Any]) -> dict[str, Any]:
    return {"rows": [row.cells() for row in rows], **makers}


def _last_epoch(artifact: Artifact) -> int:
    return int(artifact.data["rows"][-1]["epoch"])


def _check_finite(row: EpochRow) -> None:
    """Raise NotFiniteError if a number of the row is NaN or infinite."""
    for column in fields(row):
        value = getattr(row, column.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise NotFiniteError(f"{column.name} is {value} after {row.stage} epoch {row.epoch}")


def _take(stage: Stage, store: Store, address: Address) -> Artifact | None:
    """An artifact of a stage from the store, if it may be used, see `Stage.needs_maker`."""
    artifact = store.get(address)
    return None if artifact is None or (stage.needs_maker and "made_by" not in artifact.data) else artifact


def _furthest(stage: Stage, store: Store, interim: Artifact | None) -> Artifact | None:
    """The stored state that is furthest on the way to the stage's end: a kept one, or the interim one of an interrupted run."""
    end = stage.end

    def on_the_way(artifact: Artifact | None) -> bool:
        return artifact is not None and bool(artifact.tensors) and stage.start < _last_epoch(artifact) < end

    best = interim if on_the_way(interim) else None
    for address in reversed(store.states(stage.folder)):
        epoch = address.epoch or 0
        if best is not None and epoch <= _last_epoch(best):
            break
        if stage.start < epoch < end and on_the_way(artifact := _take(stage, store, address)):
            return artifact
    return best


def _stage_row(
    stage: Stage,
    reused_epochs: int,
    seconds: float,
    saved_s: float,
    *,
    mixed_numerics: bool | None,
    stored_bytes: int | None = None,
    memory_bytes: int | None = None,
) -> StageRow:
    return StageRow(
        stage=stage.kind,
        phase=stage.phase,
        key=stage.key,
        epochs=stage.end - stage.start,
        reused_epochs=reused_epochs,
        seconds=seconds,
        saved_s=saved_s,
        stored_bytes=stored_bytes,
        memory_bytes=memory_bytes,
        mixed_numerics=mixed_numerics,
    )
