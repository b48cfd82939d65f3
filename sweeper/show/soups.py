"""What `soup` prints: each soup beside its members."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sweeper.analysis.factors import KNOB_OF
from sweeper.results.store import results_option
from sweeper.running.derived import Made
from sweeper.running.soups import Group
from sweeper.show.tables import terminal_width, text_table

if TYPE_CHECKING:
    import pyarrow as pa


def soups_to_table(made: Sequence[Made[Group]]) -> pa.Table:
    """A line for each soup: what it is, what it scores, and its members beside it."""
    import pyarrow as pa

    return pa.Table.from_pylist([_line(one) for one in made])


def _line(made: Made[Group]) -> dict[str, Any]:
    row, members = made.row, made.of.rows
    best, scores = members[0], ("valid_error", "test_error")
    return {
        **{"trial": row["trial"], "task": members[0]["task"], "arm": made.of.common.get("arm"), "seed": made.of.common.get("seed")},
        **{"members": len(members), "averaged": len(row["averaged"]), "shares_start": row["shares_start"]},
        **{score: row[score] for score in scores},
        **{f"members_{score}": math.fsum(member[score] for member in members) / len(members) for score in scores},
        **{f"best_{score}": best[score] for score in scores},
        **{"seconds": row["seconds"], "news": made.news},
    }


def describe_soups(name: str, made: Sequence[Made[Group]], uri: str) -> str:
    """The soups as text, and what they may be compared with.

    Args:
        name: Name of the sweep.
        made: Its soups.
        uri: Where the results are, as given.
    """
    lines = [_line(one) for one in made]
    text = ""
    for task in dict.fromkeys(line["task"] for line in lines):
        text += f"{task}: test error of soups ({made[0].of.kind}), of their members, and of the member that is best on validation\n"
        rows = [
            [
                *(line["trial"], f"{line['averaged']} of {line['members']}", line["test_error"], line["members_test_error"]),
                *(line["best_test_error"], _settings(one.of)),
            ]
            for line, one in zip(lines, made, strict=True)
            if line["task"] == task
        ]
        text += text_table(["soup", "averaged", "its error", "members", "best", "members are"], rows, terminal_width())
    counts = Counter(one.news for one in made)
    text += f"{', '.join(f'{number} {news}' for news, number in counts.items())}.\n"
    notes = []
    others = sum(not line["shares_start"] for line in lines)
    if others:
        of_all = "The members" if others == len(lines) else f"Of {others} of {len(lines)} soups the members"
        notes.append(
            f"{of_all} began fine-tuning from different weights, as with another seed, alignment or body: the average of such is rarely "
            f'any good. Trials of one seed may share their start: sweeper soup {name}{results_option(uri)} --where "seed = 0 and ..."'
        )
    notes.append("Soups are rows of the role `derived`, in the views trial_status and all_trials alone: see docs/exports.md.")
    filled = (textwrap.fill(note, terminal_width(), break_on_hyphens=False, break_long_words=False) for note in notes)
    return text + "".join(f"{note}\n" for note in filled)


def _settings(group: Group) -> str:
    """What the members of a soup have in common, of what the sweep varies, and in what they differ."""
    common, differ = [], []
    for column in group.varied:
        if column not in group.common:
            differ.append(KNOB_OF[column])
        elif group.common[column] is not None:
            common.append(f"{KNOB_OF[column]} {group.common[column]}")
    return "; ".join(part for part in (", ".join(common), f"differ in {', '.join(differ)}" if differ else "") if part)
