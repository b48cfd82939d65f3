"""False verdicts of `sweeper compare` on real trials: two levels of a knob that make no difference, drawn again and again from one pool.

    python benchmarks/null_sweeps.py --results null-sweeps

The pool is a real sweep: 60 seeds of short trials on `mnist1d`, whose test error is far from 0, with two learning rates that differ by a
ten-thousandth of themselves. Each null sweep is a draw of seeds from the pool, without replacement within the sweep; sweeps share seeds, so
they are not independent, and the bound is what independent ones would have. The pool is not sampled anew: what is measured is whether
verdicts are calibrated for differences as real training has them, which are neither normal nor continuous. Exit code 1 if there are more
false verdicts than the bound.
"""

from __future__ import annotations

import argparse
import sys
from random import Random

from scipy.stats import binom

from sweeper import Results, load_space, run
from sweeper.analysis import effects

SEEDS, LR = 60, 3e-3
SPACE = {
    "name": "null-pool",
    "description": "Does a ten-thousandth of the learning rate matter?",
    "base": {"task": "mnist1d", "train_samples": 1000, "finetune.epochs": 8, "align.epochs": 0, "body.weights": "random"},
    "space": {"finetune.lr": {"grid": [LR, LR * (1 + 1e-4)]}},
    "seeds": SEEDS,
    "floors": False,
    "keep": "none",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", default="null-sweeps", help="folder of the pool; a pool that is there already is used")
    parser.add_argument("--sweeps", type=int, default=100, help="null sweeps drawn for each number of seeds")
    parser.add_argument("--seeds", type=int, nargs="+", default=(3, 5, 10))
    arguments = parser.parse_args()
    if code := run(load_space(SPACE), arguments.results):
        return code
    pool = Results(arguments.results).sql("from trials where sweep = 'null-pool'").arrow()
    (all_seeds,) = [row for row in effects(pool, "finetune.lr", LR).to_pylist() if row["task"] is not None]
    print(f"pool: {all_seeds['n']} seeds, difference {all_seeds['difference']:+.4f}, deviation of differences {all_seeds['sd']:.4f}")
    bound = int(binom.ppf(0.975, arguments.sweeps, 0.05))
    random, worst = Random(0), 0
    for n in arguments.seeds:
        verdicts = []
        for _ in range(arguments.sweeps):
            drawn = set(random.sample(range(SEEDS), n))
            rows = pool.filter([seed in drawn for seed in pool["seed"].to_pylist()])
            verdicts.append(effects(rows, "finetune.lr", LR).to_pylist()[0]["verdict"])
        false = sum(verdict in ("helps", "hurts") for verdict in verdicts)
        worst = max(worst, false)
        counts = ", ".join(f"{verdict} {verdicts.count(verdict)}" for verdict in dict.fromkeys(verdicts))
        print(f"{n} seeds: {false} of {arguments.sweeps} null sweeps have a false verdict (bound {bound}); {counts}")
    return 1 if worst > bound else 0


if __name__ == "__main__":
    sys.exit(main())
