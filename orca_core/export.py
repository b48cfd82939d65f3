"""Fine-tuned models as files, and back, for use elsewhere.

    <folder>/model.safetensors    every parameter
    <folder>/model.json           the trial, how raw data becomes inputs and outputs become answers, its errors
    <folder>/README.md            the same for people: a model card

A trial is a pure function of its config, so weights that were not kept, or were deleted, are computed again, to the same bits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from orca_core.addresses import Address
from orca_core.config.knobs import TrialConfig
from orca_core.description import Description, read_description
from orca_core.errors import DataError
from orca_core.model_card import Evidence
from orca_core.prediction import TunedModel
from orca_core.stages import result_key, stages_of
from orca_core.store import Store
from orca_core.tasks.preparation import from_json
from orca_core.whole import check_free, written_whole
from orca_core.workbench import Workbench

__all__ = ["TunedModel", "export_model", "load_model", "tuned_model"]

Which = Literal["best", "last"]


@dataclass(frozen=True)
class KeptWeights:
    """Fine-tuned weights in a store.

    Args:
        files: Of the artifact, by name.
        data: What `data.json` says: epoch, errors, shapes, preparation, and whether the weights are all that the network has.
        computed: Whether they had to be computed again.
    """

    files: Mapping[str, bytes]
    data: Mapping[str, Any]
    computed: bool

    def describe(self, config: TrialConfig) -> Description:
        """The model they belong to. What version 0.1 did not keep is read from the task's data."""
        found = self.data
        if "preparation" not in found:
            from orca_core.keeping import describe_data
            from orca_core.settings import Settings
            from orca_core.trial_stages import load_data

            found = dict(found) | describe_data(load_data(Settings.of(config, "finetune")))
        shapes = tuple(found["input_shape"]), tuple(found["output_shape"])
        return Description(config, found["epoch"], *shapes, from_json(found["preparation"]), found.get("errors", {}))


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
        kept = find_weights(config, store, which, device)
        return _build(kept, kept.describe(config), store, device)


def export_model(
    config: TrialConfig,
    store: Store,
    folder: str | Path,
    which: Which = "best",
    *,
    errors: Mapping[str, float] = {},
    evidence: Evidence | None = None,
    device: str = "cpu",
    workbench: Workbench | None = None,
) -> tuple[Description, bool]:
    """Write the fine-tuned model of a trial to a folder, for `load_model`. Kept weights that are complete are copied, without torch.

    The folder is written as a whole or not at all.

    Args:
        config, store, which, device, workbench: As for `tuned_model`.
        folder: Where to; must not exist yet, or be empty.
        errors: Of the trial's rows, for weights that version 0.1 kept without them.
        evidence: What the sweep knows of the trial's arm, for the model card.

    Returns:
        What was written, and whether the weights had to be computed again.

    Raises:
        ConfigError: If there is something at the folder's path already.
        OrcaError: If data, body or store cannot be used.
        OSError: If the folder cannot be written.
    """
    path = Path(folder).expanduser()
    check_free(path, "")
    with (workbench or Workbench.current()).use():
        kept = find_weights(config, store, which, device)
        description = replace(kept.describe(config), evidence=evidence)
        if not description.errors:
            description = replace(description, errors=errors)
        model = None if kept.data.get("complete") else _build(kept, description, store, device)
        with written_whole(path) as beside:
            if model is None:
                beside.mkdir()
                (beside / "model.safetensors").write_bytes(kept.files["tensors.safetensors"])
            else:
                model.save(beside)
            description.write(beside)
    return description, kept.computed


def find_weights(config: TrialConfig, store: Store, which: Which, device: str) -> KeptWeights:
    """The kept weights of a trial; if there are none, they are computed again."""
    address = Address.model(result_key(config, stages_of(config, device)), which)
    if (files := store.files(address)) is not None:
        return KeptWeights(files, json.loads(files["data.json"]), computed=False)
    from orca_core.pipeline import run_trial

    with TemporaryDirectory() as folder:  # fine-tuning is done again in full: a store of its own has no rows to pass on instead
        fresh = Store(folder)
        run_trial(config, fresh, lambda row: None, device=device, keep=which)
        files = fresh.files(address)
    assert files is not None
    return KeptWeights(files, json.loads(files["data.json"]), computed=True)


def _build(kept: KeptWeights, description: Description, store: Store, device: str) -> TunedModel:
    """The network with the weights of its pretraining, its alignment and the kept ones."""
    from safetensors.torch import load

    from orca_core.pipeline import model_before_tuning

    shapes = description.input_shape, description.output_shape
    model = model_before_tuning(description.config, store, device=device, shapes=shapes)
    model.load_state_dict(load(kept.files["tensors.safetensors"]), strict=False)
    known = description
    return TunedModel(model.to("cpu").eval(), known.config, known.epoch, kept.computed, known.preparation, known.errors)


def load_model(folder: str | Path, *, any_range: bool = False) -> TunedModel:
    """A model that `TunedModel.save` or `sweeper best NAME --export-model` wrote. The task's data need not be there.

    The body must still be available: it defines the architecture; weights come from the folder.

    Args:
        folder: Where it was written.
        any_range: Take values that are far outside of the range of the training samples, too.

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
    known = read_description(path)
    preparation = known.preparation
    if preparation is not None and any_range:
        preparation = replace(preparation, inputs=preparation.inputs.in_any_range())
    body = random_body(known.config.body_spec, seed=known.config.seed, dropout=known.config.finetune.dropout)
    shapes = known.config
    if shapes.embedder.weights is not None:  # the file that the embedder started from need not be there: all weights are in the folder
        shapes = shapes.model_copy(update={"embedder": shapes.embedder.model_copy(update={"weights": None, "init": "random"})})
    model = CrossModalModel(Settings.of(shapes, "finetune"), body, known.input_shape, known.output_shape)
    try:
        tensors = load_file(path / "model.safetensors")
        missing = [name for name, value in model.state_dict().items() if name not in tensors and value.is_floating_point()]
        if missing:
            raise RuntimeError(f"{len(missing)} are missing, among them {missing[0]}")
        unexpected = model.load_state_dict(tensors, strict=False).unexpected_keys
        if unexpected:
            raise RuntimeError(f"{len(unexpected)} are not of this network, among them {unexpected[0]}")
    except (OSError, SafetensorError, RuntimeError) as error:
        raise DataError(f"{path}: model.safetensors must hold the weights that model.json describes ({error})") from None
    return TunedModel(model.eval(), known.config, known.epoch, preparation=preparation, errors=known.errors)
