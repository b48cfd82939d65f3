"""Patch replacement (PaRe): some of the target's tokens give way to tokens of the proxy, fewer from epoch to epoch.

A batch passes the body twice, as it is and mixed. Of l tokens of a mixed sequence k are the proxy's, and with lambda = k / l

    loss = task(outputs, y) + mix.weight * ((1 - lambda) task(outputs of mixed, y) + lambda CE(proxy's class of mixed, proxy's label))

A gate, a linear layer with a sigmoid on each token, scores the tokens of both: the l - k best of the target stay where they are, and the k
best of the proxy take the free places in their order. In the first `mix.gate_epochs` epochs both are drawn (Gumbel top-k), with a gradient
in the gate; afterwards the best are taken. k falls linearly from `mix.share` to `mix.end_share` of the tokens over `mix.epochs` epochs:

    k = floor(l (share - (share - end_share) min(1, (epoch - 1) / epochs)))

Gate and classifier of the proxy are new layers of this term. They train by an optimiser of their own, with the settings and the rate of
fine-tuning's, are not counted among the model's parameters, and no exported model has them.

Reference:
    Cai et al. 2024, Enhancing cross-modal fine-tuning with gradually intermediate modality generation, ICML (arXiv 2406.09003);
    code: BIT-DA/PaRe, `src/main_PaRe.py` (images) and `src/main_PaRe_1d.py` (series). What differs: docs/successors.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orca_core.alignment.source_tokens import SourceTokens
from orca_core.errors import DataError
from orca_core.finetuning.regularisers import smoothed
from orca_core.finetuning.subsets import draw_subset, gumbel, replace_tokens, top
from orca_core.finetuning.terms.base import Batch, Penalty, Step, Term
from orca_core.freezing.schedule import Phase
from orca_core.model.cross_modal import CrossModalModel
from orca_core.scoring import LOSSES
from orca_core.seeding import generator, seeded
from orca_core.settings import Settings
from orca_core.tasks import TaskData
from orca_core.training.optimizers import load_optimizer_state, make_optimizer, optimizer_state, warmup_cosine, warmup_decay
from orca_core.training.state import pack, unpack

TEMPERATURE = 0.9
"""Of the relaxed subsets, as in the reference."""


def tokens_of_proxy(epoch: int, length: int, share: float, end_share: float, epochs: float) -> int:
    """Number of tokens of a mixed sequence that are the proxy's, in an epoch from 1.

    >>> [tokens_of_proxy(epoch, 3136, 2000 / 3136, 500 / 3136, 60) for epoch in (1, 31, 61, 100)]
    [2000, 1250, 500, 500]
    """
    now = share - (share - end_share) * min(1.0, (epoch - 1) / epochs)
    return min(length, int(length * now + 1e-9))


class Mixing(Term):
    """The mixed half of PaRe's loss, in phases that train more than the predictor.

    Args:
        settings: Of the first phase.
        model: On the device.
        data: The task's data.
        source: Tokens of the proxy, as many of a sample as the embedder makes.
    """

    def __init__(self, settings: Settings, model: CrossModalModel, data: TaskData, source: SourceTokens) -> None:
        self.settings, self.source, self.seed, self.device = settings, source, settings["seed"], source.device
        if tokens_of_proxy(1, source.length, settings["mix.share"], 0.0, 1.0) == 0:
            few = f"{source.length} token{'s' if source.length > 1 else ''}"
            raise DataError(f"{settings.task.name}: a sample has {few}, of which mix.share {settings['mix.share']:g} replaces none")
        geometry = model.body.geometry
        with seeded(self.seed, "mix-init"):
            layers = {"classifier": nn.Linear(geometry.output_width, source.num_classes)}
            if settings["mix.gate"] == "learned":
                layers["gate"] = nn.Linear(geometry.width, 1)
        self.layers = nn.ModuleDict(layers).to(self.device)
        names = ("weight_decay", "momentum", "betas")
        options = {name: settings[f"finetune.{name}"] for name in names}
        self.optimizer = make_optimizer(settings["finetune.optimizer"], self.layers.parameters(), lr=settings["finetune.lr"], **options)
        self.task_loss = LOSSES[settings.task.loss](torch.from_numpy(data.train.y))
        self.draws = torch.Generator()
        self.epoch = 0

    def is_active(self, phase: Phase) -> bool:
        return phase.train != ("predictor",)

    def start_epoch(self, epoch: int) -> None:
        self.epoch, self.draws = epoch, generator(self.seed, "mix", epoch)
        self.optimizer.zero_grad()

    def before(self, batch: Batch) -> None:
        self.optimizer.param_groups[0]["lr"] = self.settings["finetune.lr"] * self._rate(batch.passed)

    def penalty(self, step: Step) -> Penalty | None:
        length = step.tokens.shape[1]
        shares = self.settings["mix.share"], self.settings["mix.end_share"], self.settings["mix.epochs"]
        k = tokens_of_proxy(self.epoch, length, *shares)
        if k == 0:
            return None
        rows = torch.randint(len(self.source), (len(step.tokens),), generator=self.draws)
        tokens, labels = self.source(rows), self.source.labels[rows].to(self.device)
        target = step.tokens.float()
        keep, take = self._subsets(target, length - k), self._subsets(tokens, k)
        with self._autocast():
            raw, read = step.model(replace_tokens(target, tokens, keep, take), from_tokens=True, with_body=True)
            of_proxy = self.layers["classifier"](read.mean(1))
        share, outputs = k / length, step.decode(raw.float())
        task = sum((weight * self.task_loss(outputs, step.decode(goal)) for weight, goal in step.batch.targets), outputs.new_zeros(()))
        if self.settings["finetune.label_smoothing"]:
            task = smoothed(task, outputs, self.settings["finetune.label_smoothing"])
        proxy = F.cross_entropy(of_proxy.float(), labels)
        value = self.settings["mix.weight"] * ((1 - share) * task + share * proxy)
        return Penalty(value, {"mixed_share": proxy.new_tensor(share), "source_loss": proxy.detach()})

    def _subsets(self, tokens: Tensor, k: int) -> Tensor:
        """(n, l) of 0 and 1: the k tokens of each sequence that enter the mixed one."""
        if self.settings["mix.gate"] == "random":
            return top(torch.rand(tokens.shape[:2], generator=self.draws).to(self.device), k)
        scores = torch.sigmoid(self.layers["gate"](tokens)[..., 0])
        if self.epoch <= self.settings["mix.gate_epochs"]:
            return draw_subset(scores, gumbel(scores.shape, self.draws).to(self.device), k, TEMPERATURE)
        return top(scores.detach(), k)

    def _rate(self, passed: float) -> float:
        lengths = self.settings["finetune.warmup_epochs"], self.settings["finetune.decay_epochs"]
        return (warmup_cosine if self.settings["finetune.schedule"] == "cosine" else warmup_decay)(passed, *lengths)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings["precision"] == "bf16")

    def after_step(self, step: int) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state(self) -> dict[str, Tensor]:
        named = {f"mix.{name}": tensor for name, tensor in optimizer_state(self.optimizer, self.layers).items()}
        return pack("mix", self.layers.state_dict()) | named

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        own = unpack("mix", tensors)
        self.layers.load_state_dict({name: own[name] for name in self.layers.state_dict()})
        load_optimizer_state(self.optimizer, self.layers, own)
