"""The table of all trials."""

from __future__ import annotations

from sweeper.analysis.factors import KNOB_OF, cell
from sweeper.results.store import results_option
from sweeper.results.views import shown_status
from sweeper.show.report.arms import knob_cell
from sweeper.show.report.content import Block, Listing, Paragraph, Section, Table, count_cell, number_cell, text_cell
from sweeper.show.report.material import Material, quote_sql

MAX_TRIALS = 2000
"""How many trials are listed: of more, a page would take megabytes."""

_WORDS = {"PRUNED": "stopped early", "FAIL": "failed"}


def trials_section(material: Material) -> Section:
    """Every trial that has begun, with its settings and errors."""
    title = "All trials"
    if not material.rows:
        return Section("trials", title, [Paragraph("No trial has begun.")])
    several = len(material.tasks) > 1
    knobs = [knob for knob in material.varied if len({str(cell(row, knob)) for row in material.rows}) > 1]
    roles = len({row["role"] for row in material.rows}) > 1
    columns = ["trial", *(["task"] if several else []), *(KNOB_OF.get(knob, knob) for knob in knobs), *(["role"] if roles else []), "seed"]
    columns += ["status", "best epoch", "validation error", "test error", "seconds"]
    rows = [
        [
            text_cell(row["trial"]),
            *([text_cell(row["task"])] if several else []),
            *(knob_cell(cell(row, knob)) for knob in knobs),
            *([text_cell(row["role"])] if roles else []),
            count_cell(row["seed"]),
            text_cell(_WORDS.get(shown_status(row), shown_status(row).lower()) if row["status"] else "unknown"),
            count_cell(row["best_epoch"]),
            number_cell(row["valid_error"]),
            number_cell(row["test_error"]),
            number_cell(row["seconds"]),
        ]
        for row in material.rows[:MAX_TRIALS]
    ]
    blocks: list[Block] = [Table("all-trials", "Trials that have begun", columns, rows, is_for_papers=False)]
    if len(material.rows) > MAX_TRIALS:
        blocks.append(Paragraph(f"The first {MAX_TRIALS} of {len(material.rows)} trials are shown.", "warning"))
    sql = f'"select * from trial_status where sweep = {quote_sql(material.name)} and in_plan"'
    command = f"sweeper query{results_option(material.workspace.uri)} {sql} --format csv -o trials.csv"
    blocks.append(Listing("All columns of all trials", command))
    return Section("trials", title, blocks)
