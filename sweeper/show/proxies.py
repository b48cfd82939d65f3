"""Which proxy is closest to a task, before any alignment: the distances that a trial's columns hold, for all proxies of a body."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orca_core.config.knobs import TrialConfig
from orca_core.config.paths import flatten
from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError, DataError, Fault
from orca_core.proxies import PROXY_CATALOGUE, find_proxy
from orca_core.rows import EpochRow
from orca_core.store import Store
from sweeper.results.workspace import Workspace
from sweeper.running.preflight import check_data, check_stores
from sweeper.show.catalogue import trouble_with_files

if TYPE_CHECKING:
    import pyarrow as pa

TELL_EVERY_S = 1.0
"""Seconds between lines of progress on stderr."""

_GIVEN_HERE = frozenset({"task", "body.name", "seed", "proxy", "align.epochs"})
"""Knobs that `--set` must leave alone."""


def rank_proxies(
    names: Sequence[str], task: str, body: str | None, seed: int, settings: Mapping[str, Any], workspace: Workspace
) -> pa.Table:
    """Distances of proxies to a task, the closest first.

    Args:
        names: Proxies beside those of the catalogue that the body can embed.
        task, body, seed: Of the trials; without a body the one of the task's recipe.
        settings: Further knobs of the trials.
        workspace: Has the stage store; pretraining and source features are found and kept there.

    Returns:
        `proxy`, `proxy_distance`, `proxy_distance_unlabelled`, `seconds` (of features, unless the store has them, and distances), and
        `unusable`, why a proxy has none.

    Raises:
        ConfigError: With every fault of the arguments; nothing was started.
    """
    import pyarrow as pa

    usable, unusable = _trials(names, _knobs(task, body, seed, settings))
    check_stores(workspace)
    rows = _measure(usable, workspace.artifacts) + [{"proxy": name, "unusable": why} for name, why in unusable.items()]
    rows.sort(key=lambda row: row.get("proxy_distance", math.inf))  # stable: those without stay in the catalogue's order
    columns = {"proxy": pa.string(), "proxy_distance": pa.float64(), "proxy_distance_unlabelled": pa.float64()}
    columns |= {"seconds": pa.float64(), "unusable": pa.string()}
    return pa.Table.from_pylist(rows, pa.schema(columns))


def _knobs(task: str, body: str | None, seed: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    given = flatten(settings)
    if wrong := given.keys() & _GIVEN_HERE:
        remedy = "Task, body, seed and proxies are arguments; how far the trial aligns does not matter."
        raise ConfigError([Fault("--set", "must not set what an argument sets", knob, remedy) for knob in sorted(wrong)])
    knobs = {**given, "task": task, "seed": seed, "align.epochs": 1}
    return knobs if body is None else knobs | {"body.name": body}


def _trials(names: Sequence[str], knobs: Mapping[str, Any]) -> tuple[dict[str, TrialConfig], dict[str, str]]:
    """Proxy -> a trial that is aligned to it, and proxy -> why it cannot be used."""
    faults: dict[str, Fault] = {}
    for name in ("noise", *names):  # noise fits every body
        try:
            config = resolve_config({**knobs, "proxy": name})
        except ConfigError as error:
            faults |= {fault.text(): fault for fault in error.faults}
    if faults:
        raise ConfigError(faults.values())
    modality = config.body_spec.modality
    usable, unusable = {}, {}
    for name in dict.fromkeys([*PROXY_CATALOGUE.entries(), *names]):
        spec = find_proxy(name)
        if not spec.fits(modality):
            continue
        if trouble := trouble_with_files(spec):
            unusable[name] = trouble
            continue
        try:
            usable[name] = resolve_config({**knobs, "proxy": name})
        except ConfigError as error:  # features of another width
            unusable[name] = str(error).splitlines()[0]
    check_data(usable.values())
    return usable, unusable


def _measure(trials: Mapping[str, TrialConfig], store: Store) -> list[dict[str, Any]]:
    from orca_core.pipeline import distances_of_proxy  # torch takes seconds to load

    found, told, began = [], time.monotonic(), 0.0

    def tell(text: str) -> None:
        nonlocal told
        if time.monotonic() - told >= TELL_EVERY_S:
            told = time.monotonic()
            sys.stderr.write(f"{text}\n")

    for number, (name, config) in enumerate(trials.items(), 1):
        tell(f"proxy {number} of {len(trials)}: {name}")
        steps = distances_of_proxy(config, store)
        while True:
            try:
                row = next(steps)
            except StopIteration as stop:
                found.append({"proxy": name, **stop.value._asdict(), "seconds": time.perf_counter() - began})
                break
            except DataError as error:  # what the headers of its files did not tell
                found.append({"proxy": name, "unusable": str(error).splitlines()[0]})
                break
            if row.stage == "source":
                began = time.perf_counter() - row.seconds
            elif isinstance(row, EpochRow) and number == 1:  # the others have it from the store
                tell(f"pretraining {config.body.name}: epoch {row.epoch} of {config.pretrain.epochs}")
    return found
