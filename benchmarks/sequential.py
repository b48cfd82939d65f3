"""Seeds until decided, by simulation: rates of wrong verdicts, agreement with a fixed number of seeds, and what is saved.

    python benchmarks/sequential.py                 # all tables; about two minutes
    python benchmarks/sequential.py --contrasts 500 # quicker, less exact

The verdicts of the group-sequential tests are those of `sweeper.analysis.sequential`, which a sweep calls. They are compared with
those of twelve fixed seeds, which are `sweeper.analysis.paired`'s, as `sweeper compare` gives them; and with anytime-valid t tests, which
need no planned looks (Wang & Ramdas, arXiv 2310.03722). Deviations are 1, so effects and margins are in deviations of a paired difference.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from sweeper.analysis import paired
from sweeper.analysis.sequential import Look, decide, judge_alone
from sweeper.space.questions import list_looks

EFFECTS = (0.0, 1.0, 1.5, 2.0)
MARGIN = 1.2
FIRST, MOST = 3, 12
ALPHA = 0.05

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

NOISES: dict[str, Draw] = {
    "normal": lambda random, shape: random.standard_normal(shape),
    "t with 4 degrees": lambda random, shape: random.standard_t(4, shape) / math.sqrt(2),
    "exponential": lambda random, shape: random.exponential(1, shape) - 1,
    "difference of two exponentials": lambda random, shape: random.laplace(0, math.sqrt(0.5), shape),
}


VERDICTS = {-1: paired.HELPS, 0: paired.NO_DIFFERENCE, 1: paired.HURTS, 2: paired.UNDECIDED}


@dataclass(frozen=True)
class Outcome:
    """The verdict on a simulated contrast, and the seeds it took."""

    verdict: str
    seeds: int


def fixed(differences: np.ndarray) -> list[str]:
    """Verdicts of all seeds at once, each contrast by itself."""
    t, same = paired.paired_t(differences), paired.equivalence(differences, MARGIN)
    return [paired.decide(float(mean), float(p), float(q), False, ALPHA) for mean, p, q in zip(t.mean, t.p, same, strict=True)]


def grouped(differences: np.ndarray, looks: Sequence[int]) -> list[Outcome]:
    """Group-sequential verdicts, each contrast by itself. The first hundred are made a second time, by what a sweep calls."""
    verdicts, seeds = judge_alone(differences, MARGIN, looks, ALPHA)
    found = [Outcome(VERDICTS[int(verdict)], int(end)) for verdict, end in zip(verdicts, seeds, strict=True)]
    for values, outcome in zip(differences[:100], found, strict=False):
        decision = decide({0: [Look(values[:look], MARGIN) for look in looks]}, looks, ALPHA)[0]
        assert (decision.verdict, decision.seeds) == (outcome.verdict, outcome.seeds)
    return found


def anytime(differences: np.ndarray, prior: float) -> list[Outcome]:
    """Anytime-valid verdicts with a look after every seed.

    Args:
        differences: (contrasts, seeds).
        prior: Variance of the normal mixture over effects, in squared deviations.
    """
    numbers = np.arange(1, differences.shape[1] + 1)

    def evidence(values: np.ndarray) -> np.ndarray:
        squares, total = np.cumsum(values**2, axis=1), np.cumsum(values, axis=1)
        ratio = squares / (squares - total**2 / (numbers + 1 / prior))
        return np.sqrt(1 / (1 + numbers * prior)) * ratio ** (numbers / 2)

    means = np.cumsum(differences, axis=1) / numbers
    different = evidence(differences) >= 1 / ALPHA
    one_sided = 1 / (2 * ALPHA)
    same = (evidence(differences - MARGIN) >= one_sided) & (evidence(differences + MARGIN) >= one_sided) & (np.abs(means) < MARGIN)
    found = []
    for row in range(len(differences)):
        at = next((n for n in range(FIRST - 1, MOST) if different[row, n] or same[row, n]), None)
        if at is None:
            found.append(Outcome(paired.UNDECIDED, MOST))
        elif different[row, at]:
            found.append(Outcome(paired.HELPS if means[row, at] < 0 else paired.HURTS, at + 1))
        else:
            found.append(Outcome(paired.NO_DIFFERENCE, at + 1))
    return found


def draw(random: np.random.Generator, effect: float, contrasts: int, noise: str = "normal") -> np.ndarray:
    """(contrasts, MOST) differences, where the level has the lower error by `effect`."""
    return NOISES[noise](random, (contrasts, MOST)) - effect


def show(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a Markdown table."""
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(f'{cell:.3f}' if isinstance(cell, float) else str(cell) for cell in row)} |")


def compare_methods(contrasts: int) -> None:
    """Effects in equal parts: agreement with twelve seeds among what is decided, and the share of trials."""
    print(f"\n## Effects of 0, 1, 1.5 and 2 deviations in equal parts, margin {MARGIN}, {4 * contrasts} contrasts")
    looks = list_looks(FIRST, MOST)
    methods: dict[str, Callable[[np.ndarray], list[Outcome]]] = {f"group-sequential, looks {looks}": lambda d: grouped(d, looks)}
    methods |= {f"anytime-valid, prior variance {prior:g}": partial(anytime, prior=prior) for prior in (0.5, 1, 2, 4)}
    rows, by_effect = [], []
    for name, method in methods.items():
        random = np.random.default_rng(1)
        agree = decided = seeds = wrong = 0
        for effect in EFFECTS:
            differences = draw(random, effect, contrasts)
            outcomes, against = method(differences), fixed(differences)
            pairs = [(one.verdict, other) for one, other in zip(outcomes, against, strict=True) if one.verdict != paired.UNDECIDED]
            agree += sum(one == other for one, other in pairs)
            decided += len(pairs)
            seeds += sum(one.seeds for one in outcomes)
            counted = Counter(one.verdict for one in outcomes)
            other = Counter(against)
            false = counted[paired.HURTS] + (counted[paired.HELPS] if effect == 0 else 0)
            false += counted[paired.NO_DIFFERENCE] if effect >= MARGIN else 0
            wrong += false
            by_effect.append(
                [name, effect, sum(one.seeds for one in outcomes) / contrasts, false / contrasts]
                + [counted[verdict] / contrasts for verdict in (paired.HELPS, paired.NO_DIFFERENCE, paired.UNDECIDED)]
                + [other[verdict] / contrasts for verdict in (paired.HELPS, paired.NO_DIFFERENCE, paired.UNDECIDED)]
            )
        total = 4 * contrasts
        rows.append([name, agree / decided, decided / total, seeds / total / MOST, wrong / total])
    show(["method", "agrees with 12 seeds where decided", "decided", "share of the trials", "wrong verdicts"], rows)
    verdicts = ["helps", "no difference", "undecided"]
    show(["method", "effect", "seeds", "wrong", *verdicts, *(f"{verdict}, 12 seeds" for verdict in verdicts)], by_effect)


def wrong_verdicts(contrasts: int) -> None:
    """Contrasts at the edges of what may be called different or the same: how often either is wrong."""
    print(f"\n## Wrong verdicts, {contrasts} contrasts each; 0.05 + 2 standard errors: {0.05 + 2 * math.sqrt(0.05 * 0.95 / contrasts):.4f}")
    rows = []
    for noise in NOISES:
        for first, most in ((3, 12), (3, 6), (5, 10)):
            random, looks = np.random.default_rng(2), list_looks(first, most)
            null = grouped(draw(random, 0.0, contrasts, noise), looks)
            edge = grouped(draw(random, MARGIN, contrasts, noise), looks)
            rows.append(
                [
                    noise,
                    str(looks),
                    sum(one.verdict in (paired.HELPS, paired.HURTS) for one in null) / contrasts,
                    sum(one.verdict == paired.NO_DIFFERENCE for one in edge) / contrasts,
                ]
            )
    show(["differences", "looks", "different, without a difference", "the same, at the margin"], rows)


def families(number: int) -> None:
    """Families of contrasts with one baseline in common: how often any verdict of a family is wrong."""
    print(f"\n## Families with one baseline, {number} each: how often any verdict is wrong")
    rows, looks = [], list_looks(FIRST, MOST)
    cases = {
        "3 without a difference": [0.0] * 3,
        "8 without a difference": [0.0] * 8,
        "4 without, 4 of 2 deviations": [0.0] * 4 + [2.0] * 4,
    }
    cases |= {"8 at the margin": [MARGIN] * 8, "4 without, 4 at the margin": [0.0] * 4 + [MARGIN] * 4}
    for name, effects in cases.items():
        random = np.random.default_rng(3)
        different = same = seeds = 0
        for _ in range(number):
            arms = random.standard_normal((len(effects) + 1, MOST)) / math.sqrt(2)
            values = arms[1:] - arms[0] - np.array(effects)[:, None]
            family = {key: [Look(of_key[:look], MARGIN) for look in looks] for key, of_key in enumerate(values)}
            decisions = decide(family, looks, ALPHA)
            different += any(effects[key] == 0 and one.verdict in (paired.HELPS, paired.HURTS) for key, one in decisions.items())
            same += any(effects[key] >= MARGIN and one.verdict == paired.NO_DIFFERENCE for key, one in decisions.items())
            of_level = [one.seeds for one in decisions.values()]
            seeds += sum(of_level) + max(of_level)
        rows.append([name, different / number, same / number, seeds / number / MOST / (len(effects) + 1)])
    show(["family", "any wrongly different", "any wrongly the same", "share of the trials"], rows)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contrasts", type=int, default=10_000, help="simulated contrasts per case")
    contrasts = parser.parse_args().contrasts
    compare_methods(contrasts // 4)
    wrong_verdicts(contrasts)
    families(contrasts // 10)


if __name__ == "__main__":
    main()
