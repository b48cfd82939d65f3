"""ORCA, cross-modal fine-tuning by align-then-refine (Shen et al., ICML 2023), as deterministic, content-addressed stages.

from orca_core import Store, resolve_config, run_trial

config = resolve_config({"task": "digits", "align.epochs": 10})
run_trial(config, Store("artifacts"), print)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orca_core.config.knobs import TrialConfig
    from orca_core.config.resolve import resolve_config
    from orca_core.export import load_model, tuned_model
    from orca_core.fused_trials import run_trials
    from orca_core.pipeline import run_trial
    from orca_core.store import Store
    from orca_core.workbench import Workbench

__all__ = ["Store", "TrialConfig", "Workbench", "load_model", "resolve_config", "run_trial", "run_trials", "tuned_model"]

_MODULES = {
    "Store": "store",
    "TrialConfig": "config.knobs",
    "Workbench": "workbench",
    "load_model": "export",
    "resolve_config": "config.resolve",
    "run_trial": "pipeline",
    "run_trials": "fused_trials",
    "tuned_model": "export",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are asked for: the package itself imports nothing."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"orca_core.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """The public names, for tab completion."""
    return sorted(__all__)
