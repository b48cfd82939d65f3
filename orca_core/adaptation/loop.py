"""Adaptation to the target's inputs: parts of them are masked, and reconstructed from the rest. A trajectory like any other.

A sample's tokens stand for windows of a series or patches of an image. Of a share of them, drawn anew for each sample and epoch, the input
values are replaced by 0, embedder and body read what is left, and a linear decoder predicts the values from the body's tokens:

    loss = mean over the masked values of (predicted - true)^2

The decoder is thrown away; fine-tuning starts with the embedder and, with `adapt.train: all`, with the body. Only training inputs are read,
never a label, so it answers whether what alignment gives is no more than acquaintance with the target's inputs. The body is the one that
fine-tuning starts with, without an adapter, and computes without dropout. An image body returns fewer tokens than it takes: each is decoded
to all patches that it stands for.

References:
    Zerveas et al. 2021, A transformer-based framework for multivariate time series representation learning (arXiv 2010.02803), section 3.2:
    values set to 0, a linear layer on the output vectors, squared errors of the masked values. There, masks are drawn for each channel.
    Xie et al. 2022, SimMIM (arXiv 2111.09886), section 3: patches masked at random, a linear decoder, also for Swin's coarser output.
    Gururangan et al. 2020, Don't stop pretraining (arXiv 2004.10964): going on with pretraining's task on the target's inputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from orca_core.bodies.base import Body
from orca_core.memory import on_device
from orca_core.model.embedder import Embedder, ImageEmbedder
from orca_core.rows import EpochRow
from orca_core.seeding import generator, seeded
from orca_core.settings import Settings
from orca_core.tasks import TaskData
from orca_core.training.optimizers import load_optimizer_state, make_optimizer, optimizer_state
from orca_core.training.state import pack, unpack

WEIGHT_DECAY, BETAS = 0.0, (0.9, 0.98)
"""Of AdamW, at the constant rate `adapt.lr`: a longer adaptation passes through a shorter one."""


class Adaptation:
    """Masked reconstruction of the target's training inputs.

    Args:
        settings: Of the stage.
        embedder: Aligned or not; trained in place.
        body: Trained in place with `adapt.train: all`.
        data: The task's data; only the inputs of its training split are used.
        device: Where to train.
    """

    def __init__(self, settings: Settings, embedder: Embedder, body: Body, data: TaskData, device: torch.device) -> None:
        self.settings, self.seed, self.device = settings, settings["seed"], device
        self.embedder, self.body, self.data = embedder.to(device), body.to(device), data
        self.x = torch.from_numpy(data.train.x)
        geometry = body.geometry
        self.is_image = isinstance(embedder, ImageEmbedder)
        side = geometry.output_side
        self.out_unit = geometry.image_size // side if self.is_image else embedder.unit
        with seeded(self.seed, "adapt-init"):
            values = data.input_shape[0] * self.out_unit ** len(embedder.grid)
            self.decoder = nn.Linear(geometry.output_width, values).to(device)
        trained: dict[str, nn.Module] = {"embedder": embedder, "decoder": self.decoder}
        if settings["adapt.train"] == "all":
            trained["body"] = body
        self.modules = nn.ModuleDict(trained)
        for part in (embedder, body):
            part.requires_grad_(False).eval()
        self.modules.requires_grad_(True)
        self.optimizer = make_optimizer(
            "adamw", self.modules.parameters(), lr=settings["adapt.lr"], weight_decay=WEIGHT_DECAY, momentum=0.0, betas=BETAS
        )

    def run_epoch(self, epoch: int) -> EpochRow:
        """One pass over the training inputs."""
        order = torch.randperm(len(self.x), generator=generator(self.seed, "adapt-order", epoch))
        draws = generator(self.seed, "adapt-mask", epoch)
        total = 0.0
        for rows in order.split(self.settings["adapt.batch_size"]):
            self.optimizer.zero_grad()
            loss = self.loss(self.data.inputs(on_device(self.x, self.device, rows)), draws)
            loss.backward()
            self.optimizer.step()
            total += loss.item() * len(rows)
        return EpochRow(stage="adapt", epoch=epoch, train_loss=total / len(order), lr=self.settings["adapt.lr"])

    def loss(self, x: Tensor, draws: torch.Generator) -> Tensor:
        """The mean squared error of the masked values.

        Args:
            x: (n, channels, ...) inputs of the model, on the device.
            draws: For the masks; its state moves on.
        """
        embedder = self.embedder
        pixels = embedder.pixels(x)
        mask = _as_pixels(draw_masks(len(x), embedder.grid, self.settings["adapt.mask"], draws), embedder.unit).to(pixels.device)
        tokens = self.body(embedder.tokens(pixels.masked_fill(mask, 0.0)))
        true, counts = (patches(values, self.out_unit) for values in (pixels, mask.expand_as(pixels)))
        errors = (self.decoder(tokens) - true).square() * counts
        return errors.sum() / counts.sum()

    def state(self) -> dict[str, Tensor]:
        """Weights of what trains, the decoder's among them, and the optimiser's state."""
        weights = {name: tensor for part, module in self.modules.items() for name, tensor in pack(part, module.state_dict()).items()}
        return weights | optimizer_state(self.optimizer, self.modules)

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a state."""
        for part, module in self.modules.items():
            module.load_state_dict(unpack(part, tensors))
        load_optimizer_state(self.optimizer, self.modules, tensors)


def draw_masks(count: int, grid: tuple[int, ...], share: float, draws: torch.Generator) -> Tensor:
    """(count, 1, *grid) bool: of each sample `share` of the tokens, rounded, at least one.

    >>> draw_masks(2, (2, 4), 0.25, torch.Generator().manual_seed(0)).flatten(1).sum(1).tolist()
    [2, 2]
    """
    tokens = math.prod(grid)
    ranks = torch.rand(count, tokens, generator=draws).argsort(1).argsort(1)
    return (ranks < max(1, round(share * tokens))).view(count, 1, *grid)


def _as_pixels(mask: Tensor, unit: int) -> Tensor:
    """(n, 1, *grid) -> the same with each entry repeated over its patch."""
    for axis in range(2, mask.dim()):
        mask = mask.repeat_interleave(unit, axis)
    return mask


def patches(pixels: Tensor, unit: int) -> Tensor:
    """(n, channels, length) or (n, channels, height, width) -> (n, patches, channels * values of a patch), in the order of tokens.

    >>> patches(torch.arange(4.0).view(1, 1, 4), 2).tolist()
    [[[0.0, 1.0], [2.0, 3.0]]]
    >>> patches(torch.arange(8.0).view(1, 1, 2, 4), 2).tolist()
    [[[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0]]]
    """
    if pixels.dim() == 3:
        return pixels.unflatten(2, (-1, unit)).transpose(1, 2).flatten(2)
    cut = pixels.unflatten(3, (-1, unit)).unflatten(2, (-1, unit))  # (n, channels, rows, unit, columns, unit)
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def adapted_body(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The body's weights out of what an adaptation stored; none if it trained the embedder alone."""
    return unpack("body", tensors)
