"""Pretraining of the mini bodies: masked tokens for text, labels for images. A trajectory like any other.

The learning rate is constant after a short warm-up in steps, so that a longer pretraining passes through a shorter one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from orca_core.bodies import BodySpec
from orca_core.bodies.base import IMAGE_MEAN, IMAGE_STD
from orca_core.bodies.mini import mini_model, mini_tokenizer
from orca_core.proxies import find_proxy
from orca_core.rows import EpochRow
from orca_core.seeding import generator, seeded
from orca_core.settings import Settings
from orca_core.training.optimizers import load_optimizer_state, optimizer_state

LR, WEIGHT_DECAY, WARMUP_STEPS, BATCH_SIZE = 2e-3, 0.01, 50, 32
TEXT_TOKENS = 32
"""Number of tokens read of each sentence."""

MASKED_SHARE = 0.15
"""Share of tokens that are masked and predicted (Devlin et al. 2019, section 3.1); all are replaced by the mask."""


class Pretraining:
    """Pretraining of one mini body.

    Args:
        settings: Of the stage; its body is a mini body.
        device: Where to train.
    """

    def __init__(self, settings: Settings, device: torch.device) -> None:
        spec = settings.body
        self.seed, self.device = settings["pretrain.seed"], device
        self.task: _Masked | _Labelled
        with seeded(self.seed, "pretrain-init"):
            model = mini_model(spec).to(device)
            self.task = (_Masked if spec.modality == "text" else _Labelled)(spec, model, device)
        self.model = model
        self.modules = nn.ModuleDict({"model": model, "head": self.task.head})
        order = torch.randperm(self.task.size, generator=generator(self.seed, "pretrain-subset"))
        held_out = max(1, self.task.size // 10)
        # A smaller share is a part of a larger one, and all are validated on the same samples.
        self.valid = order[:held_out]
        self.train = order[held_out:][: max(1, round(settings["pretrain.fraction"] * (self.task.size - held_out)))]
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


class _Masked:
    """Predict masked tokens."""

    def __init__(self, spec: BodySpec, model: Any, device: torch.device) -> None:
        self.model, self.tokenizer = model, mini_tokenizer()
        texts = [text for name in spec.corpus for text in find_proxy(name).load().inputs]
        encoded = self.tokenizer(texts, padding="max_length", truncation=True, max_length=TEXT_TOKENS, return_tensors="pt")
        self.ids, self.attention = encoded["input_ids"].to(device), encoded["attention_mask"].to(device)
        self.size = len(texts)
        self.head = nn.Linear(model.config.hidden_size, model.config.vocab_size).to(device)

    def loss(self, indices: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        ids, attention = self.ids[indices], self.attention[indices]
        chosen = (torch.rand(ids.shape, generator=draws) < MASKED_SHARE).to(ids.device) & attention.bool()
        chosen[:, 0] |= ~chosen.any(1)  # every sentence has something to predict
        hidden = self.model(input_ids=ids.masked_fill(chosen, self.tokenizer.mask_token_id), attention_mask=attention)[0]
        logits, targets = self.head(hidden[chosen]), ids[chosen]
        return nn.functional.cross_entropy(logits, targets), (logits.argmax(1) != targets).float().mean()


class _Labelled:
    """Predict the label of an image; labels of different corpora are different classes."""

    def __init__(self, spec: BodySpec, model: Any, device: torch.device) -> None:
        self.model = model
        corpora = [find_proxy(name).load() for name in spec.corpus]
        offsets = np.cumsum([0, *(len(corpus.label_names) for corpus in corpora)])
        labels = [corpus.labels + offset for corpus, offset in zip(corpora, offsets, strict=False)]
        self.labels = torch.from_numpy(np.concatenate(labels)).to(device)
        side = model.config.image_size
        images = [torch.from_numpy(np.asarray(corpus.inputs)) for corpus in corpora]
        resized = torch.cat([nn.functional.interpolate(part, (side, side), mode="bilinear", align_corners=False) for part in images])
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
        self.images = ((resized - mean) / std).to(device)
        self.size = len(self.labels)
        self.head = nn.Linear(model.num_features, int(offsets[-1])).to(device)

    def loss(self, indices: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        logits = self.head(self.model(pixel_values=self.images[indices])[0].mean(1))
        targets = self.labels[indices]
        return nn.functional.cross_entropy(logits, targets), (logits.argmax(1) != targets).float().mean()
