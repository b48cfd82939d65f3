"""Analyses of the results of a sweep, from tables to tables. They need neither Ray nor torch.

from sweeper import Results
from sweeper.analysis import effects, explain, findings, importance

trials = Results("results").sql("from trial_status where sweep = 'quickstart' and in_plan").arrow()
effects(trials, factor="align.epochs", baseline=0)      # an Arrow table: a row for each task and level, and over tasks
importance(trials)                                      # shares of variance by factor and pair
findings(trials)                                        # the questions that the trials can answer, in words
explain(trials)                                         # what explains the gaps of pretraining and of alignment
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeper.analysis.tables import effects, explain, findings, importance

__all__ = ["effects", "explain", "findings", "importance"]

_EXPORTS = dict.fromkeys(__all__, "sweeper.analysis.tables")
"""Public name -> the module that has it. No module of this package may have the name of a public function: importing it would hide that."""


def __getattr__(name: str) -> Any:
    """Import a public name on first access, so that importing the package itself is fast."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    """The public names, for tab completion."""
    return sorted(__all__)
