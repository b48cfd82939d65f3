"""The best arms of each task beside the models that need no transformer, and the config that runs the best one again."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from orca_core.errors import OrcaError
from orca_core.floors.rows import COMPLETE, SIMPLE_FIRST, FloorCase
from sweeper.analysis.arms import RankedArm
from sweeper.analysis.factors import KNOB_OF, cell, spell_value
from sweeper.analysis.floors import Floors
from sweeper.analysis.published import CAUTION
from sweeper.analysis.resolution import describe_resolution
from sweeper.planning.rerun import arm_space
from sweeper.results.store import results_option
from sweeper.running.configs_of_rows import config_of_row
from sweeper.show.published import beside_arms
from sweeper.show.report.answers import in_words
from sweeper.show.report.content import Block, Cell, Listing, Paragraph, Section, Table, count_cell, number_cell, text_cell
from sweeper.show.report.ids import Ids
from sweeper.show.report.material import Material


def arms_section(material: Material, ids: Ids) -> Section:
    """The best arms and the floors, task by task."""
    title = "Best arms, and models that need no transformer"
    ranking = material.ranking
    if ranking is None:
        waits = Paragraph("No arm has all of its trials complete, so none is ranked yet.")
        return Section("arms", title, [waits], [_task_section(material, task, (), ids) for task in material.tasks])
    rule = f"Arms are ranked by {in_words(ranking.metric)}, the mean over seeds; only arms with all of their seeds complete are ranked."
    if material.arms.is_tuned:
        rule += " A tuned arm stands for its best candidate" + (", run again on fresh seeds." if _has_replicates(material) else ".")
    rule += " ± is half of the 95 % interval over seeds (Student's t)."
    tasks = [_task_section(material, task, ranking.arms.get(task, ()), ids) for task in material.tasks]
    return Section("arms", title, [Paragraph(rule, "note")], tasks)


def _has_replicates(material: Material) -> bool:
    return any(arm.replicated is not None for arm in material.arms.arms)


def slug(text: str) -> str:
    """A text as a name within the report."""
    return "".join(letter.lower() if letter.isascii() and letter.isalnum() else "-" for letter in text).strip("-")


def _task_section(material: Material, task: str, arms: Sequence[RankedArm], ids: Ids) -> Section:
    blocks: list[Block] = []
    name = f"task-{material.tasks.index(task)}-{slug(task)}"
    if arms:
        assert material.ranking is not None
        blocks.append(_arms_table(material, f"{name}-arms", task, arms, ids))
        if unranked := material.ranking.unranked(task):
            text = f"Not ranked, as not all of their seeds are complete: {unranked} of {unranked + len(arms)} arms."
            blocks.append(Paragraph(text, "note"))
        if any(arm.line["at_majority"] for arm in arms):
            blocks.append(Paragraph("An arm marked “constant” does no better than a constant answer: it has learned nothing.", "note"))
        blocks += [Paragraph(text, "note") for text in describe_resolution(material.ranking.metric, [arm.rows for arm in arms])]
    blocks += _floor_blocks(material, f"{name}-floors", task, ids)
    blocks += _published_blocks(f"{name}-published", task, arms)
    if arms:
        blocks += _config_listing(material, task, arms[0])
    return Section(name, task, blocks)


def _arms_table(material: Material, name: str, task: str, arms: Sequence[RankedArm], ids: Ids) -> Table:
    assert material.ranking is not None
    metrics = list(dict.fromkeys((material.ranking.metric, "test_error")))
    of_task = [knob for knob in material.varied if any(cell(arm.candidate.cells, knob) is not None for arm in arms)]
    knobs = [knob for knob in of_task if len(arms) == 1 or len({str(cell(arm.candidate.cells, knob)) for arm in arms}) > 1]
    variant = ["variant"] if material.arms.has_variants else []
    tuned = ["candidates"] if material.arms.is_tuned else []
    head = ["rank", *variant, *(KNOB_OF.get(knob, knob) for knob in knobs), *(in_words(metric) for metric in metrics)]
    rows = [
        [
            count_cell(arm.line["rank"]),
            *(text_cell(arm.arm.variant) for _ in variant),
            *(knob_cell(cell(arm.candidate.cells, knob)) for knob in knobs),
            *(_mean_cell(arm, metric, ids) for metric in metrics),
            *(count_cell(arm.line["candidates"]) for _ in tuned),
            count_cell(len(arm.rows)),
            number_cell(arm.line["trial_seconds"]),
            Cell("constant" if arm.line["at_majority"] else ""),
        ]
        for arm in arms
    ]
    constant = any(arm.line["at_majority"] for arm in arms)
    columns = [*head, *tuned, "seeds", "seconds", "remark"]
    if not constant:
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return Table(name, f"Arms on {task}, by {in_words(material.ranking.metric)}", columns, rows)


def knob_cell(value: Any) -> Cell:
    """The value of a knob; a dash where nothing reads it."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell("–", -math.inf) if value is None else Cell(spell_value(value), value if is_number else None)


def _mean_cell(arm: RankedArm, metric: str, ids: Ids) -> Cell:
    mean, half = arm.line[metric], arm.line[f"{metric}_ci95"]
    text = f"{mean:.4g}" + ("" if half is None else f" ± {half:.2g}")
    return Cell(text, mean, ids.score(arm.arm.task, arm.arm.id, metric, mean))


def _floor_blocks(material: Material, name: str, task: str, ids: Ids) -> Iterator[Block]:
    rows = [row for row in material.floors if row["task"] == task]
    if not rows:
        command = f"sweeper floors {shlex.quote(task)}{results_option(material.workspace.uri)}"
        yield Paragraph("What models without a transformer reach here was not computed.", "warning")
        yield Listing("This computes it", command)
        return
    cases = dict.fromkeys(map(FloorCase.of_row, rows))
    known = Floors(rows)
    best = {case: known.best([case]) for case in cases}
    rows.sort(key=_best_first)
    split = ["split"] if len(cases) > 1 else []
    table = []
    for row in rows:
        floor = best[FloorCase.of_row(row)]
        is_best = floor is not None and floor.model == row["model"]
        why = row["cause"] or "" if row["status"] != COMPLETE else "best by validation" if is_best else ""
        table.append(
            [
                text_cell(row["model"]),
                *(text_cell(FloorCase.of_row(row).settings().replace(" --set ", " ").strip() or "default") for _ in split),
                number_cell(row["valid_error"]),
                number_cell(row["test_error"], ids.floor(FloorCase.of_row(row), row["model"], "test_error", row["test_error"])),
                count_cell(row["fitted_samples"]),
                text_cell((row["settings"] or "").strip("{}").replace('"', "")),
                text_cell(why),
            ]
        )
    columns = ["model", *split, "validation error", "test error", "fitted to samples", "settings", "remark"]
    yield Table(name, f"Models without a transformer on {task}, settings chosen on {_chosen_on(rows)}", columns, table)


def _published_blocks(name: str, task: str, arms: Sequence[RankedArm]) -> Iterator[Block]:
    """Published values that may stand beside the arms, if there are any."""
    found = beside_arms(task, arms).comparable if arms else ()
    if found:
        rows = [
            [text_cell(value.method), number_cell(value.value), *map(text_cell, (value.printed, value.source, value.certainty))]
            for value in found
        ]
        caption = f"Published on {task}, by {found[0].score}; lower is better"
        yield Table(name, caption, ["method", "test error", "as printed", "source", "how sure"], rows)
        yield Paragraph(CAUTION, "note")


def _best_first(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return str(FloorCase.of_row(row)), row["valid_error"] is None, row["valid_error"] or 0.0, SIMPLE_FIRST.index(row["model"])


def _chosen_on(rows: Sequence[dict[str, Any]]) -> str:
    by = {row["selection"] for row in rows if row["status"] == COMPLETE and row["selection"] is not None}
    words = {"valid": "validation", "folds": "validation folds", "test": "the test part, as the task validates on it"}
    return " or ".join(sorted(words.get(str(one), str(one)) for one in by)) or "validation"


def _config_listing(material: Material, task: str, best: RankedArm) -> Iterator[Block]:
    """A search space that runs the best arm again; where it cannot be made here, the command that makes it."""
    rows = {row["trial"]: row for row in material.rows}
    row = rows[min(best.rows, key=lambda row: (row[material.metric], row["seed"]))["trial"]]
    where = results_option(material.workspace.uri)
    command = f"sweeper best {shlex.quote(material.name)} --task {shlex.quote(task)} --export best.yaml{where}"
    try:
        space = arm_space(
            material.name,
            config_of_row(row),
            [int(of_seed["seed"]) for of_seed in best.rows],
            vary=material.plan.get("vary") or ("seed",),
            metric=material.metric,
            resources=material.space.get("resources") or {},
        )
    except OrcaError as error:
        yield Paragraph(f"The config of the best arm cannot be made on the machine that wrote this page: {error}", "warning")
        yield Listing("Where the sweep ran, this makes it", command)
        return
    text = yaml.safe_dump(space, sort_keys=False, allow_unicode=True)
    yield Listing(f"best.yaml: runs the best arm of {task} again, by “sweeper run best.yaml”", text, is_folded=True)
