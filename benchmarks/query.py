"""A grouped aggregate over ten million metric rows, by itself and compared with the same question to Optuna's storage.

    python benchmarks/query.py --rows 10000000 --optuna-rows 200000

Rows are written by the code that writes a sweep's rows, compacted, then queried once to warm the disk cache and five more times, in one
process, which keeps its connection; printed are the best and worst of these, and the median of their CPU seconds. The query runs with the
tables in either order, and again after a tenth of the trials have had a second attempt, which supersedes a tenth of the rows: before and
after they are compacted. Optuna stores the same numbers as intermediate values in SQLite, for `--optuna-rows` rows; its answer is computed
from `study.get_trials()`, as its API intends.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from statistics import median
from typing import Any

from sweeper import Results
from sweeper.results.store import ResultStore

EPOCHS = 1000
ARMS = ("full", "frozen-body", "frozen-embedder", "frozen-both", "layernorm")
QUESTION = "select freezing, epoch // 100 as hundred, avg(metrics.valid_error) as error from {} join {} using (sweep, trial) group by all"


def trial_rows(number: int, attempt: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a trial's row and its epoch rows."""
    draws = random.Random(number)
    key = {"trial": f"{number:016x}", "attempt": attempt}
    trial = key | {"sequence": 1, "status": "COMPLETE", "in_plan": True, "task": "digits", "seed": number}
    trial["freezing"] = ARMS[number % len(ARMS)]
    shared = key | {"stage": "finetune", "phase": 0, "lr": 1e-3, "seconds": 1.0}
    names = ("train_loss", "valid_loss", "valid_error", "test_error")
    epochs = [shared | {"epoch": epoch} | {name: draws.random() for name in names} for epoch in range(1, EPOCHS + 1)]
    return trial, epochs


def write(store: ResultStore, numbers: range, attempt: int) -> None:
    """Write trials in batches, as a sweep does."""
    for first in range(0, len(numbers), 200):
        trials, metrics = [], []
        for number in numbers[first : first + 200]:
            trial, epochs = trial_rows(number, attempt)
            trials.append(trial)
            metrics += epochs
        store.append("trials", "s", trials)
        store.append("metrics", "s", metrics)


def timed(ask: Callable[[], Any], times: int = 5) -> tuple[Any, str]:
    """Return the answer, and the best and worst seconds of repeated queries with the median of their CPU seconds."""
    answer = ask()
    seconds, cpu = [], []
    for _ in range(times):
        started, used = time.perf_counter(), time.process_time()
        ask()
        seconds.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
    return answer, f"{min(seconds):.3f} to {max(seconds):.3f} s (CPU {median(cpu):.3f} s)"


def timed_query(store: ResultStore, *tables: str) -> tuple[dict[tuple[str, int], float], str]:
    """Return the answer to the question, with the tables joined in this order, and what `timed` says."""
    rows, seconds = timed(lambda: Results(store.uri).sql(QUESTION.format(*tables)).rows())
    return {(row["freezing"], row["hundred"]): row["error"] for row in rows}, seconds


def check_equal(answer: dict[tuple[str, int], float], expected: dict[tuple[str, int], float]) -> None:
    """Check that two answers agree up to the order of summation."""
    assert answer.keys() == expected.keys()
    assert all(abs(answer[key] - expected[key]) < 1e-12 for key in answer)


def ask_optuna(study: Any) -> dict[tuple[str, int], float]:
    """Answer the same question from an Optuna study."""
    sums: defaultdict[tuple[str, int], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for trial in study.get_trials(deepcopy=False):
        for epoch, value in trial.intermediate_values.items():
            entry = sums[trial.params["freezing"], epoch // 100]
            entry[0] += value
            entry[1] += 1
    return {key: total / count for key, (total, count) in sums.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--optuna-rows", type=int, default=200_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store, trials = ResultStore(f"{folder}/results"), arguments.rows // EPOCHS
        write(store, range(trials), 1)
        store.compact("s")
        answer, seconds = timed_query(store, "metrics", "trials")
        print(f"{arguments.rows:,} metric rows of {trials:,} trials, {len(answer)} groups: {seconds}", flush=True)
        turned, seconds = timed_query(store, "trials", "metrics")
        check_equal(turned, answer)
        print(f"the same with the tables in the other order: {seconds}", flush=True)
        write(store, range(0, trials, 10), 2)
        for state in ("before", "after"):
            again, seconds = timed_query(store, "metrics", "trials")
            check_equal(again, answer)
            print(f"the same with a tenth of the trials superseded, {state} compaction: {seconds}", flush=True)
            store.compact("s")

        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        few = arguments.optuna_rows // EPOCHS
        small = ResultStore(f"{folder}/small")
        write(small, range(few), 1)
        small.compact("s")
        expected, ours = timed_query(small, "metrics", "trials")
        study = optuna.create_study(storage=f"sqlite:///{folder}/optuna.db")
        kinds = {"freezing": optuna.distributions.CategoricalDistribution(ARMS)}
        for number in range(few):
            trial, epochs = trial_rows(number, 1)
            values = {row["epoch"]: row["valid_error"] for row in epochs}
            params = {"freezing": trial["freezing"]}
            study.add_trial(optuna.trial.create_trial(params=params, distributions=kinds, value=0.0, intermediate_values=values))
        # A new study object each time: a reused one answers from memory.
        name = study.study_name
        found, theirs = timed(lambda: ask_optuna(optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/optuna.db")), times=3)
        check_equal(found, expected)
        print(f"{few * EPOCHS:,} rows: {ours} here, {theirs} in Optuna's SQLite storage")


if __name__ == "__main__":
    main()
