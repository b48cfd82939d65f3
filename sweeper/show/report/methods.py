"""What was done, in words that can go into a paper: only what the tables say was done."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orca_core.floors.rows import FloorCase
from sweeper.analysis.comparison import ALPHA
from sweeper.analysis.factors import KNOB_OF, cell, spell_value
from sweeper.analysis.paired import NO_DIFFERENCE
from sweeper.show.report.answers import in_words
from sweeper.show.report.content import Paragraph, Section, Table, count_cell, text_cell
from sweeper.show.report.cost import describe_machines
from sweeper.show.report.material import Material
from sweeper.show.report.trouble import all_effects

Effects = Sequence[Mapping[str, Any]]


def methods_section(material: Material) -> Section:
    """Design, data, training, selection, statistics and machines, a paragraph each; then the parts of each task."""
    tellers = (_design, _training, _data, _statistics, _computing)
    blocks = [Paragraph(text) for tell in tellers if (text := " ".join(tell(material)))]
    return Section("methods", "Methods, in words", [*blocks, *_parts_table(material)])


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _few(values: Sequence[Any]) -> str:
    texts = [spell_value(value) for value in values]
    return _and(texts) if len(texts) <= 8 else f"{', '.join(texts[:6])}, … ({len(texts)} values)"


def _design(material: Material) -> Iterator[str]:
    rows = material.rows
    if not rows:
        return
    tasks = f"task {material.tasks[0]}" if len(material.tasks) == 1 else f"{len(material.tasks)} tasks ({_and(material.tasks)})"
    varied = [f"{KNOB_OF.get(knob, knob)} ({_few(_values(rows, knob))})" for knob in material.varied if _values(rows, knob)]
    tuned = _tuned(material)
    crossed = [text for text in varied if text.partition(" ")[0] not in tuned]
    arms = Counter(arm.task for arm in material.arms.arms)
    numbers = sorted(set(arms.values()))
    if arms:
        count = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
        yield f"On {tasks} we compared {count} arm{'' if numbers == [1] else 's'}{' per task' if len(material.tasks) > 1 else ''}" + (
            f", which differ in {_and(crossed)}." if crossed else "."
        )
    if material.arms.has_variants:
        names = sorted({arm.variant for arm in material.arms.arms if arm.variant})
        yield f"The arms are the named variants {_and(names)}."
    yield from _seeds(material)
    yield from _tuning(material, tuned)
    counts = material.counts
    ended = counts.get("COMPLETE", 0)
    if ended < len(rows) or ended < (material.num_planned or 0):
        of = f" of {material.num_planned} planned" if material.num_planned else f" of {len(rows)}"
        yield f"{ended}{of} trials are complete; nothing is imputed for the others."


def _values(rows: Sequence[Mapping[str, Any]], knob: str) -> list[Any]:
    """The values of a knob in some trials, without null, in order."""
    values = {cell(row, knob) for row in rows} - {None}
    return sorted(values, key=lambda value: (isinstance(value, str), value if isinstance(value, int | float | str) else str(value)))


def _tuned(material: Material) -> list[str]:
    """The knobs that are tuned within arms, as dotted paths."""
    found = []
    for knob in material.varied:
        of_arms = ({str(candidate.cells.get(knob)) for candidate in arm.candidates} for arm in material.arms.arms)
        if any(len(values) > 1 for values in of_arms):
            found.append(KNOB_OF.get(knob, knob))
    return found


def _seeds(material: Material) -> Iterator[str]:
    per_arm = Counter(len(candidate.seeds) for arm in material.arms.arms for candidate in arm.compared)
    numbers = sorted(per_arm)
    if not numbers:
        return
    each = f"{numbers[0]} seed{'' if numbers == [1] else 's'}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]} seeds"
    vary = material.plan.get("vary") or ["seed"]
    draws = "everything random in training: initial weights, order of batches, dropout and the sample of the proxy"
    yield f"Every arm was run with {each}; a seed sets {draws}, and all arms share the draws of a seed."
    if "split_seed" in vary:
        yield "Each seed also draws a split of the data of its own."
    if material.plan.get("looks"):
        yield f"Seeds were added only to contrasts that were still open, after {_few(material.plan['looks'])} seeds."


def _tuning(material: Material, tuned: Sequence[str]) -> Iterator[str]:
    if not tuned:
        return
    search = material.space.get("search") or {}
    numbers = sorted({len(arm.candidates) for arm in material.arms.arms})
    each = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    yield (
        f"Within every arm {_and(list(tuned))} {'was' if len(tuned) == 1 else 'were'} tuned ({search.get('algorithm', 'unknown')}, {each} "
        f"candidates per arm and task), and the candidate with the lowest mean {in_words(material.metric)} over its seeds was kept."
    )
    if any(arm.replicated is not None for arm in material.arms.arms):
        yield "It was then run again with fresh seeds, and arms are compared by these runs alone."
    scheduler = material.space.get("scheduler")
    name = scheduler.get("name") if isinstance(scheduler, Mapping) else scheduler
    if name and name != "fifo":
        yield f"{name} stopped candidates early, each with all of its seeds."


def _training(material: Material) -> Iterator[str]:
    """The body and the fine-tuning: once if they are the same on all tasks, else task by task."""
    said: dict[str, list[str]] = {}
    for task in material.tasks:
        text = _train([row for row in material.rows if row["task"] == task])
        if text:
            said.setdefault(text, []).append(task)
    for text, tasks in said.items():
        yield text[0].upper() + text[1:] if len(said) == 1 else f"On {_and(tasks)} {text}"
    aligned = _values(material.rows, "align_epochs")
    if any(aligned):
        objectives, proxies = _values(material.rows, "align_objective"), _values(material.rows, "proxy")
        yield (
            f"Where the embedder was aligned before fine-tuning, this took {_few([steps for steps in aligned if steps])} epochs"
            + (f" of minimising {_few(objectives)} between its features and those of the proxy" if objectives else "")
            + (f" ({_few(proxies)})" if proxies else "")
            + f", one step over all classes in each{_settings(material.rows, _ALIGNMENT)}."
        )
    pretrained = [row for row in material.rows if row.get("pretrain_epochs") is not None]
    if pretrained:
        bodies, epochs = _values(pretrained, "body_name"), _values(pretrained, "pretrain_epochs")
        were = "was" if len(bodies) == 1 else "were"
        yield f"{_and(bodies)} {were} pretrained for {_few(epochs)} epochs{_settings(pretrained, _PRETRAINING)}."


def _settings(rows: Sequence[Mapping[str, Any]], words: Mapping[str, str]) -> str:
    """The knobs in which some trials agree, in parentheses."""
    known = {knob: _values(rows, knob) for knob in words}
    told = [text.format(spell_value(known[knob][0])) for knob, text in words.items() if len(known[knob]) == 1]
    return f" ({', '.join(told)})" if told else ""


_ALIGNMENT = {
    "align_proxy_samples": "{} samples of the proxy",
    "align_optimizer": "{}",
    "align_lr": "learning rate {}",
    "align_weight_decay": "weight decay {}",
    "align_label_gradient": "gradient of labels: {}",
}
"""Knobs of alignment that are told where all trials agree in them -> how."""

_PRETRAINING = {
    "pretrain_corpus": "corpus: {}",
    "pretrain_objective": "objective: {}",
    "pretrain_fraction": "share of the corpus: {}",
    "pretrain_seed": "seed {}",
}
"""The same of pretraining."""

_FINETUNING = {
    "finetune_optimizer": "{}",
    "finetune_lr": "learning rate {}",
    "finetune_weight_decay": "weight decay {}",
    "finetune_batch_size": "batches of {}",
    "finetune_schedule": "{} schedule",
    "finetune_warmup_epochs": "warm-up epochs: {}",
    "finetune_decay_epochs": "rate 0 at epoch {}",
    "finetune_dropout": "dropout {}",
    "finetune_clip": "gradients clipped at {}",
}
"""Knobs of fine-tuning that are told where all trials of a task agree in them -> how."""


def _train(rows: Sequence[Mapping[str, Any]]) -> str:
    """The body and the fine-tuning of one task's trials, as sentences; empty if nothing is known."""
    bodies, epochs = _values(rows, "body_name"), _values(rows, "finetune_epochs")
    parts = [f"the body is {_few(bodies)}."] if len(bodies) == 1 else [f"the bodies are {_few(bodies)}."] if bodies else []
    if epochs:
        parts.append(f"{'F' if parts else 'f'}ine-tuning took {_few(epochs)} epochs{_settings(rows, _FINETUNING)}.")
    return " ".join(parts)


def _data(material: Material) -> Iterator[str]:
    rows = material.complete
    if not rows:
        return
    splits = {row["split_seed"] for row in rows}
    if material.constant("validation_folds") is not None:
        yield f"Validation is {material.constant('validation_folds')}-fold cross-validation."
    if "split_seed" not in (material.plan.get("vary") or []):
        one = "one fixed split of the data" if len(splits) == 1 else f"{len(splits)} fixed splits of the data"
        seed = f" (split seed {spell_value(next(iter(splits)))})" if len(splits) == 1 and splits != {None} else ""
        yield f"All trials of a task use {one}{seed} into training, validation and test parts."
    shown = _values(rows, "train_samples")
    if shown:
        yield f"Training samples were limited to {_few(shown)}."
    if any(row["reference_data"] for row in rows):
        yield "Splits and scores are those of the reference code."
    by = Counter(row["selection"] for row in rows if row["selection"])
    if set(by) == {"valid"}:
        ties = material.constant("selection_ties")
        yield (
            "Of every trial the epoch with the lowest validation error was kept"
            + (f" (the {ties} of several)" if ties else "")
            + ", and its test error is reported"
            + ("." if material.validated_on_test else "; test data served no choice.")
        )
        if tasks := material.validated_on_test:
            yield f"On {_and(tasks)} the validation part is the test part, so test errors are too low there."
    elif set(by) == {"test"}:
        yield "Of every trial the epoch with the lowest test error was kept, as in the reference code; test errors are therefore too low."
    elif by:
        yield f"The epoch was chosen by test error in {by['test']} trials and by validation error in {by['valid']}."


def _statistics(material: Material) -> Iterator[str]:
    effects = all_effects(material)
    single = [effect for effect in effects if effect["task"] is not None and effect["n"] > 1]
    if single:
        yield from _tests(material, single, [effect for effect in effects if effect["task"] is None])
    if material.ranking is not None and any(len(arm.rows) > 1 for arms in material.ranking.arms.values() for arm in arms):
        yield "Means of arms have 95 % intervals by Student's t over seeds."
    floors = sorted({row["model"] for row in material.floors if row["status"] == "COMPLETE"})
    if floors:
        yield (
            f"Models without a transformer ({_and(floors)}) were fitted to the same training data with settings chosen on validation data; "
            "the one with the lowest validation error stands beside the arms."
        )


def _tests(material: Material, single: Effects, overall: Effects) -> Iterator[str]:
    contexts = max(effect["contexts"] for effect in single)
    seeds = sorted({effect["n"] for effect in single})
    each = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    averaged = " averaged over the settings of the other factors within a seed, then" if contexts > 1 else ""
    yield (
        f"Levels of a factor were compared in pairs of trials with the same task, seed and other settings; differences in error "
        f"were{averaged} tested with Student's t over the {each} seeds (two-sided)."
    )
    comparison = material.comparison
    rate = f"{100 * ALPHA:g} %"
    if comparison is not None and comparison.alpha != ALPHA:
        rate = f"{100 * comparison.alpha:g} % ({comparison.factor.name}) or {rate} (other questions)"
    yield f"The verdicts of one question are a family: p-values were corrected by Holm's method within each, for an error rate of {rate}."
    if any(effect["p_equivalence"] is not None for effect in single):
        margin = "5 % of the baseline's error" if comparison is None else _margin(str(comparison.margin), comparison.margin.is_relative)
        shown = sum(effect["verdict"] == NO_DIFFERENCE for effect in single)
        yield (
            "“No difference” was concluded only from two one-sided t tests, corrected likewise, that the difference lies within a margin "
            f"of {margin}{f' ({shown} of {len(single)} contrasts)' if shown else ''}."
        )
    if comparison is not None and material.evidence.sweep.looks:
        looks = _few(material.evidence.sweep.looks)
        yield f"For the question, tests account for the looks after {looks} seeds (one lower level for every look, Pocock 1977)."
    if contexts > 1:
        yield (
            "Whether an effect differs between settings of the other factors was tested by analysis of variance with the seed as subject "
            "(Greenhouse-Geisser, Holm)."
        )
    names = {finding.name for finding in material.findings}
    if "variance" in names:
        yield "Spreads over seeds were compared by the test of Pitman and Morgan."
    if "more-alignment" in names:
        yield "Trends over ordered levels were tested by Page's test."
    if names & {"closer-proxy", "lower-distance"}:
        yield "Distances and errors were related by rank correlation within task and seed, pooled over seeds by Fisher's z."
    if overall:
        tasks = max(effect["n"] for effect in overall)
        yield f"Over tasks, relative differences were tested by Student's t with the task as unit (at most {tasks} tasks)."
    flags = sum(any(flag != "skewed-differences" for flag in effect["flags"]) for effect in single)
    if flags:
        yield f"{flags} of {len(single)} contrasts between arms that were not treated alike have no verdict."
    if material.shares:
        yield "Shares of variance are eta squared of an analysis of variance with sums of squares of type 2."


def _margin(text: str, is_relative: bool) -> str:
    relative = f"{text.removesuffix('%')} % of the baseline's error, and at least one sample's worth where errors count samples"
    return relative if is_relative else text


_TOLD_VERSIONS = {"torch_version": "torch", "transformers_version": "transformers", "python_version": "Python", "code_version": "sweeper"}


def _computing(material: Material) -> Iterator[str]:
    rows = [row for row in material.rows if row["torch_version"] is not None]
    if not rows:
        return
    if machines := describe_machines(rows):
        yield f"Trials ran on {machines}."
    versions = []
    for column, name in _TOLD_VERSIONS.items():
        found = sorted({str(row[column]) for row in rows if row[column] is not None})
        versions += [f"{name} {' and '.join(found)}"] if found else []
    if versions:
        yield f"Versions: {', '.join(versions)}."
    precision, bits = material.constant("precision"), material.constant("bits")
    if precision is not None:
        yield f"The forward pass was computed in {precision}."
    if bits == "portable":
        yield "Libraries were held to instructions that all x86-64-v3 processors have."
    seconds = math.fsum(row["seconds"] or 0.0 for row in rows if row["reused_from"] is None)
    yield f"All trials together took {seconds / 3600:.2g} hours; stages that several trials share were computed once."


def _parts_table(material: Material) -> Iterator[Table]:
    """The sizes of the parts, and the score of each task. The number of training samples is that of floors that are given all of them."""
    trained = {
        FloorCase.of_row(row): row["fitted_samples"] for row in material.floors if row["cap"] is None and row["validation_folds"] is None
    }
    kinds: Counter[tuple[Any, ...]] = Counter()
    for row in material.complete:
        train = row["train_samples"] or trained.get(FloorCase.of_row(row))
        kinds[row["task"], row["score"], train, row["valid_samples"], row["test_samples"]] += 1
    rows = [
        [text_cell(task), text_cell(score), count_cell(train), count_cell(valid), count_cell(test), count_cell(count)]
        for (task, score, train, valid, test), count in sorted(kinds.items(), key=str)
    ]
    if rows:
        columns = ["task", "error", "training samples", "validation samples", "test samples", "trials"]
        yield Table("parts", "Parts of the tasks, and how errors are measured", columns, rows)
