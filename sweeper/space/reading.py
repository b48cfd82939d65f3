"""Reads and validates search-space files. All faults are reported at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orca_core.config.paths import flatten
from orca_core.errors import ConfigError, Fault, nearest
from sweeper.faults import Faults
from sweeper.space.axes import RECIPE, Axis
from sweeper.space.axis_reader import read_axes
from sweeper.space.conditions import Requirement, read_condition, refuse_tuned
from sweeper.space.file import BITS_OF_THE_SWEEP, METRICS, SHORTHAND_KEYS, Resources, SpaceFile, parse_keys
from sweeper.space.knobs import parse_knobs
from sweeper.space.questions import check_question, list_looks
from sweeper.space.search_rules import check_search
from sweeper.space.seeds import expand_seeds
from sweeper.space.shelf import available_spaces
from sweeper.space.space import SearchSpace
from sweeper.space.yaml_reader import read_mapping
from sweeper.workbench import on_workbench

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")

_COPIED = (
    *("description", "design", "search", "scheduler", "question", "resources", "budget", "bits", "keep"),
    *("floors", "tensorboard", "probes"),
)
"""Keys of the file that a `SearchSpace` has unchanged."""


@on_workbench
def load_space(space: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] = {}, name: str | None = None) -> SearchSpace:
    """Read and validate a search space.

    Args:
        space: A path, the name of a search space, or the content of a search-space file as a dict. In a dict, tuples, ranges and numpy
            arrays may stand for lists, and `name` must be given, here or as an argument.
        overrides: The options `--set`: knob -> value, set in `base`; `sweep:KEY` -> value for the sweep's own keys, like `sweep:seeds`.
        name: The option `--name`: name of the sweep, instead of the one in the file.

    Raises:
        ConfigError: With all faults found; each names its place by a dotted path, for a dict as for a file.
    """
    if not isinstance(space, Mapping):
        path = find_space(str(space))
        return parse_space(read_mapping(path), file=str(path), overrides=overrides, name=name)
    if name is None and "name" not in space:
        remedy = "Results are stored under it, and a later run with the same name continues the sweep."
        raise ConfigError([Fault("name", "must be given in a search space that is a dict", Fault.ABSENT, remedy)])
    return parse_space(_plain(space), overrides=overrides, name=name)


def _plain(value: Any) -> Any:
    """A value of Python as a YAML file would have it: lists for other sequences and arrays, plain numbers for numpy's, text for paths."""
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | range):
        return [_plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    if type(value).__module__ == "numpy":
        return _plain(value.tolist())
    return value


def parse_space(data: Mapping[str, Any], file: str = "", overrides: Mapping[str, Any] = {}, name: str | None = None) -> SearchSpace:
    """Validate the content of a search-space file; other arguments as for `load_space`."""
    faults = Faults()
    data = _apply_overrides(data, overrides)
    parsed = parse_keys(data, faults)
    base = parse_knobs(data.get("base", {}), faults.at("base"))
    given = data.get("variants", {})
    named = given.items() if isinstance(given, Mapping) else ()
    variants = {str(variant): parse_knobs(knobs, faults.at(f"variants.{variant}")) for variant, knobs in named}
    axes = read_axes(data.get("space", {}), faults.at("space"))
    _check_knobs(data, base, variants, axes, overrides, faults)
    _check_varied_by_seeds(parsed, base, variants, axes, faults)
    name = name or parsed.name or Path(file).stem or "sweep"
    check_name(name, "name", faults)
    wrong = {fault.path.partition(".")[0] for fault in faults}
    _check_sweep(parsed, axes, base, wrong, faults)
    require = _read_requirements(parsed, axes, faults)
    _check_threads(parsed, base, faults)
    _check_folds(parsed, base, variants, axes, faults)
    check_question(parsed, axes, variants, wrong, faults)
    if parsed.bits == "portable" and parsed.resources.most_gpu > 0:
        faults.add("bits", "must be native on GPUs, where bits cannot be pinned", parsed.bits)
    space = SearchSpace(
        name=name,
        base=base if parsed.bits == "native" else {**base, "bits": parsed.bits},
        axes=tuple(axes),
        variants=variants,
        metrics=tuple(parsed.metric),
        seeds=parsed.seeds.numbers(),
        looks=list_looks(parsed.seeds.first, parsed.seeds.most) if parsed.seeds.until is not None else (),
        vary=tuple(parsed.seeds.vary),
        require=require,
        source=data,
        file=file,
        options=tuple(path for path in base if path in _set_knobs(overrides)),
        **{key: getattr(parsed, key) for key in _COPIED},
    )
    if faults and not any(fault.path.startswith(("--set", "space", "variants", "require")) for fault in faults):
        known = {fault.path for fault in faults}
        faults.extend(fault for fault in _combination_faults(space) if fault.path not in known)
    faults.raise_if_any(file)
    return space


def find_space(name_or_path: str) -> Path:
    """The file that SPACE refers to: a path, or the name of a search space in `./search_spaces` or in the package.

    Raises:
        ConfigError: If the search space is unknown.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    known = available_spaces()
    if name_or_path not in known:
        raise ConfigError([Fault("SPACE", "must be a file or the name of a search space", name_or_path, nearest(name_or_path, known))])
    return known[name_or_path]


def check_name(name: str, path: str, faults: Faults) -> None:
    """Add a fault if a sweep cannot have this name, which is used for folders in the results."""
    if not _NAME.fullmatch(name):
        rule = "must be usable as a file name: letters, digits, dots, dashes, underscores, at most 80, the first a letter or digit"
        faults.add(path, rule, name)


def _apply_overrides(data: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The content of the file with the overrides of `--set`."""
    merged = dict(data)
    base = dict(merged["base"]) if isinstance(merged.get("base"), Mapping) else {}
    try:
        flat = flatten(base)
    except ConfigError:
        return merged  # reported when `base` is parsed
    for path, value in overrides.items():
        if path.startswith("sweep:"):
            section, _, key = path.removeprefix("sweep:").partition(".")
            inner = merged.get(section)
            if section == "seeds" and inner is not None:
                inner = expand_seeds(inner)
            if isinstance(inner, str) and section in SHORTHAND_KEYS:
                inner = {SHORTHAND_KEYS[section]: inner}
            merged[section] = {**(inner if isinstance(inner, Mapping) else {}), key: value} if key else value
        else:
            flat |= flatten({path: value})
    if flat:
        merged["base"] = flat
    return merged


def _set_knobs(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The knobs that `--set` sets, without the keys of the sweep."""
    return flatten({path: value for path, value in overrides.items() if not path.startswith("sweep:")})


def _check_knobs(
    data: Mapping[str, Any],
    base: Mapping[str, Any],
    variants: Mapping[str, Mapping[str, Any]],
    axes: Sequence[Axis],
    overrides: Mapping[str, Any],
    faults: Faults,
) -> None:
    """Check `base`, `variants`, `space` and `--set` against each other: each knob is set in only one of them."""
    varied = {knob for axis in axes for knob in axis.knobs}
    for path, value in _set_knobs(overrides).items():
        if path in varied or any(path in knobs for knobs in variants.values()):
            faults.add(f"--set {path}", "must not be a knob that the space varies", value, "Edit the file instead.")
    for section, knobs in [("base", base), *((f"variants.{name}", knobs) for name, knobs in variants.items())]:
        if "seed" in knobs:
            faults.add(f"{section}.seed", "must not be set here", knobs["seed"], "Use `seeds`.")
        if "bits" in knobs:
            faults.add(f"{section}.bits", "must not be set here", knobs["bits"], BITS_OF_THE_SWEEP)
        for path in knobs:
            if section != "base" and path in varied:
                faults.add(f"{section}.{path}", "must not also vary in `space`", knobs[path])
    given_axes = data.get("space", {})
    task_varies = isinstance(given_axes, Mapping) and "task" in given_axes
    if "task" not in base and not task_varies and not all("task" in knobs for knobs in (variants or {"": {}}).values()):
        faults.add("base.task", "must be given, here or in `space`", remedy="See `sweeper tasks`.")


def _check_varied_by_seeds(
    parsed: SpaceFile, base: Mapping[str, Any], variants: Mapping[str, Mapping[str, Any]], axes: Sequence[Axis], faults: Faults
) -> None:
    """Check that no knob that the seeds set is set anywhere else."""
    for knob in parsed.seeds.vary[1:]:
        for section, knobs in [("base", base), *((f"variants.{name}", knobs) for name, knobs in variants.items())]:
            if knob in knobs:
                faults.add(f"{section}.{knob}", "must not be set here: seeds.vary has it", knobs[knob], "Remove it here, or there.")
        if any(knob in axis.knobs for axis in axes):
            faults.add(f"space.{knob}", "must not vary in `space`, too: seeds.vary has it", remedy="Remove it here, or there.")


def _check_sweep(parsed: SpaceFile, axes: Sequence[Axis], base: Mapping[str, Any], wrong: set[str], faults: Faults) -> None:
    """Check the sweep's own keys against each other. Keys in `wrong` have faults of their own and are skipped."""
    tuned = [axis for axis in axes if axis.is_tuned]
    if "search" not in wrong and parsed.search.algorithm == "grid":
        remedy = "Write a grid, or set search.algorithm to random or tpe."
        for axis in tuned:
            faults.add(f"space.{axis.path}.{axis.kind}", "must be a grid under search.algorithm grid", axis.kind, remedy)
    elif "search" not in wrong and not tuned and "space" not in wrong:
        remedy = "Give a knob a choice, uniform, loguniform or int."
        faults.add("search.algorithm", "must be grid when nothing is tuned", parsed.search.algorithm, remedy)
    if not {"search", "scheduler", "space"} & wrong:
        _check_scheduler(parsed, tuned, faults)
    if "metric" not in wrong:
        _check_metrics(parsed, base, faults)
    if not {"search", "space"} & wrong:
        check_search(parsed.search, tuned, faults)
    resources = parsed.resources
    if "resources" not in wrong and not resources.is_auto and resources.gpu_trials != Resources().gpu_trials:
        remedy = "Set resources.gpu to auto, or leave this out: with a number, 1 / gpu trials share a GPU."
        faults.add("resources.gpu_trials", "must be left out unless resources.gpu is auto", resources.gpu_trials, remedy)


def _check_metrics(parsed: SpaceFile, base: Mapping[str, Any], faults: Faults) -> None:
    for metric in parsed.metric:
        if metric not in METRICS:
            faults.add("metric", "must be a metric that tasks report", metric, nearest(metric, METRICS))
        elif metric == "test_error" and base.get("selection", "test" if base.get("reference_behaviour") else None) != "test":
            remedy = "Select on validation data, or set base.selection to test, which every row records."
            faults.add("metric", "must not use the test set", metric, remedy)
    if len(parsed.metric) != 1 and (parsed.search.algorithm != "nsga2" or len(set(parsed.metric)) != 2 or len(parsed.metric) > 2):
        faults.add("metric", "must be one metric, or under nsga2 a list of two", parsed.metric)


def _check_scheduler(parsed: SpaceFile, tuned: Sequence[Axis], faults: Faults) -> None:
    """Check that a scheduler has something to compare, and that its cohorts can be proposed at once."""
    scheduler, search = parsed.scheduler, parsed.search
    if scheduler.name == "fifo":
        return
    if not tuned and scheduler.among == "arm":
        rule = f"must be task for {scheduler.name} when nothing is tuned: each arm has one candidate then, and nothing to compare it with"
        remedy = (
            "Tune a knob (choice, uniform, loguniform or int) with search.algorithm random or tpe; or set scheduler.among to task, and "
            "arms of a task stop each other."
        )
        faults.add("scheduler.among", rule, scheduler.among, remedy)
    if search.learns and scheduler.cohort is not None and scheduler.cohort > search.lag:
        algorithm = search.algorithm
        rule = f"must be at most search.lag = {search.lag} under {algorithm}, which proposes no more candidates before it has seen results"
        faults.add("scheduler.cohort", rule, scheduler.cohort, "Lower it, or raise search.lag.")
    if scheduler.name == "hyperband" and (cohorts := -(-search.trials // (scheduler.cohort or search.lag))) < scheduler.brackets:
        rule = f"must be at most the number of cohorts, {cohorts} of {scheduler.cohort or search.lag} candidates"
        faults.add("scheduler.brackets", rule, scheduler.brackets, "Lower it or scheduler.cohort, or raise search.trials.")


def _read_requirements(parsed: SpaceFile, axes: Sequence[Axis], faults: Faults) -> tuple[Requirement, ...]:
    tuned = {knob for axis in axes if axis.is_tuned for knob in axis.knobs}
    requirements = []
    for number, rule in enumerate(parsed.require):
        conditions = []
        for key, data in (("if", rule.if_), ("then", rule.then)):
            section = faults.at(f"require.{number}.{key}")
            conditions.append(read_condition(data, section))
            refuse_tuned(conditions[-1], tuned, section)
        requirements.append(Requirement(*conditions))
    return tuple(requirements)


def _check_threads(parsed: SpaceFile, base: Mapping[str, Any], faults: Faults) -> None:
    threads = base.get("threads", 1)
    if isinstance(threads, int) and threads > max(1.0, parsed.resources.cpu):
        faults.add("resources.cpu", f"must be at least base.threads = {threads}", parsed.resources.cpu)


def _check_folds(
    parsed: SpaceFile, base: Mapping[str, Any], variants: Mapping[str, Mapping[str, Any]], axes: Sequence[Axis], faults: Faults
) -> None:
    """Refuse early stopping of trials whose epoch is chosen by folds: their error is known only when all folds have ended."""
    settings = [base, *variants.values(), *({axis.path: value} for axis in axes for value in axis.values)]
    by_folds = any(knobs.get("validation.folds") not in (None, RECIPE) for knobs in settings)
    of_one_fold = any(knobs.get("validation.fold") not in (None, RECIPE) for knobs in settings)
    if parsed.scheduler.name == "fifo" or of_one_fold or not by_folds:
        return
    remedy = "Remove the scheduler, or validation.folds: a trial with folds has a validation error only when all of them have ended."
    faults.add("scheduler.name", "must be fifo with validation.folds", parsed.scheduler.name, remedy)


def _combination_faults(space: SearchSpace) -> Sequence[Fault]:
    try:
        space.arms()
    except ConfigError as error:
        return error.faults
    return ()
