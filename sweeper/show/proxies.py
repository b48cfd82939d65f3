"""Ranks the proxies of a body by their distance to a task before alignment: the distances and scores that trials have as columns."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orca_core.config.knobs import TrialConfig
from orca_core.config.paths import flatten
from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError, DataError, Fault
from orca_core.proxies import PROXY_CATALOGUE, find_proxy
from orca_core.rows import EpochRow, StageRow
from orca_core.store import Store
from sweeper.results.workspace import Workspace
from sweeper.running.preflight import check_data, check_stores
from sweeper.show.task_data import describe_file_faults

if TYPE_CHECKING:
    import pyarrow as pa

MEASURES = ("proxy_distance", "proxy_distance_unlabelled", "proxy_logme", "proxy_h_score")
"""What is shown of each proxy. The scores of the target are the same for all of them."""

PROGRESS_EVERY_S = 1.0
"""Minimum seconds between lines of progress on stderr."""

_SET_BY_ARGUMENTS = frozenset({"task", "body.name", "seed", "proxy", "align.epochs"})
"""Knobs that `--set` must not set."""


def rank_proxies(
    names: Sequence[str],
    task: str,
    body: str | None,
    seed: int,
    settings: Mapping[str, Any],
    malformed: Iterable[Fault],
    workspace: Workspace,
) -> pa.Table:
    """Distances of proxies to a task, the closest first.

    Args:
        names: Proxies to rank in addition to those in the catalogue that the body can embed.
        task, body, seed: Knobs of the trials; without a body, the one in the task's recipe.
        settings: Other knobs of the trials.
        malformed: Faults of options `--set` that are no settings; they are raised together with all others.
        workspace: The stage store, from which pretraining and source features are reused and in which they are kept.

    Returns:
        `proxy`, `proxy_distance`, `proxy_distance_unlabelled`, `proxy_logme`, `proxy_h_score`, `seconds` (for these, and for features
        unless the store has them), and `unusable`: why a proxy has none.

    Raises:
        ConfigError: With all faults of the arguments. Nothing was started.
    """
    import pyarrow as pa

    usable, unusable = _trials(names, *_knobs(task, body, seed, settings, malformed))
    check_stores(workspace)
    rows = _measure(usable, workspace.artifacts) + [{"proxy": name, "unusable": why} for name, why in unusable.items()]
    rows.sort(key=lambda row: row.get("proxy_distance", math.inf))  # stable: proxies without a distance stay in the order of the catalogue
    columns = {"proxy": pa.string(), **dict.fromkeys(MEASURES, pa.float64()), "seconds": pa.float64(), "unusable": pa.string()}
    return pa.Table.from_pylist(rows, pa.schema(columns))


def _knobs(
    task: str, body: str | None, seed: int, settings: Mapping[str, Any], malformed: Iterable[Fault]
) -> tuple[dict[str, Any], list[Fault]]:
    """The knobs of the trials, and what is wrong with the options that set them."""
    given = flatten(settings)
    remedy = "Task, body, seed and proxies are arguments; the number of alignment epochs does not matter."
    wrong = sorted(given.keys() & _SET_BY_ARGUMENTS)
    faults = [*malformed, *(Fault("--set", "must not set what an argument sets", knob, remedy) for knob in wrong)]
    # The objective does not matter either, but that it compares with a proxy.
    knobs = {**given, "task": task, "seed": seed, "align.epochs": 1, "align.objective": "otdd-exact"}
    return (knobs if body is None else knobs | {"body.name": body}), faults


def _trials(names: Sequence[str], knobs: Mapping[str, Any], wrong: Iterable[Fault]) -> tuple[dict[str, TrialConfig], dict[str, str]]:
    """(proxy -> a trial that aligns to it, proxy -> why it cannot be used)"""
    faults = {fault.text(): fault for fault in wrong}
    for name in ("noise", *names):  # noise fits every body
        try:
            config = resolve_config({**knobs, "proxy": name})
        except ConfigError as error:
            faults |= {fault.text(): fault for fault in error.faults}
    if faults:
        raise ConfigError(faults.values())
    modality = config.body_spec.modality
    if config.body_spec.is_bodiless:
        raise ConfigError([Fault("--body", "must be a body with an embedding of its own, to align with proxies", config.body.name)])
    usable, unusable = {}, {}
    for name in dict.fromkeys([*PROXY_CATALOGUE.entries(), *names]):
        spec = find_proxy(name)
        if not spec.fits(modality):
            continue
        if fault := describe_file_faults(spec):
            unusable[name] = fault
            continue
        try:
            config = resolve_config({**knobs, "proxy": name})
            fault = describe_file_faults(find_proxy(config.proxy))  # of noise-matched: those of the recipe's proxy
            if not fault and name not in names and spec.expects:
                spec.load()  # a damaged one that nobody asked for must not stop the others
        except (ConfigError, DataError) as error:  # features of another width; damaged values
            fault = str(error).splitlines()[0]
        if fault:
            unusable[name] = fault
        else:
            usable[name] = config
    check_data(usable.values())
    return usable, unusable


def _measure(trials: Mapping[str, TrialConfig], store: Store) -> list[dict[str, Any]]:
    from orca_core.pipeline import measure_proxy  # torch takes seconds to load

    found, last_line, started = [], time.monotonic(), 0.0

    def show_progress(text: str) -> None:
        nonlocal last_line
        if time.monotonic() - last_line >= PROGRESS_EVERY_S:
            last_line = time.monotonic()
            sys.stderr.write(f"{text}\n")

    for number, (name, config) in enumerate(trials.items(), 1):
        show_progress(f"proxy {number} of {len(trials)}: {name}")
        steps = measure_proxy(config, store)
        while True:
            try:
                row = next(steps)
            except StopIteration as stop:
                found.append({"proxy": name, **stop.value._asdict(), "seconds": time.perf_counter() - started})
                break
            except DataError as error:  # a fault that the headers of its files do not show
                found.append({"proxy": name, "unusable": str(error).splitlines()[0]})
                break
            if isinstance(row, StageRow) and row.stage == "source":
                started = time.perf_counter() - row.seconds
            elif isinstance(row, EpochRow) and number == 1:  # the others reuse it from the store
                show_progress(f"pretraining {config.body.name}: epoch {row.epoch} of {config.pretrain.epochs}")
    return found
