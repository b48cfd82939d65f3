"""Pretraining of the mini bodies, on any corpus of `orca_core.corpora`, by any objective that fits. A trajectory like any other.

The learning rate is constant after a short warm-up in steps, so that a longer pretraining passes through a shorter one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from orca_core.bodies import BodySpec
from orca_core.bodies.mini import mini_model
from orca_core.corpora import Corpus, corpus_of, objective_of
from orca_core.corpora.images import Pictures, load_pictures
from orca_core.corpora.sequences import Sequences, load_sequences
from orca_core.pretraining.objectives import Causal, DenoisedImages, DenoisedText, LabelledImages, LabelledText, Masked, Objective
from orca_core.rows import EpochRow
from orca_core.seeding import generator, seeded
from orca_core.settings import Settings
from orca_core.training.optimizers import load_optimizer_state, optimizer_state

LR, WEIGHT_DECAY, WARMUP_STEPS, BATCH_SIZE = 2e-3, 0.01, 50, 32


class Pretraining:
    """Pretraining of one mini body.

    Args:
        settings: Of the stage; its body is a mini body.
        device: Where to train.
    """

    def __init__(self, settings: Settings, device: torch.device) -> None:
        spec = settings.body
        self.seed, self.device = settings["pretrain.seed"], device
        corpus = corpus_of(spec, settings["pretrain.corpus"])
        objective = objective_of(spec, settings["pretrain.objective"])
        with seeded(self.seed, "pretrain-init"):
            model = mini_model(spec).to(device)
            self.task = _task(spec, corpus, objective, model, device)
        self.model = model
        self.modules = nn.ModuleDict({"model": model, "head": self.task.head})
        self.train, self.valid = split_corpus(self.task.size, settings["pretrain.fraction"], self.seed)
        if (noise := settings["pretrain.label_noise"]) and isinstance(self.task, LabelledText | LabelledImages):
            self.task.add_label_noise(noise, self.train, generator(self.seed, "pretrain-label-noise"))
        # The fused step takes roots as the processor does; the other one leaves them to MKL, to other bits on other processors.
        fused = settings["bits"] == "portable" or None
        self.optimizer = torch.optim.AdamW(self.modules.parameters(), LR, weight_decay=WEIGHT_DECAY, fused=fused)

    def run_epoch(self, epoch: int) -> EpochRow:
        """One pass over the data, then validation."""
        self.modules.train()
        order = self.train[torch.randperm(len(self.train), generator=generator(self.seed, "pretrain-order", epoch))]
        draws = generator(self.seed, "pretrain-mask", epoch)
        batches = order.split(BATCH_SIZE)
        total = 0.0
        for number, indices in enumerate(batches):
            step = (epoch - 1) * len(batches) + number + 1
            self.optimizer.param_groups[0]["lr"] = LR * min(1.0, step / WARMUP_STEPS)
            loss, _ = self.task.loss(indices, draws)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item() * len(indices)
        self.modules.eval()
        draws = generator(self.seed, "pretrain-mask", 0)  # the same masks after every epoch
        with torch.no_grad():
            scores = [(len(part), *self.task.loss(part, draws)) for part in self.valid.split(256)]
        count = sum(size for size, _, _ in scores)
        return EpochRow(
            stage="pretrain",
            epoch=epoch,
            train_loss=total / len(order),
            valid_loss=sum(size * loss.item() for size, loss, _ in scores) / count,
            valid_error=sum(size * error.item() for size, _, error in scores) / count,
        )

    def state(self) -> dict[str, Tensor]:
        """Weights of body and head, and the optimiser's state."""
        return dict(self.modules.state_dict()) | optimizer_state(self.optimizer, self.modules)

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a state."""
        self.modules.load_state_dict({name: tensor for name, tensor in tensors.items() if not name.startswith("optimizer.")})
        load_optimizer_state(self.optimizer, self.modules, tensors)


def split_corpus(size: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """The samples of a corpus to train on, and those that are held out.

    A smaller share is a part of a larger one, and all are validated on the same samples, a tenth of the corpus.

    Args:
        size: Samples of the corpus.
        fraction: Share of those not held out to train on.
        seed: `pretrain.seed`.
    """
    order = torch.randperm(size, generator=generator(seed, "pretrain-subset"))
    held_out = max(1, size // 10)
    return order[held_out:][: max(1, round(fraction * (size - held_out)))], order[:held_out]


def _task(spec: BodySpec, corpus: Corpus, objective: str, model: Any, device: torch.device) -> Objective:
    """The objective on the corpus, for a body of that modality; config has checked that the three fit."""
    if spec.modality == "text":
        of_text: Mapping[str, Callable[[Sequences, Any, torch.device], Objective]] = {
            "masked": Masked,
            "causal": Causal,
            "labels": LabelledText,
            "denoise": DenoisedText,
        }
        return of_text[objective](load_sequences(corpus), model, device)
    of_images: Mapping[str, Callable[[Pictures, Any, torch.device], Objective]] = {"labels": LabelledImages, "denoise": DenoisedImages}
    return of_images[objective](load_pictures(corpus), model, device)
