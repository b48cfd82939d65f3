"""A sweep in the formats of other tools (Optuna, MLflow, TensorBoard, Trackio, CSV, Parquet), from its tables alone."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from orca_core.errors import ConfigError, Fault, nearest
from orca_core.whole import check_free, written_whole
from sweeper.interchange.sweep import read_sweep
from sweeper.results.workspace import Workspace


@dataclass(frozen=True)
class Format:
    """A format that a sweep can be exported to.

    Args:
        module: Module of this package whose `write(sweep, path)` writes it.
        opens: How it is opened, one line for each way. `{path}` is the absolute path, `{shell}` the same in a command, `{sqlite}` the URL
            of a database in a command.
        package: Module that writes it; empty if it is always there.
        extra: What installs that.
    """

    module: str
    opens: tuple[str, ...]
    package: str = ""
    extra: str = ""


_EXPORTS, _TRACKIO = "'orca-sweeper[exports]'", "'orca-sweeper[trackio]'"

FORMATS = {
    "optuna": Format("optuna_studies", ("optuna-dashboard {sqlite}", "optuna.load_study(study_name=..., storage='sqlite:///{path}')")),
    "mlflow": Format("mlflow_runs", ("mlflow ui --backend-store-uri {sqlite}",), "mlflow", _EXPORTS),
    "tensorboard": Format("tensorboard_runs", ("tensorboard --logdir {shell}",), "tensorboard", _EXPORTS),
    "trackio": Format("trackio_runs", ("TRACKIO_DIR={shell} trackio show",), "trackio", _TRACKIO),
    "csv": Format("tables", ("{path}/trials.csv, metrics.csv, stages.csv, probes.csv, floors.csv",)),
    "pandas": Format("tables", ("pandas.read_parquet('{path}/trials.parquet'), likewise metrics, stages, probes, floors",)),
}
"""The formats by the name that `--to` takes."""


def export_sweep(workspace: Workspace, name: str, to: str, path: Path) -> str:
    """Write a sweep in the format of another tool: as a whole or not at all, and over nothing that exists.

    Trials that are in the plan and have ended count: COMPLETE, PRUNED and FAIL. Tables have the rows of all others, too.

    Args:
        workspace: Where the results are.
        name: Name of the sweep.
        to: One of `FORMATS`.
        path: File or folder to write.

    Returns:
        What was written and how it is opened, as lines.

    Raises:
        ConfigError: With all faults of the arguments; if the sweep is unknown or has nothing to export.
        OSError: If it cannot be written.
    """
    path = path.expanduser()
    faults = []
    if to not in FORMATS:
        faults.append(Fault("--to", f"must be one of {', '.join(FORMATS)}", to, nearest(to, FORMATS).partition("Known:")[0].strip()))
    elif (known := FORMATS[to]).package and find_spec(known.package) is None:
        faults.append(Fault("--to", f"{to} needs the package {known.package}", Fault.ABSENT, f"Install it: pip install {known.extra}"))
    for check in (lambda: check_free(path, "--output"), lambda: workspace.results.check_sweep(name)):
        try:
            check()
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
    found, chosen = read_sweep(workspace, name), FORMATS[to]
    if not found.trials and chosen.module != "tables":
        raise ConfigError([Fault("", f"{name} has no trial yet that has ended", Fault.ABSENT, f"See `sweeper status {name}`.")])
    with written_whole(path) as beside:
        module = import_module(f"sweeper.interchange.{chosen.module}")
        written = module.write(found, beside, to) if chosen.module == "tables" else module.write(found, beside)
    full = path.absolute()
    names = {"path": full, "shell": shlex.quote(str(full)), "sqlite": shlex.quote(f"sqlite:///{full}")}
    lines = [f"{path}: {written}", *(f"  {way.format(**names)}" for way in chosen.opens)]
    if found.open and chosen.module != "tables":
        lines.append(f"  left out: {found.open} trials that have not ended; export again, to another path, when they have")
    return "\n".join(lines) + "\n"
