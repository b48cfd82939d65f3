"""The keys of a search-space file, with types, ranges, defaults and descriptions. The docs and the JSON Schema are generated from here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, field_validator

from orca_core.config.faults import broken_rule, faults_of
from orca_core.errors import nearest
from sweeper.faults import Faults
from sweeper.space.labels import check_label_key, check_selector, select, selector_text
from sweeper.space.probes import ProbesConfig
from sweeper.space.search import SearchConfig
from sweeper.space.section import Section
from sweeper.space.seeds import Question, SeedsConfig, check_count, check_list, expand_seeds

METRICS = ("valid_error", "valid_loss", "train_loss", "test_error")
"""The metrics that every task reports after each epoch of fine-tuning; lower is better for all of them."""


BITS_OF_THE_SWEEP = "It applies to the complete sweep: write `bits: portable` at the top of the file, or --set sweep:bits=portable."
"""Remedy for `bits` among the knobs of a file."""

Bits = Literal["native", "portable"]
"""Whether the bits of results may depend on the processor."""

Keep = Literal["none", "best", "last", "all"]
"""Which fine-tuned weights are kept in the store."""


class SchedulerConfig(Section):
    """Which candidates are stopped early, each with all its seeds. Time is counted in epochs of fine-tuning."""

    name: Literal["fifo", "asha", "hyperband", "median"] = Field("fifo", description="The scheduler; `fifo` never stops a trial early.")
    among: Literal["arm", "task"] = Field(
        "arm", description="What is compared: the candidates of each arm among themselves, or those of all arms of a task."
    )
    cohort: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Number of candidates of an arm that are decided together, in the order of their numbers; null = `search.lag`. At most "
        "`search.lag` under tpe.",
    )
    grace_period: Annotated[int, Field(ge=1)] = Field(
        1,
        description="Epochs after which candidates are compared first. Each further comparison is `reduction_factor` (median: 2) times as "
        "far as the one before; there is none after the last epoch.",
    )
    reduction_factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] = Field(
        3.0, description="asha, hyperband: one in this many candidates goes on after each comparison."
    )
    brackets: Annotated[int, Field(ge=2)] = Field(
        3,
        description="hyperband: number of brackets, which cohorts take in turn. The first one compares as asha does, the second leaves out "
        "the first comparison, and so on; candidates are compared within their bracket.",
    )
    min_trials: Annotated[int, Field(ge=1)] = Field(
        3, description="median: minimum number of other candidates with which a candidate is compared before it is stopped."
    )


RESOURCE_UNITS = 10_000
"""Units of one CPU, GPU or other resource: Ray counts in ten-thousandths, and drops what is less than one."""

_OWN_KEYS = {"cpu": "cpu", "gpu": "gpu", "memory": "memory"}
"""Name of a resource of Ray's, in small letters -> the key of `resources` that asks for it."""


def _check_custom(name: str) -> str:
    """The name of a custom resource, as it is."""
    if (key := _OWN_KEYS.get(name.lower())) is not None:
        raise broken_rule("", f"must be a custom resource; {key} has a key of its own", name, f"Write resources.{key}.")
    if not name.strip() or name.lower() == "object_store_memory" or name.startswith("node:"):
        raise broken_rule("", "must be the name of a custom resource, as in `ray start --resources`", name)
    return name


def _check_gpu(value: Any) -> Any:
    """A share of a GPU, or `auto`, as it is; checked here, as each branch of a union would report an error of its own."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number and value != "auto":
        raise ValueError("must be a number or auto")
    if is_number and not 0 <= value <= 1:
        raise ValueError("must be at least 0" if value < 0 else "must be at most 1")
    return value


_Label = Annotated[str, AfterValidator(check_label_key)]
_Selector = Annotated[str | list[str], BeforeValidator(check_selector)]
_Custom = Annotated[str, AfterValidator(_check_custom)]
_Amount = Annotated[float, Field(ge=1 / RESOURCE_UNITS, allow_inf_nan=False)]


class Resources(Section):
    """The resources that one trial holds while it runs, and the nodes on which it may run."""

    cpu: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(1.0, description="CPUs.")
    gpu: Annotated[Annotated[float, Field(ge=0, le=1)] | Literal["auto"], BeforeValidator(_check_gpu)] = Field(
        0.0,
        description="Share of a GPU; one trial uses at most one GPU. `auto`: a whole one until it is known how much of its memory trials "
        "of this kind take, then as many trials share a GPU as fit; see docs/running.md.",
    )
    gpu_trials: Annotated[int, Field(ge=1, le=64)] = Field(
        8, description="`gpu: auto`: most trials at once on one GPU. Refused with a number."
    )
    memory: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="Memory in GiB that is set aside on the node; null = none. It is not a limit: a trial may use more."
    )
    custom: dict[_Custom, _Amount] = Field(
        {}, description="Custom resources of Ray, as in `ray start --resources`: name -> amount of one trial."
    )
    labels: dict[_Label, _Selector] = Field(
        {},
        description="Labels of the nodes on which trials may run: label -> value, list of values, or a label selector of Ray's: "
        '`"!value"`, `"in(a, b)"`, `"!in(a, b)"`.',
    )

    @property
    def is_auto(self) -> bool:
        """Whether the share of a GPU is chosen by what trials are measured to need."""
        return self.gpu == "auto"

    @property
    def most_gpu(self) -> float:
        """The share of a GPU that a trial holds; under `auto` the largest, a whole one."""
        return 1.0 if self.gpu == "auto" else self.gpu

    def with_gpu(self, share: float) -> Resources:
        """The same with another share of a GPU."""
        return self if self.gpu == share else self.model_copy(update={"gpu": share})

    def bundle(self) -> dict[str, float]:
        """What one trial asks of Ray: name of a resource -> amount, memory in bytes."""
        asked = {"CPU": self.cpu, "GPU": self.most_gpu, "memory": float(round((self.memory or 0.0) * 2**30))} | self.custom
        return {name: amount for name, amount in asked.items() if amount > 0}

    def label_selector(self) -> dict[str, str]:
        """Label -> selector in Ray's spelling; empty if every node will do."""
        return {label: selector_text(value) for label, value in self.labels.items()}

    def describe(self) -> str:
        """What one trial asks for, as text: `2 CPUs, 0.5 GPUs, 4 GiB of memory, on a node with ray.io/market-type: spot`."""
        asked = [f"{self.cpu:g} CPU{'' if self.cpu == 1 else 's'}"]
        if self.is_auto:
            asked.append("a GPU, shared once it is measured how many fit")
        elif self.gpu:
            asked.append(f"{self.gpu:g} GPU{'' if self.gpu == 1 else 's'}")
        asked += [f"{self.memory:g} GiB of memory"] if self.memory else []
        asked += [f"{amount:g} {name}" for name, amount in self.custom.items()]
        labels = ", ".join(f"{label}: {selector}" for label, selector in self.label_selector().items())
        return ", ".join(asked) + (f", on a node with {labels}" if labels else "")

    def count_on(self, total: Mapping[str, float], labels: Mapping[str, str]) -> int:
        """Count the trials that fit at once on a node.

        Args:
            total: Name of a resource, as in `bundle` -> how much of it the node has.
            labels: The node's labels.
        """
        if not select(self.label_selector(), labels):
            return 0
        return min(_count(name, total.get(name, 0.0), amount) for name, amount in self.bundle().items())


def _count(name: str, total: float, amount: float) -> int:
    """How often an amount of a resource is there, in Ray's units."""
    each = max(1, int(amount * RESOURCE_UNITS))
    if name == "GPU":  # a trial's share must be on one GPU: what is left over on two GPUs does not add up
        return int(total) * (RESOURCE_UNITS // each)
    return int(total * RESOURCE_UNITS) // each


_Bound = Annotated[float, Field(gt=0, allow_inf_nan=False)] | None


class Budget(Section):
    """Limits of a sweep; null = no limit."""

    trials: Annotated[int, Field(ge=1)] | None = Field(None, description="A plan with more trials is refused.")
    hours: _Bound = Field(None, description="Wall time of one `sweeper run`, after which it stops as on Ctrl-C.")
    trial_minutes: _Bound = Field(
        None,
        description="Wall time of one trial, with `finetune.fused` its share of its group's; a longer trial is stopped and FAILs with "
        "cause timeout. It is stopped when it reports and, if it does not, half a minute later.",
    )
    silent_minutes: _Bound = Field(30.0, description="A trial that has reported nothing for so long is named while it runs on.")
    free_gib: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        1.0, description="Minimum free disk space, in GiB, for starting a run with results and stages in local folders."
    )
    storage_minutes: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        30.0,
        description="How long trials and the driver wait for results or stages that are out of reach, in minutes, before they fail.",
    )
    gpu_hours: _Bound = Field(
        None, description="GPU time of one `sweeper run`, counted while trials run, after which it stops as on Ctrl-C."
    )


class Rule(Section):
    """A combination is left out if `if` holds and `then` does not."""

    if_: dict[str, Any] = Field(alias="if")
    then: dict[str, Any]


class SpaceFile(Section):
    """The keys of a search-space file."""

    name: str | None = Field(None, description="Name of the sweep in the results; by default the name of the file.")
    description: str = Field("", description="The question that the sweep answers, in one line.")
    base: dict[str, Any] = Field({}, description="Knobs that all trials share, nested or dotted; other knobs come from each task's recipe.")
    space: dict[str, Any] = Field({}, description="Knobs that vary: `{grid: [...]}`, `{choice: [...]}`, `{uniform: [low, high]}`, ...")
    variants: dict[str, dict[str, Any]] = Field({}, description="Named sets of knobs; together they form one axis.")
    design: Literal["factorial", "one-factor-at-a-time"] = Field(
        "factorial", description="All combinations of grid levels; or, for every task, a baseline and each level of each grid on its own."
    )
    seeds: SeedsConfig = Field(
        SeedsConfig(count=1),
        description="Number of seeds, or a list of seeds, or a mapping. Every arm has the same ones, as far as it has them.",
    )
    question: Question | None = Field(
        None, description="What is compared with what; `seeds: {until: decided}` adds seeds until it is answered."
    )
    search: SearchConfig = SearchConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    metric: list[str] = Field(
        ["valid_error"],
        description="Metric that search and scheduler minimise and by which trials are ranked. Under nsga2 it may be a list of two: "
        "candidates are then ranked by the first and, if they tie, by the second.",
    )
    require: list[Rule] = Field([], description="Rules that a combination must satisfy; others are left out.")
    resources: Resources = Resources()
    budget: Budget = Budget()
    bits: Bits = Field(
        "native",
        description="`portable`: trials compute the same bits on every x86-64-v3 processor, which takes longer; CPU only. Workers are "
        "started accordingly, so it applies to the complete sweep. See docs/design.md.",
    )
    keep: Keep = Field(
        "best",
        description="Fine-tuned weights that are kept in the store: `none`; the `best` or `last` ones of each trial; with `all`, the best "
        "ones and the state of every epoch. Unless `all`, states that trials share are dropped when the last of these trials ends.",
    )

    floors: bool = Field(
        True,
        description="Whether `run` also computes what models without a transformer reach on the sweep's tasks: seconds for each task and "
        "split, once, beside the trials. See docs/floors.md.",
    )
    tensorboard: bool = Field(
        False,
        description="Whether `run` also logs its trials as event files for TensorBoard, in `RESULTS/tensorboard/sweep=NAME`, for watching "
        "them while they run; of no effect on results. See docs/exports.md.",
    )

    probes: ProbesConfig = Field(
        ProbesConfig(),
        description="What is measured inside the models of each trial, beside the scores: a list of probes, `all`, or a mapping. See "
        "docs/probes.md.",
    )

    @field_validator("probes", mode="before")
    @classmethod
    def _probes(cls, value: Any) -> Any:
        return value if isinstance(value, Mapping | ProbesConfig) else {"names": value}

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds(cls, value: Any) -> Any:
        if isinstance(value, Mapping | SeedsConfig):
            return value
        seeds = value if isinstance(value, list) else [value]
        if any(isinstance(seed, bool) or not isinstance(seed, int) for seed in seeds):
            raise ValueError("must be a count, a list of whole numbers or a mapping")
        if isinstance(value, list):
            check_list(value, "")
        else:
            check_count(value, "")
        return expand_seeds(value)

    @field_validator("metric", mode="before")
    @classmethod
    def _metric(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("scheduler", "search", mode="before")
    @classmethod
    def _expand_name(cls, value: Any, info: Any) -> Any:
        return {SHORTHAND_KEYS[info.field_name]: value} if isinstance(value, str) else value


SHORTHAND_KEYS = {"search": "algorithm", "scheduler": "name"}
"""Sections that may be written as a single value, and the key that it sets."""


def parse_keys(data: Mapping[str, Any], faults: Faults) -> SpaceFile:
    """Parse the file's own keys. A key with a fault gets its default, so that the other keys are checked, too."""
    try:
        return SpaceFile.model_validate(data)
    except ValidationError as error:
        found = faults_of(error)
    for fault in found:
        if fault.path in ("base", "space") or fault.path.startswith("variants."):
            continue  # reported where the knobs in it are parsed
        section, _, key = fault.path.rpartition(".")
        if fault.rule == "must be a known key":
            faults.add(fault.path, fault.rule, remedy=nearest(key, _known_keys(section.partition(".")[0])))
        elif fault.rule == "must be a number" and (unit := _UNITS.get(key.rpartition("_")[2])):
            faults.add(fault.path, f"must be a number of {unit}", fault.value)
        else:
            faults.extend([fault])
    wrong = {fault.path.partition(".")[0] for fault in found}
    return SpaceFile.model_validate({key: value for key, value in data.items() if key not in wrong})


_UNITS = {"hours": "hours", "minutes": "minutes", "gib": "GiB"}
"""Last word of a key -> the unit of its value."""


def _known_keys(section: str) -> list[str]:
    """The keys of the file, or of one of its sections."""
    if not section:
        return list(SpaceFile.model_fields)
    annotation = SpaceFile.model_fields[section].annotation
    model: Any = next((part for part in (annotation, *get_args(annotation)) if hasattr(part, "model_fields")), None)
    return [field.alias or name for name, field in model.model_fields.items()] if model else []
