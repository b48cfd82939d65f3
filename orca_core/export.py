"""Fine-tuned models as files, and back, for use elsewhere.

    <folder>/model.safetensors    every parameter
    <folder>/model.json           the trial, how raw data becomes inputs and outputs become answers, its errors; see `TunedModel.save`
    <folder>/README.md            what it expects and answers, and how to use it

A trial is a pure function of its config, so weights that were not kept, or were deleted, are computed again, to the same bits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from orca_core.addresses import Address
from orca_core.config.knobs import TrialConfig
from orca_core.errors import DataError
from orca_core.prediction import TASK_FIELDS, VERSION, TunedModel
from orca_core.stages import result_key, stages_of
from orca_core.store import Store
from orca_core.tasks.preparation import from_json
from orca_core.tasks.spec import TaskSpec
from orca_core.workbench import Workbench

__all__ = ["TunedModel", "load_model", "tuned_model"]

Which = Literal["best", "last"]


def tuned_model(
    config: TrialConfig, store: Store, which: Which = "best", *, device: str = "cpu", workbench: Workbench | None = None
) -> TunedModel:
    """The fine-tuned model of a trial: from the store, or computed again.

    Args:
        config: The trial.
        store: Where to look for its stages and weights.
        which: The weights of the best epoch on the selection split, or of the last.
        device: Device type to train on.
        workbench: Where data lies and what stays loaded; None = the current one.

    Raises:
        OrcaError: If data, body or store cannot be used.
    """
    with (workbench or Workbench.current()).use():
        return _tuned_model(config, store, which, device)


def _tuned_model(config: TrialConfig, store: Store, which: Which, device: str) -> TunedModel:
    from orca_core.pipeline import model_before_tuning, run_trial

    address = Address.model(result_key(config, stages_of(config, device)), which)
    artifact = store.get(address)
    computed = artifact is None
    if artifact is None:
        with TemporaryDirectory() as folder:  # fine-tuning is done again in full: a store of its own has no rows to pass on instead
            fresh = Store(folder)
            run_trial(config, fresh, lambda row: None, device=device, keep=which)
            artifact = fresh.get(address)
    assert artifact is not None
    described = artifact.data if "preparation" in artifact.data else _describe(config)
    shapes = tuple(described["input_shape"]), tuple(described["output_shape"])
    model = model_before_tuning(config, store, device=device, shapes=shapes)
    model.load_state_dict(dict(artifact.tensors), strict=False)
    preparation, errors = from_json(described["preparation"]), artifact.data.get("errors", {})
    return TunedModel(model.to("cpu").eval(), config, artifact.data["epoch"], computed, preparation, errors)


def _describe(config: TrialConfig) -> dict[str, Any]:
    """What version 0.1 did not keep beside weights, out of the task's data."""
    from orca_core.pipeline import describe_data, load_data
    from orca_core.settings import Settings

    return describe_data(load_data(Settings.of(config, "finetune")))


def load_model(folder: str | Path) -> TunedModel:
    """A model that `TunedModel.save` or `sweeper best NAME --export-model` wrote. The task's data need not be there.

    The body must still be available: it defines the architecture; weights come from the folder.

    Example:
        >>> model = load_model("my-model")                               # doctest: +SKIP
        >>> model.predict("new.csv")                                     # doctest: +SKIP

    Raises:
        DataError: If the folder does not hold one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from orca_core.bodies.loading import random_body
    from orca_core.model.cross_modal import CrossModalModel
    from orca_core.settings import Settings

    path = Path(folder).expanduser()
    contents = _read_description(path)
    config = TrialConfig.model_validate_json(json.dumps(contents["config"]))
    if "task" in contents:
        _remember_task(config, contents["task"])
    preparation = from_json(contents["preparation"]) if "preparation" in contents else None
    body = random_body(config.body_spec, seed=config.seed, dropout=config.finetune.dropout)
    model = CrossModalModel(Settings.of(config, "finetune"), body, tuple(contents["input_shape"]), tuple(contents["output_shape"]))
    try:
        model.load_state_dict(load_file(path / "model.safetensors"))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise DataError(f"{path}: model.safetensors must hold the weights that model.json describes ({error})") from None
    return TunedModel(model.eval(), config, contents["epoch"], preparation=preparation, errors=contents.get("errors", {}))


def _read_description(path: Path) -> dict[str, Any]:
    """The content of `model.json`.

    Raises:
        DataError: If it cannot be read, or is of a later version.
    """
    rule = "must hold model.json and model.safetensors as `TunedModel.save` writes them"
    try:
        contents = json.loads((path / "model.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: {rule} ({error})") from None
    needed = {"config", "epoch", "input_shape", "output_shape"}
    if not isinstance(contents, dict) or (missing := sorted(needed - contents.keys())):
        raise DataError(f"{path}: {rule}, but model.json lacks {', '.join(missing) if isinstance(contents, dict) else 'everything'}")
    if contents.get("version", 1) not in (1, VERSION):
        raise DataError(f"{path}: model.json must be of version {VERSION} or 1, but is of {contents['version']}. Update this package.")
    return contents


def _remember_task(config: TrialConfig, known: Mapping[str, Any]) -> None:
    """Let a config know its task without the task's files, which may be elsewhere."""
    vars(config)["task_spec"] = TaskSpec(loader="", recipes={}, **{name: known[name] for name in TASK_FIELDS})
