"""Sweeps and ablations of ORCA cross-modal fine-tuning on Ray Tune, results as Parquet.

from sweeper import Results, load_space, plan, run

space = load_space("quickstart")                # a name, a path or a dict
plan(space)                                     # trials and the stages they share
run(space, "results")                           # run, or continue
Results("results").sql(
    "select freezing, avg(test_error) as error from trials "
    "where sweep = 'quickstart' and task = 'digits' group by all"
).df()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeper.planning.planner import make_plan as plan
    from sweeper.results.query import Results
    from sweeper.results.workspace import Workspace
    from sweeper.space.reading import load_space
    from sweeper.sweep import run_space as run

__all__ = ["Results", "Workspace", "load_space", "plan", "run"]

_EXPORTS = {
    "Results": ("sweeper.results.query", "Results"),
    "Workspace": ("sweeper.results.workspace", "Workspace"),
    "load_space": ("sweeper.space.reading", "load_space"),
    "plan": ("sweeper.planning.planner", "make_plan"),
    "run": ("sweeper.sweep", "run_space"),
}


def __getattr__(name: str) -> Any:
    """Import a public name on first access, so that importing the package itself is fast."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _EXPORTS[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    """The public names, for tab completion."""
    return sorted(__all__)
