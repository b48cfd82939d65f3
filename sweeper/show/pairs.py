"""What `soup --kind flip` prints: each pair beside its two trials."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sweeper.running.derived import Made
from sweeper.running.pairs import Pair
from sweeper.show.tables import terminal_width, text_table

if TYPE_CHECKING:
    import pyarrow as pa


def pairs_to_table(made: Sequence[Made[Pair]]) -> pa.Table:
    """A line for each pair: its errors, and those of the trial that reads forwards and of the one that reads backwards."""
    import pyarrow as pa

    return pa.Table.from_pylist([_line(one) for one in made])


def _line(one: Made[Pair]) -> dict[str, Any]:
    forwards, backwards = one.of.rows
    scores = ("valid_error", "test_error")
    return {
        **{"trial": one.row["trial"], "task": forwards["task"], "seed": forwards["seed"]},
        **{"forwards": forwards["trial"], "backwards": backwards["trial"]},
        **{score: one.row[score] for score in scores},
        **{f"forwards_{score}": forwards[score] for score in scores},
        **{f"backwards_{score}": backwards[score] for score in scores},
        **{"seconds": one.row["seconds"], "news": one.news},
    }


def describe_pairs(made: Sequence[Made[Pair]]) -> str:
    """The pairs as text."""
    lines, text = [_line(one) for one in made], ""
    columns = ("trial", "seed", "test_error", "forwards_test_error", "backwards_test_error")
    for task in dict.fromkeys(line["task"] for line in lines):
        text += f"{task}: test error of the mean answer of two models, of the one that reads forwards, of the one that reads from the end\n"
        rows = [[line[column] for column in columns] for line in lines if line["task"] == task]
        text += text_table(["pair", "seed", "its error", "forwards", "from the end"], rows, terminal_width())
    counts = Counter(line["news"] for line in lines)
    text += f"{', '.join(f'{number} {news}' for news, number in counts.items())}.\n"
    note = "Pairs are rows of the role `derived`, in the views trial_status and all_trials alone: see docs/exports.md."
    return text + textwrap.fill(note, terminal_width(), break_on_hyphens=False, break_long_words=False) + "\n"
