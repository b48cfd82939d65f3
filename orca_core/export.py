"""Fine-tuned models as files, and back, for use elsewhere.

    <folder>/model.safetensors    every parameter
    <folder>/model.json           the trial's config, shapes, which epoch

A trial is a pure function of its config, so weights that were not kept, or were deleted, are computed again, to the same bits.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from orca_core.addresses import Address
from orca_core.config.knobs import TrialConfig
from orca_core.errors import DataError
from orca_core.stages import result_key, stages_of
from orca_core.store import Store
from orca_core.workbench import Workbench

if TYPE_CHECKING:
    from orca_core.model.cross_modal import CrossModalModel

Which = Literal["best", "last"]


@dataclass(frozen=True)
class TunedModel:
    """A fine-tuned model.

    Args:
        model: In eval mode, on the CPU.
        config: Its trial.
        epoch: Fine-tuning epoch after which its weights were taken.
        computed: Whether the weights had to be computed again.
    """

    model: CrossModalModel
    config: TrialConfig
    epoch: int
    computed: bool = False

    def save(self, folder: str | Path) -> None:
        """Write it to a folder.

        Raises:
            OSError: If that cannot be written.
        """
        from safetensors.torch import save_file

        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in self.model.state_dict().items()}, path / "model.safetensors")
        contents = {"config": self.config.model_dump(mode="json"), "epoch": self.epoch}
        contents |= {"input_shape": self.model.input_shape, "output_shape": self.model.output_shape}
        (path / "model.json").write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")


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
    model = model_before_tuning(config, store, device=device)
    model.load_state_dict(dict(artifact.tensors), strict=False)
    return TunedModel(model.to("cpu").eval(), config, artifact.data["epoch"], computed)


def load_model(folder: str | Path) -> TunedModel:
    """A model that `TunedModel.save` wrote. The body must still be available: it defines the architecture; weights come from the folder.

    Example:
        >>> tuned = load_model("my-model")                               # doctest: +SKIP
        >>> logits = tuned.model(torch.from_numpy(x))                    # doctest: +SKIP

    Raises:
        DataError: If the folder does not hold one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from orca_core.bodies.loading import random_body
    from orca_core.model.cross_modal import CrossModalModel
    from orca_core.settings import Settings

    path = Path(folder)
    try:
        contents = json.loads((path / "model.json").read_text(encoding="utf-8"))
        tensors = load_file(path / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"{path}: must hold model.json and model.safetensors as `TunedModel.save` writes them ({error})") from None
    config = TrialConfig.model_validate_json(json.dumps(contents["config"]))
    body = random_body(config.body_spec, seed=config.seed, dropout=config.finetune.dropout)
    shapes = config
    if config.embedder.weights is not None:  # the file that the embedder started from need not be there: all weights are in the folder
        shapes = config.model_copy(update={"embedder": config.embedder.model_copy(update={"weights": None, "init": "random"})})
    model = CrossModalModel(Settings.of(shapes, "finetune"), body, tuple(contents["input_shape"]), tuple(contents["output_shape"]))
    model.load_state_dict(tensors)
    return TunedModel(model.eval(), config, contents["epoch"])
