"""Measures the probes of a trial, or takes them from the store.

A probe never makes a trial fail: what goes wrong in it becomes the `reason` of its row. A process that is killed at a probe leaves a note
in the store, so that the trial's next attempt passes over the probes of that moment instead of being killed again.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any, TypeVar

from torch import Tensor

from orca_core.config.knobs import TrialConfig
from orca_core.errors import OrcaError, StoreError
from orca_core.keeping import shapes_of
from orca_core.model.cross_modal import CrossModalModel
from orca_core.plugins import resolve
from orca_core.probing.catalogue import MOMENTS, Moment
from orca_core.probing.keys import BEFORE_TUNING, ProbeStage, TrialProbes, probes_of
from orca_core.probing.reading import Measured, Reading, UnfitError
from orca_core.probing.request import ProbeRequest
from orca_core.rows import ProbeRow, Row
from orca_core.settings import Settings
from orca_core.store import Artifact, Store
from orca_core.tasks import TaskData
from orca_core.trial_stages import TrialStages

T = TypeVar("T")

KILLED = "the process ended while it measured this moment; `sweeper run --retry-failed` tries again."


def stored_rows(stage: ProbeStage, store: Store) -> list[ProbeRow] | None:
    """The rows of a probe in the store; None if there are none."""
    artifact = store.get(stage.address)
    return None if artifact is None else [replace(ProbeRow.from_cells(cells), is_reused=True) for cells in artifact.data["rows"]]


def probe_rows(
    config: TrialConfig,
    request: ProbeRequest,
    store: Store,
    trial: TrialStages,
    data: TaskData,
    pretrained: Artifact | None,
    source: Artifact | None,
    weights: Mapping[str, Tensor] | None,
) -> Generator[Row, None, None]:
    """The rows of the probes of a trial that has come to its end. Errors become rows, too.

    Args:
        config: The trial.
        request: What is asked.
        store: Where rows of probes are found and kept, and fine-tuned weights.
        trial: The trial's stages.
        data: The task's data.
        pretrained, source: Results of pretraining, and of reading the proxy, if the trial has them.
        weights: The fine-tuned parameters, by name; None = those that were kept.
    """
    try:
        probes = probes_of(config, request, trial.device.type)
    except Exception as error:  # of a proxy that is not there, say: no fault of the trial
        yield from (ProbeRow(probe=name, moment="start", key="", reason=_say(error)) for name in request.names)
        return
    reported: set[str] = set()
    try:
        weights = trained_weights(store, probes) if weights is None else weights
        for row in measure(probes, trial, store, data, pretrained, source, weights):
            reported.add(row.key)
            yield row
    except Exception as error:
        yield from (_without_value(stage, _say(error)) for stage in probes.stages if stage.key not in reported)


def measure(
    probes: TrialProbes,
    trial: TrialStages,
    store: Store,
    data: TaskData,
    pretrained: Artifact | None,
    source: Artifact | None,
    weights: Mapping[str, Tensor] | None,
) -> Generator[ProbeRow, None, None]:
    """Yield the rows of a trial's probes: from the store, or measured and stored there.

    Args:
        probes: The probes.
        trial: The trial's stages.
        store: Where rows of probes are found and kept.
        data: The task's data.
        pretrained, source: Results of pretraining, and of reading the proxy, if the trial has them.
        weights: The fine-tuned parameters, by name; None if they are not there.
    """
    todo: dict[Moment, list[ProbeStage]] = {moment: [] for moment in MOMENTS}
    for stage in probes.stages:
        rows = stored_rows(stage, store)
        if rows is None:
            todo[stage.moment].append(stage)
        else:
            yield from rows
    if not any(todo.values()):
        return
    killed_at = _killed_at(probes, store)
    states = _States(probes, trial, data, pretrained, source, weights)
    for moment, stages in todo.items():
        if moment == "fine-tuned" and weights is None:
            continue  # no row either: they count as lacking, see `orca_core.probing.finished`
        if moment == killed_at and not probes.request.retry:
            yield from (_without_value(stage, KILLED) for stage in stages)
        elif stages:
            with suppress(StoreError):  # then a process that is killed leaves no note, and nothing else is lost
                store.put(probes.under_way, {}, {"moment": moment})
            try:
                measured = _measure_moment(moment, stages, states, store)
            except (KeyboardInterrupt, SystemExit):  # the process was asked to end: no fault of the probe, so the next one measures it
                _drop_note(probes, store)
                raise
            _drop_note(probes, store)
            yield from measured


def _drop_note(probes: TrialProbes, store: Store) -> None:
    with suppress(StoreError):
        store.drop(probes.under_way)


def _killed_at(probes: TrialProbes, store: Store) -> str | None:
    note = store.get(probes.under_way)
    return None if note is None else str(note.data["moment"])


def _measure_moment(moment: Moment, stages: Iterable[ProbeStage], states: _States, store: Store) -> list[ProbeRow]:
    found: list[ProbeRow] = []
    try:
        reading = states.reading(moment)
    except Exception as error:  # whatever goes wrong with a probe is no fault of the trial
        return [_without_value(stage, _say(error)) for stage in stages]
    for stage in stages:
        started = time.perf_counter()
        try:
            measured: list[Measured] = list(resolve(stage.probe.measure, stage.probe.name)(reading))
            rows = [_row(stage, one) for one in measured]
        except UnfitError as error:
            rows = [_without_value(stage, str(error))]
        except Exception as error:  # likewise; another try may do better, so nothing is stored
            found.append(replace(_without_value(stage, _say(error)), seconds=time.perf_counter() - started))
            continue
        seconds = time.perf_counter() - started
        rows = [replace(row, seconds=seconds) for row in rows]
        with suppress(StoreError):  # then another trial that has the same probe measures it again
            store.put(stage.address, {}, {"rows": [row.cells() for row in rows]})
        found += rows
    return found


def _row(stage: ProbeStage, one: Measured) -> ProbeRow:
    if one.value != one.value or one.value in (float("inf"), float("-inf")):
        raise UnfitError(f"the number of layer {one.layer} is not finite." if one.layer is not None else "the number is not finite.")
    return ProbeRow(probe=stage.probe.name, moment=stage.moment, key=stage.key, **asdict(one))


def _without_value(stage: ProbeStage, reason: str) -> ProbeRow:
    return ProbeRow(probe=stage.probe.name, moment=stage.moment, key=stage.key, reason=reason)


def _say(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, OrcaError) and text else f"{type(error).__name__}: {text}"


class _States:
    """The states of a trial's model, one after another.

    Args:
        probes, trial, data, pretrained, source, weights: As for `measure`.
    """

    def __init__(
        self,
        probes: TrialProbes,
        trial: TrialStages,
        data: TaskData,
        pretrained: Artifact | None,
        source: Artifact | None,
        weights: Mapping[str, Tensor] | None,
    ) -> None:
        self._probes, self._trial, self._data, self._weights = probes, trial, data, weights
        self._pretrained, self._source = pretrained, source
        self._settings = Settings.of(trial.config, "finetune")
        self._shared: dict[str, Any] = {}

    def reading(self, moment: Moment) -> Reading:
        """The state at a moment."""
        shapes = shapes_of(self._data)
        first = self._ready(self._trial.start_of_training(shapes, self._pretrained, self._source))
        before = first
        if moment != "start" and self._trains_before_tuning:
            before = self._ready(_result_of(self._trial.start_of_tuning(shapes, self._pretrained, self._source)))
        model = before
        if moment == "fine-tuned":
            assert self._weights is not None
            model = copy.deepcopy(before)
            model.load_state_dict(self._weights, strict=False)
        loaded = self._trial.load_body(self._settings, self._pretrained)
        return Reading(
            moment,
            model,
            before,
            first,
            loaded,
            self._data,
            self._settings,
            self._probes.request,
            self._probes.proxy,
            self._trial.device,
            self._shared,
        )

    @property
    def _trains_before_tuning(self) -> bool:
        return any(stage.kind in BEFORE_TUNING for stage in self._trial.stages)

    def _ready(self, model: CrossModalModel) -> CrossModalModel:
        return model.requires_grad_(False).to(self._trial.device).eval()


def _result_of(rows: Generator[Row, None, T]) -> T:
    """What a stage returns, without its rows, which the trial has reported."""
    while True:
        try:
            next(rows)
        except StopIteration as stop:
            result: T = stop.value
            return result


def trained_weights(store: Store, probes: TrialProbes) -> Mapping[str, Tensor] | None:
    """The fine-tuned weights of a finished trial, if they were kept."""
    found = store.get(probes.weights)
    return None if found is None else found.tensors
