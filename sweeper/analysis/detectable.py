"""What seeds can show before they are run: the spread of paired differences in earlier results, and the least difference that it leaves.

Arms of a seed share its draws, so what counts is the spread of differences between arms. It is estimated from all earlier arms of a task
and body, by what is left of their errors once the mean of each arm and of each seed is taken away.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sweeper.analysis.paired import POWER, difference_power, least_detectable
from sweeper.results.query import Results
from sweeper.results.store import ResultStore

MIN_DF = 3
"""Minimum number of degrees of freedom of a spread that is stated."""


@dataclass(frozen=True)
class Spread:
    """The spread of paired differences of two arms.

    Args:
        sd: Standard deviation of the difference of two arms from seed to seed.
        arms: Number of earlier arms that it is estimated from.
        df: Degrees of freedom of the estimate.
    """

    sd: float
    arms: int
    df: int

    def detectable(self, seeds: int) -> float:
        """The least difference that so many seeds show with a probability of 80 %."""
        return self.sd * least_detectable(seeds)

    def seeds_for(self, difference: float, most: int = 1000) -> int | None:
        """The number of seeds that show a difference with a probability of 80 %; None if it is above `most`."""
        import numpy as np

        if self.sd == 0:
            return 2
        n = np.arange(2, most + 1)
        enough = difference_power(difference / self.sd, n) >= POWER
        return int(n[np.argmax(enough)]) if enough.any() else None


def spreads(results: ResultStore, pairs: Iterable[tuple[str, str]], metric: str = "test_error") -> dict[tuple[str, str], Spread]:
    """(task, body) -> the spread in the complete trials of all sweeps; without those of which too little is known.

    Args:
        results: The result tables.
        pairs: Tasks with names of bodies.
        metric: The column that is to be compared.
    """
    wanted = set(pairs)
    if not wanted or not results.sweeps():
        return {}
    names = ", ".join("'" + task.replace("'", "''") + "'" for task in sorted({task for task, _ in wanted}))
    rows = Results(results).sql(
        f"select task, body_name, sweep, arm, candidate, split_seed, seed, {metric} as value from trials "
        f"where task in ({names}) and reused_from is null and isfinite({metric})"
    )
    blocks: dict[tuple[str, str], dict[Any, dict[Any, dict[Any, float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    for row in rows.rows():
        if (row["task"], row["body_name"]) in wanted:
            block, arm = (row["sweep"], row["split_seed"]), (row["arm"], row["candidate"])
            blocks[row["task"], row["body_name"]][block][arm][row["seed"]] = row["value"]
    found = {}
    for pair, of_pair in blocks.items():
        parts = [_residual(arms) for arms in of_pair.values()]
        df = sum(part[1] for part in parts)
        if df >= MIN_DF:
            found[pair] = Spread(math.sqrt(2 * math.fsum(part[0] for part in parts) / df), sum(part[2] for part in parts), df)
    return found


def _residual(arms: Mapping[Any, Mapping[Any, float]]) -> tuple[float, int, int]:
    """Sum of squares, degrees of freedom and number of arms, of errors without the means of arms and seeds; of arms that have all seeds."""
    import numpy as np

    seeds = sorted({seed for of_arm in arms.values() for seed in of_arm})
    whole = [[of_arm[seed] for seed in seeds] for of_arm in arms.values() if len(of_arm) == len(seeds)]
    if len(whole) < 2 or len(seeds) < 2:
        return 0.0, 0, 0
    table = np.array(whole)
    rest = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    return float(np.sum(rest**2)), (len(whole) - 1) * (len(seeds) - 1), len(whole)
