"""What is said of the user's own tables before anything starts: which column is predicted, and what to look at."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from orca_core.config.knobs import TrialConfig


def tell_tables(configs: Iterable[TrialConfig]) -> None:
    """Print to standard error, once for each table: its target, and a warning for each of its notes."""
    specs = {config.task: config.task_spec for config in configs if config.task.startswith("csv:")}
    for name, spec in sorted(specs.items()):
        sys.stderr.write(f"{name}: {spec.summary}\n")
        sys.stderr.writelines(f"warning: {name}: {note}\n" for note in spec.notes)
