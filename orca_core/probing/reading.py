"""What a probe reads: the state of a trial's model at one moment, and the samples it is shown. The same samples at all moments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orca_core.bodies.loading import LoadedBody
from orca_core.errors import OrcaError
from orca_core.model.cross_modal import CrossModalModel
from orca_core.model.embedder import Embedder
from orca_core.probing.catalogue import Moment
from orca_core.probing.layers import BATCH, layer_means, proxy_tokens
from orca_core.probing.request import ProbeRequest
from orca_core.proxies import find_proxy
from orca_core.scoring.groups import group_means
from orca_core.seeding import derive, generator
from orca_core.settings import Settings
from orca_core.tasks import Split, TaskData
from orca_core.tasks.splitting import stratified_order

FEATURES = 2000
"""Samples of a proxy that consists of features, or is drawn from their moments, of which those that are read are drawn."""


class UnfitError(OrcaError):
    """A probe has nothing to measure here; the message says why, as a sentence."""


@dataclass(frozen=True)
class Measured:
    """One number of a probe; the fields are those of `ProbeRow`."""

    value: float
    layer: int | None = None
    param_group: str | None = None
    setting: str | None = None
    split: str | None = None
    samples: int | None = None


@dataclass(frozen=True)
class Outputs:
    """What a model answers for some samples of a split; rows that are scored as one are one sample here.

    Args:
        outputs: (n, ...) of the model, float32, on the CPU.
        y: (n, ...) targets.
        samples: How many samples they are.
    """

    outputs: Tensor
    y: Tensor
    samples: int


class Reading:
    """A state of a model, and the samples that probes show it.

    Args:
        moment: Which state it is.
        model: The model in it; in eval mode, on `device`.
        before: The model as fine-tuning starts; `model` itself before fine-tuning.
        first_embedder: The embedder before any training.
        loaded: The body as it came, with its own embedding.
        data: The task's data.
        settings: Of fine-tuning.
        request: What is asked.
        proxy: Name of the data set that stands for the proxy; None if there is none.
        device: Where to compute.
        shared: What the readings of one trial share: the proxy's data, and its features by the body that fine-tuning starts with.
    """

    def __init__(
        self,
        moment: Moment,
        model: CrossModalModel,
        before: CrossModalModel,
        first_embedder: Embedder,
        loaded: LoadedBody,
        data: TaskData,
        settings: Settings,
        request: ProbeRequest,
        proxy: str | None,
        device: torch.device,
        shared: dict[str, Any],
    ) -> None:
        self._shared = shared
        self.moment, self.model, self.before, self.first_embedder = moment, model, before, first_embedder
        self.loaded, self.data, self.settings, self.request = loaded, data, settings, request
        self.proxy, self.device, self.seed = proxy, device, settings["seed"]

    # ------------------------------------------------------------------------------------------------------------- samples

    def rows(self, split: str) -> Tensor:
        """(n,) numbers of the rows of a split that are read, drawn by the trial's seed; of a classification in the shares of its classes.

        Rows that are scored as one are read together: then there may be a few more than were asked for.
        """
        part: Split = getattr(self.data, split)
        most = self.request.samples
        if part.group is not None:
            return _whole_groups(part.group, most, generator(self.seed, "probe-samples"))
        if self.data.num_classes is not None and len(part) > most:
            order = torch.from_numpy(stratified_order(part.y, derive(self.seed, "probe-samples")).copy())
            return order[-most:].sort().values  # its end holds every class
        return torch.randperm(len(part), generator=generator(self.seed, "probe-samples"))[:most].sort().values

    def inputs(self, split: str, rows: Tensor) -> Tensor:
        """(n, channels, ...) inputs of the model, on the device."""
        part: Split = getattr(self.data, split)
        return self.data.inputs(torch.from_numpy(part.x[rows.numpy()]).to(self.device))

    def parts(self, split: str) -> Iterator[Tensor]:
        """Inputs of the rows that are read, batch by batch."""
        for rows in self.rows(split).split(BATCH):
            yield self.inputs(split, rows)

    @property
    def splits(self) -> list[str]:
        """The parts of the data by which a model is judged, without one that is empty, as where folds choose the epoch."""
        return [split for split in ("valid", "test") if len(getattr(self.data, split))]

    # ------------------------------------------------------------------------------------------------------------ features

    @cached_property
    def target_layers(self) -> list[Tensor]:
        """(n, width) features of training samples at each layer."""
        with torch.no_grad():
            parts = [layer_means(self.model.body, self.model.embedder(inputs)) for inputs in self.parts("train")]
        return [torch.cat(layer) for layer in zip(*parts, strict=True)]

    @property
    def proxy_layers(self) -> tuple[list[Tensor], Tensor]:
        """(n, width) features of proxy samples at each layer, and (n,) labels. Of a proxy that consists of features layer 0 alone."""
        body = "tuned" if self.moment == "fine-tuned" else "first"  # alignment trains the embedder alone, which reads no proxy
        if (name := f"proxy by the {body} body") not in self._shared:
            self._shared[name] = self._read_proxy()
        found: tuple[list[Tensor], Tensor] = self._shared[name]
        return found

    def _read_proxy(self) -> tuple[list[Tensor], Tensor]:
        assert self.proxy is not None
        proxy = find_proxy(self.proxy)
        draws = generator(self.seed, "probe-samples")
        if not proxy.loader or proxy.width is not None or proxy.matched:
            from orca_core.alignment.source import source_features

            features, labels = source_features(
                proxy, self.loaded, samples=max(FEATURES, self.request.samples), seed=self.seed, device=self.device
            )
            drawn = torch.randperm(len(features), generator=draws)[: self.request.samples]
            return [features[drawn].double()], labels[drawn]
        if "proxy" not in self._shared:
            self._shared["proxy"] = proxy.load()
        data, embedding = self._shared["proxy"], self.loaded.embedding
        assert embedding is not None
        most = min(len(data), proxy.max_samples or len(data))
        chosen = torch.randperm(most, generator=draws)[: self.request.samples].tolist()
        tokens = proxy_tokens(data, self.loaded, embedding.to(self.device), chosen, most=self._most_tokens, device=self.device)
        positions: list[int] = []
        parts: list[list[Tensor]] = []
        with torch.no_grad():
            for some, of_some, weights in tokens:
                positions += some
                parts.append(layer_means(self.model.body, of_some, weights))
        order = torch.tensor(positions).argsort()
        labels = torch.from_numpy(data.labels)[[chosen[position] for position in sorted(positions)]]
        return [torch.cat(layer)[order] for layer in zip(*parts, strict=True)], labels

    @property
    def _most_tokens(self) -> int:
        longest = self.model.body.geometry.max_tokens
        return longest // 2 if self.settings["body.double"] else longest

    # ------------------------------------------------------------------------------------------------------------- outputs

    @cached_property
    def plain_answers(self) -> dict[str, Outputs]:
        """Split -> what the model answers for the inputs as they are."""
        return {split: self.answers(split) for split in self.splits}

    def answers(self, split: str, change: Callable[[Tensor], Tensor] | None = None) -> Outputs:
        """What the model answers for the rows of a split that are read, in the precision of the trial.

        Args:
            split: valid or test.
            change: Applied to the inputs; None = they stay as they are.
        """
        rows, found = self.rows(split), []
        precision = self.settings["precision"]
        dtype = torch.float16 if precision == "fp16" else torch.bfloat16
        with torch.no_grad(), torch.autocast(self.device.type, dtype, enabled=precision != "fp32"):
            for batch in rows.split(BATCH):
                inputs = self.inputs(split, batch)
                found.append(self.model(inputs if change is None else change(inputs)).float().cpu())
        part: Split = getattr(self.data, split)
        outputs, y = torch.cat(found), torch.from_numpy(part.y[rows.numpy()])
        if part.group is not None:
            outputs, y = group_means(outputs, y, part.group[rows.numpy()])
        return Outputs(outputs, y, len(y))


def _whole_groups(group: np.ndarray, most: int, draws: torch.Generator) -> Tensor:
    """Numbers of the rows of some groups, drawn one after another until there are so many rows."""
    numbers, sizes = np.unique(group, return_counts=True)
    order = torch.randperm(len(numbers), generator=draws).numpy()
    taken = int(np.searchsorted(np.cumsum(sizes[order]), most)) + 1
    return torch.from_numpy(np.flatnonzero(np.isin(group, numbers[order[:taken]])))
