"""The section `search` of a search-space file: how values of tuned knobs are chosen."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from sweeper.space.section import Section


class SearchConfig(Section):
    """How values of tuned knobs are chosen."""

    algorithm: Literal["grid", "random", "qmc", "tpe", "gp", "cmaes", "nsga2"] = Field(
        "grid",
        description="`grid` tunes nothing; the others tune each arm. `random` and `qmc` (quasi-random numbers, which fill the ranges more "
        "evenly) do not look at results. `tpe`, `gp` (a Gaussian process), `cmaes` and `nsga2` learn from them.",
    )
    trials: Annotated[int, Field(ge=1)] = Field(16, description="Number of candidates per arm; each is run with every seed.")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="Seed of the draws, which are the same for all arms.")
    lag: Annotated[int, Field(ge=1)] = Field(
        4,
        description="tpe, gp, cmaes, nsga2: a candidate is proposed from the results of the candidates at least `lag` before it. So `lag` "
        "candidates of an arm can run at the same time, and proposals do not depend on timing.",
    )
    replicate: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Number of further seeds with which the best candidate of each arm is repeated, once all have run; 0 = none. Arms are "
        "then compared by these trials alone.",
    )
    points: list[dict[str, Any]] = Field(
        [], description="Values of tuned knobs for the first candidates of every arm: knob -> value. Knobs that are left out are drawn."
    )
    warm_start: list[str] = Field(
        [],
        description="tpe, gp: names of earlier sweeps in the same results, from whose candidates each arm learns: those of the same arm. "
        "They are read when the sweep is first run.",
    )
    population: Annotated[int, Field(ge=2)] = Field(8, description="nsga2: number of candidates of a generation.")

    @property
    def learns(self) -> bool:
        """Whether candidates are proposed from the scores of earlier ones."""
        return self.algorithm in ("tpe", "gp", "cmaes", "nsga2")
