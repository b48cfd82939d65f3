"""Search spaces: a YAML file in, a validated `SearchSpace` out. Everything that is wrong is said here, at once."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from orca_core.config.knobs import TrialConfig, faults_of, flatten, resolve_config
from orca_core.errors import ConfigError, Fault, nearest
from sweeper.space.axes import Axis, holds, in_order, read_axes, read_condition, read_knobs, tuned_faults
from sweeper.space.yaml_reader import read_mapping

METRICS = ("valid_error", "valid_loss", "train_loss", "test_error")
"""What every task reports after each epoch of fine-tuning; all are better when lower."""

MOST_SEEDS = 10_000
"""Largest count of seeds: a larger one is a slip of the finger, and its plan would fill the memory."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class SearchConfig(_Part):
    """How values of tuned knobs are found."""

    algorithm: Literal["grid", "random", "tpe"] = Field("grid", description="`grid` tunes nothing; `random` and `tpe` tune each arm.")
    trials: Annotated[int, Field(ge=1)] = Field(16, description="Candidates per arm; each is run with every seed.")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="Seed of the draws; all arms share them.")
    lag: Annotated[int, Field(ge=1)] = Field(
        4,
        description="tpe: a candidate is proposed from the results of all candidates at least `lag` before it, so that `lag` of an arm's "
        "candidates run at once and the proposals do not depend on timing.",
    )


class SchedulerConfig(_Part):
    """Which trials are stopped early; each task is judged by itself, in epochs of fine-tuning."""

    name: Literal["fifo", "asha", "median"] = Field("fifo", description="`fifo` stops none.")
    grace_period: Annotated[int, Field(ge=1)] = Field(1, description="Epochs that every trial gets.")
    reduction_factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] = Field(3.0, description="asha: one in so many goes on at a rung.")
    min_trials: Annotated[int, Field(ge=1)] = Field(3, description="median: trials that must have been seen before any is stopped.")


class Resources(_Part):
    """What one trial holds while it runs."""

    cpu: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(1.0, description="CPUs.")
    gpu: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="Share of a GPU; one trial uses at most one.")


_Bound = Annotated[float, Field(gt=0, allow_inf_nan=False)] | None


class Budget(_Part):
    """Bounds of a sweep; null = none."""

    trials: Annotated[int, Field(ge=1)] | None = Field(None, description="A plan with more trials is refused.")
    hours: _Bound = Field(None, description="Wall time of one `sweeper run`, then it stops as on Ctrl-C.")
    trial_minutes: _Bound = Field(
        None, description="Wall time of one trial, looked at when it reports; longer ones are stopped and FAIL with cause timeout."
    )
    free_gib: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        1.0, description="Free disk, in GiB, without which a run is not started, where results and stages lie in a folder."
    )
    gpu_hours: _Bound = Field(None, description="GPU time of one `sweeper run`, likewise.")


class Rule(BaseModel):
    """A combination is left out if `if` holds and `then` does not."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)

    if_: dict[str, Any] = Field(alias="if")
    then: dict[str, Any]


class SpaceFile(_Part):
    """The keys of a search-space file."""

    name: str | None = Field(None, description="Name of the sweep in the results; the file's name if left out.")
    description: str = Field("", description="The question, in a line.")
    base: dict[str, Any] = Field({}, description="Knobs that all trials share, nested or dotted; the rest comes from each task's recipe.")
    space: dict[str, Any] = Field({}, description="Knobs that vary: `{grid: [...]}`, `{choice: [...]}`, `{uniform: [low, high]}`, ...")
    variants: dict[str, dict[str, Any]] = Field({}, description="Named sets of knobs, an axis of their own.")
    design: Literal["factorial", "one-factor-at-a-time"] = Field(
        "factorial", description="All combinations; or a baseline and each level of each grid by itself, for every task."
    )
    seeds: int | list[int] = Field(1, description="A count, or a list. Every arm has the same seeds.")
    search: SearchConfig = SearchConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    metric: str = Field("valid_error", description="What search and scheduler minimise, and trials are ranked by.")
    require: list[Rule] = Field([], description="Rules that a combination must keep.")
    resources: Resources = Resources()
    budget: Budget = Budget()
    keep: Literal["none", "best", "last", "all"] = Field(
        "best",
        description="Fine-tuned weights that stay in the store: `none`; each trial's `best` or `last` ones; with `all` the best ones and "
        "the state of every epoch. But with `all`, states that trials share are dropped when their last trial ends.",
    )

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds(cls, value: Any) -> Any:
        whole = [value] if not isinstance(value, list) else value
        if any(isinstance(seed, bool) or not isinstance(seed, int) for seed in whole):
            raise ValueError("must be a count or a list of whole numbers")
        if not isinstance(value, list) and value < 1:
            raise ValueError("must be at least 1")
        if not isinstance(value, list) and value > MOST_SEEDS:
            raise ValueError(f"must be at most {MOST_SEEDS}")
        if isinstance(value, list) and (not value or len(set(value)) < len(value) or min(value) < 0 or max(value) >= 2**32):
            raise ValueError("must be a list of different whole numbers from 0, at least one")
        return value

    @field_validator("scheduler", mode="before")
    @classmethod
    def _short_scheduler(cls, value: Any) -> Any:
        return {_SHORT["scheduler"]: value} if isinstance(value, str) else value

    @field_validator("search", mode="before")
    @classmethod
    def _short_search(cls, value: Any) -> Any:
        return {_SHORT["search"]: value} if isinstance(value, str) else value


@dataclass(frozen=True)
class Arm:
    """One combination of grid levels, variant and task; tuned knobs and seeds are still open.

    Args:
        overrides: Knob -> value.
        config: What they resolve to, with the tuned knobs where `base` and the recipe have them, and seed 0.
        variant: Name of the variant it came from; empty without variants.
        tuned: The axes that are tuned in it.
    """

    overrides: Mapping[str, Any]
    config: TrialConfig
    variant: str
    tuned: tuple[Axis, ...]


@dataclass(frozen=True)
class SearchSpace:
    """A validated search space. Fields as in `SpaceFile`; `base` is flat, `space` has become `axes`."""

    name: str
    description: str
    base: Mapping[str, Any]
    axes: tuple[Axis, ...]
    variants: Mapping[str, Mapping[str, Any]]
    design: str
    seeds: tuple[int, ...]
    search: SearchConfig
    scheduler: SchedulerConfig
    metric: str
    require: tuple[Rule, ...]
    resources: Resources
    budget: Budget
    keep: str
    source: Mapping[str, Any]
    file: str = ""

    @property
    def device(self) -> str:
        """Device type of the trials."""
        return "cuda" if self.resources.gpu > 0 else "cpu"

    @property
    def varied(self) -> list[str]:
        """The knobs that the file varies, in its order: those of the axes, then those that variants set."""
        knobs = [knob for axis in self.axes for knob in axis.knobs]
        knobs += [knob for overrides in self.variants.values() for knob in overrides]
        return list(dict.fromkeys(knobs))

    def arms(self) -> list[Arm]:
        """All arms, in the order of the file; combinations that break a rule of `require` are left out.

        Raises:
            ConfigError: If a combination breaks a rule of the knobs.
        """
        arms, faults = [], _Faults(self)
        for variant, overrides in (self.variants or {"": {}}).items():
            for combination in self._combinations(dict(self.base) | dict(overrides), faults):
                config = faults.resolve(combination)
                if config is None or not all(holds(rule.then, config) for rule in self.require if holds(rule.if_, config)):
                    continue
                tuned = tuple(axis for axis in self.axes if axis.kind != "grid" and holds(axis.when, config))
                arms.append(Arm(combination, config, variant, tuned))
        faults.raise_if_any()
        return arms

    def _combinations(self, base: dict[str, Any], faults: _Faults) -> Iterator[dict[str, Any]]:
        grids = in_order([axis for axis in self.axes if axis.kind == "grid"])
        free, conditional = [axis for axis in grids if not axis.when], [axis for axis in grids if axis.when]
        if self.design == "one-factor-at-a-time":
            tasks = [axis for axis in free if axis.path == "task"]
            for start in _product(base, tasks):
                yield from self._one_at_a_time(start, [axis for axis in grids if axis.path != "task"], faults)
            return
        for start in _product(base, free):
            partial = [start]
            for axis in conditional:
                partial = [
                    axis.put(combination, value) if active else combination
                    for combination in partial
                    for active in [self._active(axis, combination, faults)]
                    for value in (axis.values if active else (None,))
                ]
            yield from partial

    def _one_at_a_time(self, start: dict[str, Any], axes: Sequence[Axis], faults: _Faults) -> Iterator[dict[str, Any]]:
        yield start
        for axis in axes:
            if self._active(axis, start, faults):
                for value in axis.values:
                    yield axis.put(start, value)

    def _active(self, axis: Axis, combination: Mapping[str, Any], faults: _Faults) -> bool:
        config = faults.resolve(combination) if axis.when else None
        return not axis.when or (config is not None and holds(axis.when, config))


def _product(base: dict[str, Any], axes: Sequence[Axis]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*(axis.values for axis in axes)):
        combination = dict(base)
        for axis, value in zip(axes, values, strict=True):
            combination = axis.put(combination, value)
        yield combination


class _Faults:
    """Faults of many combinations, each said once, under the key of the file that it comes from."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.found: dict[str, Fault] = {}

    def resolve(self, combination: Mapping[str, Any]) -> TrialConfig | None:
        try:
            return resolve_config(combination)
        except ConfigError as error:
            for fault in error.faults:
                placed = fault.at(self.section(fault.path))
                self.found.setdefault(placed.text(), placed)
            return None

    def section(self, path: str) -> str:
        """The section of the file that sets a knob."""
        if any(axis.path == path or path.startswith(f"{axis.path}.") for axis in self.space.axes):
            return "space"
        for name, overrides in self.space.variants.items():
            if path in overrides:
                return f"variants.{name}"
        return "base"

    def raise_if_any(self) -> None:
        if self.found:
            raise ConfigError(self.found.values(), self.space.file)


# ---------------------------------------------------------------------------------------------------------------------- reading


def find_space(place: str) -> Path:
    """The file that SPACE means: a path, a name in `./search_spaces`, or a name among the ones that come with the package."""
    path = Path(place)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    known = available_spaces()
    if place not in known:
        raise ConfigError([Fault("", "must be a file or the name of a search space", place, nearest(place, known))])
    return known[place]


def available_spaces() -> dict[str, Path]:
    """Name -> file of every search space in `./search_spaces` and in the package; the former come first."""
    shipped = Path(__file__).resolve().parents[2] / "search_spaces"
    found: dict[str, Path] = {}
    for folder in (Path("search_spaces"), shipped):
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def load_space(place: str | Path, overrides: Mapping[str, Any] = {}, name: str | None = None) -> SearchSpace:
    """Read and validate a search space.

    Args:
        place: A path, or the name of a search space.
        overrides: `--set`: knob -> value, put into `base`; `sweep:KEY` reaches the sweep's own keys, `sweep:seeds`.
        name: `--name`: the sweep's name, instead of the file's.

    Raises:
        ConfigError: With every fault that was found.
    """
    path = find_space(str(place))
    return parse_space(read_mapping(path), file=str(path), overrides=overrides, name=name)


def parse_space(data: Mapping[str, Any], file: str = "", overrides: Mapping[str, Any] = {}, name: str | None = None) -> SearchSpace:
    """Validate the content of a search-space file; arguments as `load_space`."""
    faults: list[Fault] = []
    data = _with_overrides(data, overrides, faults)
    parsed = _parse_keys(data, faults)
    base = read_knobs(data.get("base", {}), "base", faults)
    variants = {}
    given_variants = data.get("variants", {})
    for variant, knobs in given_variants.items() if isinstance(given_variants, Mapping) else ():
        variants[str(variant)] = read_knobs(knobs, f"variants.{variant}", faults)
    given_axes = data.get("space", {})
    axes = read_axes(given_axes, faults)
    varied = {knob for axis in axes for knob in axis.knobs}
    for path, value in flatten({path: value for path, value in overrides.items() if not path.startswith("sweep:")}).items():
        if path in varied or any(path in knobs for knobs in variants.values()):
            faults.append(Fault(f"--set {path}", "must not be a knob that the space varies", value, "Edit the file instead."))
    for section, knobs in [("base", base), *((f"variants.{name}", knobs) for name, knobs in variants.items())]:
        if "seed" in knobs:
            faults.append(Fault(f"{section}.seed", "must not be set here", knobs["seed"], "Use `seeds`."))
        if section != "base":
            both = [path for path in knobs if path in varied]
            faults += [Fault(f"{section}.{path}", "must not also vary in `space`", knobs[path]) for path in both]
    task_varies = isinstance(given_axes, Mapping) and "task" in given_axes
    if "task" not in base and not task_varies and not all("task" in knobs for knobs in (variants or {"": {}}).values()):
        faults.append(Fault("base.task", "must be given, here or in `space`", Fault.ABSENT, "See `sweeper tasks`."))
    name = name or parsed.name or Path(file).stem or "sweep"
    faults += name_faults(name)
    faults += _sweep_faults(parsed, axes, base, {fault.path.partition(".")[0] for fault in faults})
    seeds = tuple(range(parsed.seeds)) if isinstance(parsed.seeds, int) else tuple(parsed.seeds)
    as_given = ("description", "design", "search", "scheduler", "metric", "resources", "budget", "keep")
    fields = {key: getattr(parsed, key) for key in as_given}
    space = SearchSpace(
        name=name,
        base=base,
        axes=tuple(axes),
        variants=variants,
        seeds=seeds,
        require=tuple(parsed.require),
        source=data,
        file=file,
        **fields,
    )
    if faults:
        if not any(fault.path.startswith(("--set", "space", "variants", "require")) for fault in faults):
            faults += [fault for fault in _combination_faults(space) if fault.path not in {known.path for known in faults}]
        raise ConfigError(faults, file)
    return space


def name_faults(name: str, path: str = "name") -> list[Fault]:
    """Faults of the name of a sweep, which is a folder's name in the results."""
    rule = "must be usable as a file name: letters, digits, dots, dashes, underscores, at most 80, not starting with a sign"
    return [] if _NAME.fullmatch(name) else [Fault(path, rule, name)]


def _combination_faults(space: SearchSpace) -> Sequence[Fault]:
    try:
        space.arms()
    except ConfigError as error:
        return error.faults
    return ()


def _parse_keys(data: Mapping[str, Any], faults: list[Fault]) -> SpaceFile:
    """The file's own keys. Where one is wrong its fault is added and its default stands in, so that the others are checked too."""
    try:
        return SpaceFile.model_validate(data)
    except ValidationError as error:
        found = faults_of(error)
    for fault in found:
        if fault.path in ("base", "space") or fault.path.startswith("variants."):
            continue  # said where the knobs in it are read
        section, _, key = fault.path.rpartition(".")
        if fault.rule == "must be a known key":
            known = _PARTS.get(section.partition(".")[0], ()) if section else SpaceFile.model_fields
            fault = Fault(fault.path, fault.rule, Fault.ABSENT, nearest(key, known))
        faults.append(fault)
    wrong = {fault.path.partition(".")[0] for fault in found}
    return SpaceFile.model_validate({key: value for key, value in data.items() if key not in wrong})


_PARTS = {
    "search": SearchConfig.model_fields,
    "scheduler": SchedulerConfig.model_fields,
    "resources": Resources.model_fields,
    "budget": Budget.model_fields,
    "require": ("if", "then"),
}


_SHORT = {"search": "algorithm", "scheduler": "name"}
"""Sections that may be given as one value, and the key that value is for."""


def _with_overrides(data: Mapping[str, Any], overrides: Mapping[str, Any], faults: list[Fault]) -> dict[str, Any]:
    merged = dict(data)
    base = dict(merged["base"]) if isinstance(merged.get("base"), Mapping) else {}
    try:
        flat = flatten(base)
    except ConfigError:
        return merged  # the fault is found again, and said, when base is read
    for path, value in overrides.items():
        if path.startswith("sweep:"):
            section, _, key = path.removeprefix("sweep:").partition(".")
            inner = merged.get(section)
            if isinstance(inner, str) and section in _SHORT:
                inner = {_SHORT[section]: inner}
            merged[section] = {**(inner if isinstance(inner, Mapping) else {}), key: value} if key else value
        else:
            flat |= flatten({path: value})
    if flat:
        merged["base"] = flat
    return merged


def _sweep_faults(parsed: SpaceFile, axes: Sequence[Axis], base: Mapping[str, Any], wrong: Collection[str]) -> list[Fault]:
    """Faults between the sweep's own keys. Nothing is concluded from a key in `wrong`: it has faults of its own."""
    faults: list[Fault] = []
    tuned = [axis for axis in axes if axis.kind != "grid"]
    if "search" in wrong:
        pass
    elif parsed.search.algorithm == "grid":
        remedy = "Write a grid, or set search.algorithm to random or tpe."
        faults += [
            Fault(f"space.{axis.path}.{axis.kind}", "must be a grid under search.algorithm grid", axis.kind, remedy) for axis in tuned
        ]
    elif not tuned and "space" not in wrong:
        rule = "must be grid when nothing is tuned"
        faults.append(Fault("search.algorithm", rule, parsed.search.algorithm, "Give a knob a choice, uniform, loguniform or int."))
    if parsed.metric not in METRICS:
        faults.append(Fault("metric", "must be a metric that tasks report", parsed.metric, nearest(parsed.metric, METRICS)))
    elif parsed.metric == "test_error" and base.get("selection", "test" if base.get("reference_behaviour") else None) != "test":
        remedy = "Choose on validation data, or set base.selection to test, which every row will say."
        faults.append(Fault("metric", "must not look at the test set", parsed.metric, remedy))
    for number, rule_ in enumerate(parsed.require):
        for key, condition in (("if", rule_.if_), ("then", rule_.then)):
            where = f"require.{number}.{key}"
            flat = read_condition(condition, where, faults)
            faults += [fault.at(where) for fault in tuned_faults(flat, {knob for axis in tuned for knob in axis.knobs})]
            condition.clear()
            condition.update(flat)
    threads = base.get("threads", 1)
    if isinstance(threads, int) and threads > max(1.0, parsed.resources.cpu):
        faults.append(Fault("resources.cpu", f"must be at least base.threads = {threads}", parsed.resources.cpu))
    return faults
