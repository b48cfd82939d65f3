"""What `soup --kind wise` prints: each trial by alpha, and the alpha that validation chooses."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sweeper.running.derived import Made
from sweeper.running.interpolations import Point
from sweeper.show.tables import terminal_width, text_table

if TYPE_CHECKING:
    import pyarrow as pa


def interpolations_to_table(made: Sequence[Made[Point]]) -> pa.Table:
    """A line for each trial and alpha; `is_chosen` where the validation error is lowest, of equals at the higher alpha."""
    import pyarrow as pa

    chosen = {id(one) for of_trial in _by_trial(made) for one in [_chosen(of_trial)]}
    return pa.Table.from_pylist([_line(one) | {"is_chosen": id(one) in chosen, "news": one.news} for one in made])


def _line(one: Made[Point]) -> dict[str, Any]:
    row, member = one.row, one.of.member
    columns = {name: member[name] for name in ("task", "arm", "seed")}
    return {"trial": row["trial"], "member": member["trial"], **columns, "alpha": row["alpha"]} | {
        score: row[score] for score in ("valid_error", "test_error")
    }


def _by_trial(made: Sequence[Made[Point]]) -> list[list[Made[Point]]]:
    trials = dict.fromkeys(one.of.member["trial"] for one in made)
    return [[one for one in made if one.of.member["trial"] == trial] for trial in trials]


def _chosen(of_trial: Sequence[Made[Point]]) -> Made[Point]:
    """The point that is best on validation; of equals the one nearest to the end, which is what fine-tuning gave."""
    return min(of_trial, key=lambda one: (one.row["valid_error"], -one.row["alpha"]))


def describe_interpolations(made: Sequence[Made[Point]]) -> str:
    """The points as text."""
    text = ""
    for task in dict.fromkeys(one.of.member["task"] for one in made):
        of_task = [one for one in made if one.of.member["task"] == task]
        alphas = sorted({one.row["alpha"] for one in of_task})
        text += f"{task}: test error from the start of fine-tuning (alpha 0) to its end (1), and where the validation error is lowest\n"
        lines = []
        for of_trial in _by_trial(of_task):
            errors = {one.row["alpha"]: one.row["test_error"] for one in of_trial}
            best = _chosen(of_trial).row
            lines.append([of_trial[0].of.member["trial"], *(errors.get(alpha) for alpha in alphas), best["alpha"], best["test_error"]])
        text += text_table(["trial", *(f"{alpha:g}" for alpha in alphas), "chosen", "its error"], lines, terminal_width())
    counts = Counter(one.news for one in made)
    text += f"{', '.join(f'{number} {news}' for news, number in counts.items())}.\n"
    note = "Interpolations are rows of the role `derived`, in the views trial_status and all_trials alone: see docs/exports.md."
    return text + textwrap.fill(note, terminal_width(), break_on_hyphens=False, break_long_words=False) + "\n"
