"""One answer of several models: of a model that reads its inputs forwards and one that reads them from their end (`reversed`).

Each model answers by itself; answers of a `reversed` model are turned back. Their mean is scored as any outputs are: of classes, labels and
positions that are yes or no the mean of probabilities, of values the mean of values. García-de-Herreros et al. 2025 (arXiv 2510.05278,
"Parallel Flipping") combine two such models; how, their released code does not show, so that the mean is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from orca_core.config.knobs import TrialConfig
from orca_core.errors import DataError
from orca_core.export import Which, find_weights
from orca_core.finetuning.evaluation import evaluate
from orca_core.model.cross_modal import CrossModalModel
from orca_core.pipeline import model_before_tuning
from orca_core.scoring import LOSSES, SCORES
from orca_core.settings import Settings
from orca_core.store import Store
from orca_core.tasks import Split, TaskData
from orca_core.tasks.reversal import from_end
from orca_core.trial_stages import TrialStages
from orca_core.workbench import Workbench


@dataclass(frozen=True)
class Combined:
    """What the mean of some models' answers scores, by the core's own evaluation."""

    valid_loss: float
    valid_error: float
    test_error: float


def combine(
    members: Sequence[TrialConfig],
    store: Store,
    which: Which = "best",
    *,
    device: str = "cpu",
    workbench: Workbench | None = None,
) -> Combined:
    """Average the answers of the fine-tuned models of some trials, and score the mean on validation and test.

    Args:
        members: Trials of one task and split, without folds; some of them may read it `reversed`.
        store: Where their stages and weights are; what it lacks is computed again, to the same bits.
        which: The weights of the best epoch on the selection split, or of the last.
        device: Device type, `cpu` or `cuda`.
        workbench: Where data lies and what stays loaded; None = the current one.

    Raises:
        DataError: If there are no validation or test samples.
        OrcaError: If data, body or store cannot be used.
    """
    with (workbench or Workbench.current()).use():
        plain = members[0].model_copy(update={"reversed": False})
        data, settings = TrialStages(plain, store, device).load_data(), Settings.of(plain, "finetune")
        answers: dict[str, list[Tensor]] = {"valid": [], "test": []}
        for config in members:
            model, own = _model(config, store, which, device), TrialStages(config, store, device).load_data()
            for part, split in (("valid", own.valid), ("test", own.test)):
                answers[part].append(_probabilities(_outputs(model, config, own, split, device), settings))
        valid, test = (_score(settings, data, getattr(data, part), answers[part]) for part in ("valid", "test"))
        return Combined(valid[0], valid[1], test[1])


def _model(config: TrialConfig, store: Store, which: Which, device: str) -> CrossModalModel:
    from safetensors.torch import load

    model = model_before_tuning(config, store, device=device)
    model.load_state_dict(load(find_weights(config, store, which, device).files["tensors.safetensors"]), strict=False)
    return model.to(device).eval()


def _outputs(model: CrossModalModel, config: TrialConfig, data: TaskData, split: Split, device: str) -> Tensor:
    """(n, ...) outputs for a part of the data as the model reads it, turned back if it reads from the end; float32, on the CPU."""
    if not len(split):
        raise DataError("models whose answers are averaged must have validation and test samples")
    dtype = torch.float16 if config.precision == "fp16" else torch.bfloat16
    parts = []
    with torch.no_grad(), torch.autocast(device, dtype, enabled=config.precision != "fp32"):
        for rows in torch.from_numpy(split.x).split(config.finetune.eval_batch_size):
            parts.append(model.infer(data.inputs(rows.to(device))).float().cpu())
    outputs = torch.cat(parts)
    return from_end(outputs) if config.reversed and outputs.dim() > 2 else outputs


def _are_logits(settings: Settings) -> bool:
    return settings.task.kind == "multilabel" or settings.task.loss.startswith("bce")


def _probabilities(outputs: Tensor, settings: Settings) -> Tensor:
    """What is averaged, float64: probabilities, or the values themselves."""
    if settings.task.kind == "classification":
        return outputs.double().softmax(1)
    return outputs.double().sigmoid() if _are_logits(settings) else outputs.double()


def _score(settings: Settings, data: TaskData, split: Split, answers: Sequence[Tensor]) -> tuple[float, float]:
    """Loss and error of the mean of answers, which becomes outputs again: logits that have these probabilities."""
    mean = torch.stack(list(answers)).mean(0)
    smallest = torch.finfo(torch.float64).tiny
    if settings.task.kind == "classification":
        mean = mean.clamp(min=smallest).log()
    elif _are_logits(settings):
        mean = mean.clamp(min=smallest).log() - (1 - mean).clamp(min=smallest).log()
    loss, score = LOSSES[settings.task.loss](torch.from_numpy(data.train.y)), SCORES[settings.task.score_name(settings["reference_data"])]
    decode = data.decode or (lambda values: values)
    return evaluate(settings, mean.float(), torch.from_numpy(split.y), group=split.group, decode=decode, loss=loss, score=score)
