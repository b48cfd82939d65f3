"""What `run`, `plan` and `trial` do: compare a plan with the results, and add what is missing."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_core.adapters.inserted import check_adapter
from orca_core.addresses import WHOLE, Address
from orca_core.config.knobs import TrialConfig
from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError, DataError, Fault, StoreError
from orca_core.proxies import find_proxy
from orca_core.store import Store
from orca_core.tasks.spec import check_train_samples
from sweeper.faults import Faults
from sweeper.planning.cost import CostModel, Measured
from sweeper.planning.planner import Planner, plan_trial
from sweeper.planning.trials import Plan, PlannedTrial
from sweeper.results.store import ResultStore
from sweeper.running.driver import only_driver
from sweeper.running.provenance import provenance
from sweeper.running.recorder import NOT_RETRIED, Recorder, config_cells, score_of
from sweeper.running.takeover import take_over
from sweeper.space.reading import check_name
from sweeper.space.space import SearchSpace


@dataclass(frozen=True)
class Comparison:
    """A plan beside what the results have.

    Args:
        planner: Knows the plan, with what `tpe` proposes from the results.
        known: Trial id -> current row of the sweep's trials.
        done: Ids of planned trials that need not run.
        todo: Planned trials that must.
        stale: Ids of planned trials that are finished, but from other code, data or pretraining than now.
        dropped: Rows of trials that are no longer planned.
        scores: Trial id -> metric, of the done ones.
    """

    planner: Planner
    known: Mapping[str, Mapping[str, Any]]
    done: frozenset[str]
    todo: tuple[PlannedTrial, ...]
    stale: frozenset[str]
    dropped: tuple[Mapping[str, Any], ...]
    scores: dict[str, float]

    @property
    def plan(self) -> Plan:
        """The plan as it is now."""
        return self.planner.plan


def compare(space: SearchSpace, results: ResultStore, retry_failed: bool = False, planner: Planner | None = None) -> Comparison:
    """Compare a space with the results of its sweep, after planning it if that was not done yet."""
    known = {row["trial"]: row for row in results.live_trials(space.name)}
    stops_early = space.scheduler.name != "fifo"

    def ended(row: Mapping[str, Any]) -> bool:
        if row["status"] == "FAIL":
            return not retry_failed and row["cause"] in NOT_RETRIED
        return row["status"] == "COMPLETE" or (row["status"] == "PRUNED" and stops_early)

    scores = {trial: score_of(row, space.metric) for trial, row in known.items() if ended(row)}
    planner = planner or Planner(space, scores)
    plan = planner.plan
    current = {trial.id for trial in plan.trials if trial.id in scores and known[trial.id]["result_key"] == trial.result_key}
    return Comparison(
        planner=planner,
        known=known,
        done=frozenset(current),
        todo=tuple(trial for trial in plan.trials if trial.id not in current),
        stale=frozenset(trial.id for trial in plan.trials if trial.id in scores) - current,
        dropped=tuple(row for trial, row in known.items() if trial not in plan.by_id),
        scores={trial: score for trial, score in scores.items() if trial in current},
    )


def run_space(
    space: SearchSpace,
    results_uri: str,
    store_uri: str | None = None,
    *,
    address: str | None = None,
    max_concurrent: int | None = None,
    retry_failed: bool = False,
    share: bool = True,
    quiet: bool = False,
) -> int:
    """Run a sweep, or continue it.

    Returns:
        Exit code: 0 done, 1 some trials failed, 130 stopped.

    Raises:
        ConfigError: If the space, the data or the machines cannot do it; nothing was started.
    """
    results = ResultStore(results_uri)
    first = compare(space, results, retry_failed)
    check_data((trial.config for trial in first.todo), space.file)  # a finished sweep reads no data
    with only_driver(results, space.name):
        # Compared again, now that no other process can add to the results.
        comparison = compare(space, results, retry_failed, planner=None if first.planner.proposed_later else first.planner)
        taken, finished = _add_missing(
            comparison, results_uri, store_uri, address=address, max_concurrent=max_concurrent, share=share, quiet=quiet
        )
        results.compact(space.name)
    planned = [row for row in results.live_trials(space.name) if row["in_plan"]]
    if not quiet:
        _print_summary(comparison, results_uri, taken, finished, planned)
    if not finished:
        return 130
    return 1 if any(row["status"] == "FAIL" for row in planned) else 0


def _add_missing(
    comparison: Comparison,
    results_uri: str,
    store_uri: str | None,
    *,
    address: str | None,
    max_concurrent: int | None,
    share: bool,
    quiet: bool,
) -> tuple[set[str], bool]:
    """Write what an edited space changes, take over what other sweeps have, run the rest.

    Returns:
        Ids of the trials that were taken over, and whether all others came to their end.
    """
    results, planner, plan = ResultStore(results_uri), comparison.planner, comparison.plan
    space = plan.space
    store = absolute_uri(store_uri or f"{results_uri.rstrip('/')}/artifacts")
    if comparison.todo:
        if address is None and space.resources.cpu > (os.cpu_count() or 1):
            rule = f"must be at most the {os.cpu_count()} CPUs of this machine"
            raise ConfigError([Fault("resources.cpu", rule, space.resources.cpu, "Or give --address of a larger cluster.")], space.file)
        check_adapters((trial.config for trial in comparison.todo), space.file)
        check_store(store)
        check_room([results_uri, store], space.budget.free_gib, space.file)
    results.save_plan(space.name, plan.hash, plan_as_data(plan))
    recorder = Recorder(results, space.name, space.metric)
    recorder.set_in_plan((row for row in comparison.dropped if row["in_plan"]), False)
    recorder.set_in_plan((row for trial, row in comparison.known.items() if trial in comparison.done and not row["in_plan"]), True)
    todo, scores, taken = list(comparison.todo), dict(comparison.scores), set[str]()
    while share and todo and (more := take_over(results_uri, recorder, todo)):
        taken |= more
        for trial in more:  # from these scores tpe proposes further trials, which other sweeps may have, too
            scores[trial] = score_of(recorder.ended[trial], space.metric)
            planner.tell(trial, scores[trial])
        todo = [trial for trial in planner.plan.trials if trial.id not in comparison.done | taken]
    recorder.flush()
    if not todo:
        return taken, True
    from sweeper.running.progress import Progress
    from sweeper.tune.launch import launch  # Ray is loaded only if there is something to run

    total = len(planner.plan.trials) + planner.proposed_later
    try:
        finished = launch(
            planner,
            CostModel(measured_costs(results_uri)).longest_first(todo),
            recorder,
            scores,
            Progress(recorder, total, len(comparison.done), quiet),
            store_uri=store,
            address=address,
            max_concurrent=max_concurrent,
            share=share,
        )
    except ConfigError as error:  # what only the machines could tell
        raise ConfigError(error.faults, space.file) from None
    return taken, finished


def measured_costs(results_uri: str) -> Measured:
    """What stages took and left, over all sweeps of the results."""
    from sweeper.results.query import Results

    if not ResultStore(results_uri).sweeps():
        return Measured()
    results, of = Results(results_uri), "join trials using (sweep, trial)"
    seconds = results.sql(
        f"select stage, task, body_name, median(metrics.seconds) as value from metrics {of} group by all union all "
        f"select stage, task, body_name, median(stages.seconds) as value from stages {of} "
        "where stage = 'source' and stages.saved_s = 0 group by all"
    )
    sizes = results.sql(
        f"select stage, task, body_name, median(stored_bytes) as value from stages {of} "
        "where stage != 'finetune' and stored_bytes is not null group by all"
    )
    trained = results.sql(
        "select task, body_name, freezing, max(list_max(params_trained)) as value from trials where status = 'COMPLETE' group by all"
    )
    return Measured(*({tuple(row.values())[:-1]: row["value"] for row in answer.rows()} for answer in (seconds, sizes, trained)))


def _print_summary(comparison: Comparison, results_uri: str, taken: set[str], finished: bool, planned: list[dict[str, Any]]) -> None:
    space = comparison.plan.space
    from sweeper.show.results import best_arms
    from sweeper.show.tables import write_table

    out = sys.stdout
    if taken:
        out.write(f"{space.name}: {len(taken)} trials were taken over from other sweeps of these results.\n")
    if not comparison.todo:
        out.write(f"{space.name}: nothing to run, all {len(comparison.done)} trials are in the results.\n")
    elif not finished:
        out.write(f"{space.name}: stopped. The same command continues.\n")
    failed = [row for row in planned if row["status"] == "FAIL" and row["cause"] != "stopped"]
    for cause, count in Counter(row["cause"] for row in failed).items():
        first = next(row for row in failed if row["cause"] == cause)
        out.write(f"{count} failed ({cause}), such as {first['trial']}: {first['error']}. See: sweeper show {first['trial']}\n")
    if finished and any(row["status"] == "COMPLETE" for row in planned):
        out.write(f"Best arms by {space.metric}, mean over seeds:\n")
        out.flush()
        write_table(best_arms(results_uri, space.name, top=3), "table")
    out.write(f'Tables: {results_uri}/trials, metrics, stages. Ask them: sweeper query "select * from trials" --results {results_uri}\n')


def plan_as_data(plan: Plan) -> dict[str, Any]:
    """A plan as JSON: the space as given and as resolved, and where it was made."""
    return {
        "name": plan.space.name,
        "file": plan.space.file,
        "space": plan.space.source,
        "metric": plan.space.metric,
        "varied": [knob.replace(".", "_") for knob in plan.space.varied],
        "trials": {trial.id: {k: v for k, v in config_cells(trial).items() if v is not None} for trial in plan.trials},
        "proposed_later": plan.proposed_later,
        "places": sorted({stage.folder for trial in plan.trials for stage in trial.stages}),
        "host": socket.gethostname(),
        "made_at": time.time(),
    } | provenance()


def absolute_uri(uri: str) -> str:
    """A local path made absolute, as workers may start elsewhere; a URI as it is."""
    return uri if "://" in uri else str(Path(uri).expanduser().resolve())


def check_data(configs: Iterable[TrialConfig], file: str = "", decode: bool = True) -> None:
    """Read what users gave as data, and compare `train_samples` with the data, before anything starts.

    Args:
        configs: The trials.
        file: Of the search space.
        decode: Read published data whole, which decodes it once; otherwise its files are looked at as far as headers tell.

    Raises:
        ConfigError: With a fault for every task that cannot be run so.
    """
    faults: dict[str, Fault] = {}
    configs = tuple(configs)
    for name in sorted({config.proxy for config in configs if config.align.epochs > 0 or config.aligns_jointly}):
        try:
            proxy = find_proxy(name)
            proxy.check_files()
            if ":" in name and decode and proxy.loader:
                proxy.load()  # what users gave is read, too
        except DataError as error:
            faults |= {line: Fault("proxy", line.rstrip("."), Fault.ABSENT) for line in str(error).splitlines()}
    asked = {(config.task, config.split_seed, config.reference_data, config.train_samples): config.task_spec for config in configs}
    for (task, split_seed, reference, train_samples), spec in asked.items():
        if ":" not in task and train_samples is None and not spec.expects:
            continue  # data that comes with packages needs no look
        try:
            if spec.expects and not decode:
                spec.check_files()
                continue
            data = spec.load(split_seed, reference)
            if train_samples is not None:
                check_train_samples(data, train_samples, task)
        except DataError as error:
            faults |= {line: Fault("task", line.rstrip("."), Fault.ABSENT) for line in str(error).splitlines()}
        except ConfigError as error:
            faults |= {fault.text(): fault for fault in error.faults}
    if faults:
        raise ConfigError(faults.values(), file)


def check_room(uris: Iterable[str], least_gib: float, file: str = "") -> None:
    """That the disks of local places have room; object stores are not asked.

    Raises:
        ConfigError: If not.
    """
    faults, asked = [], set()
    for uri in uris:
        place = Path(uri).expanduser().resolve()
        if "://" in uri or least_gib == 0:
            continue
        while not place.exists():
            place = place.parent
        if (disk := place.stat().st_dev) in asked:
            continue
        asked.add(disk)
        free = shutil.disk_usage(place).free / 2**30
        if free < least_gib:
            remedy = f"Only {free:.2f} GiB are free there. Make room (`sweeper clean`), or lower the floor."
            faults.append(Fault("budget.free_gib", f"must be free on the disk of {uri}", least_gib, remedy))
    if faults:
        raise ConfigError(faults, file)


def check_adapters(configs: Iterable[TrialConfig], file: str = "") -> None:
    """Try every adapter on its body, before anything starts. Loads torch and peft if there is one, so `plan` leaves it to `run`.

    Raises:
        ConfigError: With a fault for every option that cannot be.
    """
    faults: dict[str, Fault] = {}
    for config in {(config.adapter, config.body.name): config for config in configs}.values():
        try:
            check_adapter(config.adapter, config.body_spec)
        except ConfigError as error:
            faults |= {fault.text(): fault for fault in error.faults}
    if faults:
        raise ConfigError(faults.values(), file)


def check_store(uri: str) -> None:
    """That the stage store can be written.

    Raises:
        ConfigError: If not.
    """
    try:
        store = Store(uri)
        probe = Address("probe", "probe", WHOLE)
        store.put(probe, {}, {})
        store.drop_folder("probe")
    except (StoreError, OSError) as error:
        raise ConfigError([Fault("--store", f"must be a place that can be written ({error})", Fault.ABSENT)]) from None


# ------------------------------------------------------------------------------------------------------------------------ trial


def run_one(settings: Mapping[str, Any], results_uri: str, store_uri: str | None, *, name: str | None, device: str, format: str) -> int:
    """Run one trial in this process. Exit code 1 if it failed."""
    if device not in ("cpu", "cuda"):
        raise ConfigError([Fault("--device", "must be cpu or cuda", device)])
    if format not in ("text", "json"):
        raise ConfigError([Fault("--format", "must be text or json", format)])
    if "task" not in settings:
        raise ConfigError([Fault("task", "must be given", Fault.ABSENT, "Example: --set task=digits; see `sweeper tasks`.")])
    if name is not None:
        faults = Faults()
        check_name(name, "--name", faults)
        faults.raise_if_any()
    config = resolve_config(settings)
    check_data([config])
    check_adapters([config])
    store = absolute_uri(store_uri or f"{results_uri.rstrip('/')}/artifacts")
    check_store(store)
    trial = plan_trial(config, device)
    recorder = None
    if name is not None:
        results = ResultStore(results_uri)
        recorder = Recorder(results, name, "valid_error")
        recorder.start(trial, device=device)
    from sweeper.running.execution import execute  # after all that can be wrong with the config: torch takes seconds to load

    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ConfigError([Fault("--device", "must be there: torch sees no CUDA device", device)])
    rows = execute(config, store, device=device)
    while True:
        try:
            row = next(rows)
        except StopIteration as stop:
            outcome: dict[str, Any] = stop.value
            break
        if recorder is not None:
            recorder.add_rows(trial.id, [row])
        sys.stdout.write((json.dumps(row) if format == "json" else _row_as_text(row)) + "\n")
        sys.stdout.flush()
    if recorder is not None:
        recorder.end(trial.id, outcome | {"ray_version": None})
        recorder.flush()
    _print_outcome(trial.id, outcome, format)
    return 1 if outcome["status"] == "FAIL" else 0


def _print_outcome(trial: str, outcome: Mapping[str, Any], format: str) -> None:
    if format == "json":
        sys.stdout.write(json.dumps({"table": "trials", "trial": trial} | dict(outcome)) + "\n")
        return
    if outcome["status"] == "FAIL":
        sys.stderr.write(outcome["traceback"])
    cells = {key: value for key, value in outcome.items() if key != "traceback"}
    sys.stdout.write(f"trial {trial}: " + ", ".join(f"{key} {_short(value)}" for key, value in cells.items()) + "\n")


def _row_as_text(row: Mapping[str, Any]) -> str:
    skipped = ("table", "stage", "phase", "epoch", "key", "label_distances")
    cells = ", ".join(f"{key} {_short(value)}" for key, value in row.items() if key not in skipped)
    return f"{row['stage']:<9} {'whole' if row['table'] == 'stages' else row['epoch']:>5}  {cells}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
