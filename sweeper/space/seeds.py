"""The keys of a search-space file that say with how many seeds its arms run, and what is compared."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from orca_core.config.faults import broken_rule
from orca_core.errors import Fault
from sweeper.space.section import Section

MAX_SEEDS = 10_000
"""Maximum number of seeds: a larger one is a typo, and its plan would fill the memory."""


class SeedsConfig(Section):
    """The seeds of every arm: a number of them, a list, or as many as a question takes. A count or a list may stand for the mapping."""

    count: int | None = Field(None, description="Number of seeds: 0, 1, 2, ...")
    list_: list[int] | None = Field(None, alias="list", description="The seeds themselves.")
    until: Literal["decided"] | None = Field(
        None, description="`decided`: seeds are added to the arms of contrasts of `question` that are still open, between `from` and `to`."
    )
    from_: Annotated[int, Field(ge=2)] | None = Field(
        None, alias="from", description="until: number of seeds with which every arm begins; null = 3."
    )
    to: Annotated[int, Field(ge=2)] | None = Field(None, description="until: maximum number of seeds of an arm; null = 12.")
    vary: list[Literal["seed", "split_seed"]] = Field(
        ["seed"],
        description="Knobs that each seed sets to its value. `[seed, split_seed]`: every seed also draws a split of its own, so that what "
        "is concluded from the seeds holds for other splits, too.",
    )

    @model_validator(mode="after")
    def _check(self) -> SeedsConfig:
        given = [key for key, value in (("count", self.count), ("list", self.list_), ("until", self.until)) if value is not None]
        if len(given) != 1:
            rule = "must have one of count, list and until"
            raise broken_rule("", rule, ", ".join(given) or Fault.ABSENT, "Write, for example, {count: 5} or {until: decided, to: 12}.")
        if self.count is not None:
            check_count(self.count, "count")
        if self.list_ is not None:
            check_list(self.list_, "list")
        for key, value in (("from", self.from_), ("to", self.to)):
            if value is not None and self.until is None:
                raise broken_rule(key, "must be used with until: decided", value)
        if self.until is not None:
            check_count(self.most, "to")
            if self.first > self.most:
                raise broken_rule("from", f"must be at most seeds.to = {self.most}", self.first)
        if "seed" not in self.vary or len(set(self.vary)) < len(self.vary):
            raise broken_rule("vary", "must be [seed] or [seed, split_seed]", self.vary)
        return self

    @property
    def first(self) -> int:
        """Number of seeds with which an arm begins under `until`."""
        return 3 if self.from_ is None else self.from_

    @property
    def most(self) -> int:
        """Maximum number of seeds of an arm under `until`."""
        return max(12, self.first) if self.to is None else self.to

    def numbers(self) -> tuple[int, ...]:
        """All seeds that an arm may have, in the order in which they are run."""
        if self.list_ is not None:
            return tuple(self.list_)
        return tuple(range(self.most if self.count is None else self.count))


def check_count(count: int, key: str) -> None:
    """Raise a broken rule unless this can be a number of seeds."""
    if count < 1:
        raise broken_rule(key, "must be at least 1", count)
    if count > MAX_SEEDS:
        raise broken_rule(key, f"must be at most {MAX_SEEDS}", count)


def check_list(seeds: list[int], key: str) -> None:
    """Raise a broken rule unless these can be seeds."""
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) >= 2**32:
        raise broken_rule(key, "must be a list of different whole numbers from 0, at least one", seeds)


def _check_margin(value: Any) -> Any:
    number = re.fullmatch(r"([0-9.]+)%", value) if isinstance(value, str) else None
    try:
        size = float(number[1]) if number else float("nan") if isinstance(value, str | bool) else float(value)
    except (TypeError, ValueError):
        size = math.nan
    if not 0 < size < math.inf:
        raise broken_rule("", "must be a share such as 5%, or a number in the metric's unit, greater than 0", value)
    return value if isinstance(value, str) else size


class Question(Section):
    """What the sweep compares: each level of a factor with a baseline, on each task."""

    factor: str = Field(description="The knob whose levels are compared: one that the space varies as a grid, or in its variants.")
    baseline: Any = Field(description="The level with which each of the others is compared.")
    by: Literal["task"] = Field("task", description="Each task has contrasts of its own.")
    within: str | None = Field(None, description="A further knob that the space varies: each of its levels has contrasts of its own, too.")
    metric: str = Field(
        "test_error",
        description="Metric that is compared. It decides about the number of seeds alone: epochs and settings are chosen on validation "
        "data.",
    )
    margin: Annotated[float | str, BeforeValidator(_check_margin)] = Field(
        "5%",
        description="Differences within it are none: a share of the baseline's mean such as `5%`, and then at least one sample's worth; or "
        "a number in the metric's unit.",
    )
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        0.05,
        description="Probability that any contrast of the sweep is called different although it is not; and that any is called the same "
        "although its difference is as large as the margin. Whatever the number of contrasts and looks.",
    )


def expand_seeds(seeds: Any) -> Any:
    """`seeds` as a mapping, if it is a count or a list."""
    return seeds if isinstance(seeds, Mapping) else {"list" if isinstance(seeds, list) else "count": seeds}
