"""Cost of telling a planner one score, compared with planning the entire sweep again from all scores.

    python benchmarks/planning.py
    python benchmarks/planning.py --arms 100 --candidates 50

Plans a sweep under `tpe`: arms x candidates x seeds. Its trials end one after another, and the planner is told each score. Every tenth
time, the sweep is also planned again from the same scores, as a driver without state would have to. Times are CPU times of
this process.
"""

from __future__ import annotations

import argparse
import statistics
import time

from sweeper.planning.planner import Planner, make_plan
from sweeper.space.reading import parse_space


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", type=int, default=20)
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    space = parse_space(
        {
            "name": "planning",
            "base": {"task": "digits"},
            "space": {
                "align.epochs": {"grid": list(range(arguments.arms))},
                "finetune.lr": {"loguniform": [1e-5, 1e-1]},
                "finetune.dropout": {"uniform": [0.0, 0.5]},
            },
            "search": {"algorithm": "tpe", "trials": arguments.candidates},
            "seeds": arguments.seeds,
        }
    )
    started = time.process_time()
    planner = Planner(space)
    first = time.process_time() - started
    waiting = [trial.id for trial in planner.plan.trials]
    told, proposing, anew, scores = [], [], [], {}
    while waiting:
        trial = waiting.pop(0)
        scores[trial] = (int(trial[:8], 16) % 1000) / 1000
        started = time.process_time()
        proposed = planner.tell(trial, scores[trial])
        told.append(time.process_time() - started)
        if proposed:
            proposing.append(told[-1])
        waiting += [new.id for new in proposed]
        if len(told) % 10 == 0:
            started = time.process_time()
            make_plan(space, scores)
            anew.append(time.process_time() - started)
    milliseconds = {"told": told, "told, and a candidate proposed": proposing, "planned anew": anew}
    print(f"{len(scores)} trials: {arguments.arms} arms x {arguments.candidates} candidates x {arguments.seeds} seeds")
    print(f"{'first plan':<32} {first * 1e3:9.2f} ms")
    for label, seconds in milliseconds.items():
        print(f"{label:<32} {statistics.median(seconds) * 1e3:9.3f} ms median, {max(seconds) * 1e3:9.2f} ms at most")
    print(f"{'anew / told, means':<32} {statistics.mean(anew) / statistics.mean(told):9.0f} x")


if __name__ == "__main__":
    main()
