"""What is said of the user's own data before anything starts: which column of a table is predicted, and what to look at."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from orca_core.config.knobs import TrialConfig


def tell_notes(configs: Iterable[TrialConfig]) -> None:
    """Print to standard error, once for each task: the target of a table, and a warning for each of its notes."""
    specs = {config.task: config.task_spec for config in configs}
    for name, spec in sorted(specs.items()):
        if name.startswith("csv:"):
            sys.stderr.write(f"{name}: {spec.summary}\n")
        sys.stderr.writelines(f"warning: {name}: {note}\n" for note in spec.notes)
