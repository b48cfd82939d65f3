"""What the mini bodies are pretrained for (`pretrain.objective`): each objective with its head.

    masked    predict masked words from the others (Devlin et al. 2019, section 3.1); text bodies' own
    causal    predict each next word from those before it, under a causal mask (Radford et al. 2018)
    labels    predict the sample's label from the mean of its tokens; image bodies' own
    denoise   recover a sample that noise was added to (Vincent et al. 2008): of a text, in which some words were replaced by words drawn
              uniformly, all words are predicted; of an image with Gaussian noise on its pixels the clean pixels, each output token those
              of its square

All train the same body, which fine-tuning reads without mask. Shapes: n samples, l tokens, d width.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from orca_core.bodies.base import IMAGE_MEAN, IMAGE_STD
from orca_core.bodies.mini import SPECIAL_TOKENS, VOCABULARY
from orca_core.corpora.images import Pictures
from orca_core.corpora.sequences import FIRST, Sequences

MASKED_SHARE = 0.15
"""Share of tokens that are masked, or replaced, and predicted (Devlin et al. 2019, section 3.1); masked ones all become the mask."""

PIXEL_NOISE = 0.5
"""Standard deviation of what `denoise` adds to pixels, in standard deviations of ImageNet's."""


class Objective(Protocol):
    """A head on a body, and the loss of some samples."""

    size: int
    """Number of samples."""

    @property
    def head(self) -> nn.Module:
        """What is trained with the body and left behind after pretraining."""

    def loss(self, indices: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Loss and error of the samples with these indices; what is random in it comes from `draws`, a generator on the CPU."""


class _Words:
    """Sequences of words, and a head that predicts words."""

    def __init__(self, corpus: Sequences, model: Any, device: torch.device) -> None:
        self.model = model
        self.ids, self.is_word = _words(corpus, device)
        self.size = len(self.ids)
        self.head = nn.Linear(model.config.hidden_size, model.config.vocab_size).to(device)


class Masked(_Words):
    """Predict masked words."""

    def loss(self, indices: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Cross-entropy and share of wrong words, over the masked ones."""
        ids, is_word = self.ids[indices], self.is_word[indices]
        chosen = _choose(is_word, draws)
        masked = ids.masked_fill(chosen, SPECIAL_TOKENS.index("<mask>"))
        hidden = self.model(input_ids=masked, attention_mask=is_word.long())[0]
        return _classify(self.head(hidden[chosen]), ids[chosen])


class Causal(_Words):
    """Predict each next word: token t sees the tokens up to t and predicts token t + 1."""

    def loss(self, indices: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Cross-entropy and share of wrong words, over all words that have one before them."""
        ids, is_word = self.ids[indices], self.is_word[indices]
        predicted = is_word[:, 1:] & is_word[:, :-1]
        return _classify(self.head(self.hidden(ids)[:, :-1][predicted]), ids[:, 1:][predicted])

    def hidden(self, ids: Tensor) -> Tensor:
        """(n, l) word ids -> (n, l, d), of which each token depends on itself and those before it, so never on padding, which is last."""
        length = ids.shape[1]
        hidden_ones = torch.ones(length, length, dtype=torch.bool, device=ids.device).triu(1)
        mask = torch.zeros(length, length, device=ids.device).masked_fill(hidden_ones, torch.finfo(torch.float32).min)
        found: Tensor = self.model(input_ids=ids, attention_mask=mask.expand(len(ids), 1, length, length))[0]
        return found


class _Labelled:
    """Labels of which some can be wrong."""

    labels: Tensor
    num_labels: int

    def add_label_noise(self, share: float, train: Tensor, draws: torch.Generator) -> None:
        """Give a share of the training samples another label; those held out keep theirs."""
        noisy = with_label_noise(self.labels.cpu(), self.num_labels, share, draws).to(self.labels.device)
        self.labels[train] = noisy[train]


class LabelledText(_Labelled):
    """Predict the label of a sentence from the mean of its words."""

    def __init__(self, corpus: Sequences, model: Any, device: torch.device) -> None:
        assert corpus.labels is not None
        self.model = model
        self.ids, self.is_word = _words(corpus, device)
        self.labels, self.num_labels = torch.from_numpy(corpus.labels).clone().to(device), corpus.num_labels
        self.size = len(self.ids)
        self.head = nn.Linear(model.config.hidden_size, corpus.num_labels).to(device)

    def loss(self, indices: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Cross-entropy and share of wrong labels."""
        ids, is_word = self.ids[indices], self.is_word[indices]
        hidden = self.model(input_ids=ids, attention_mask=is_word.long())[0]
        weights = is_word.to(hidden.dtype).unsqueeze(-1)
        return _classify(self.head((hidden * weights).sum(1) / weights.sum(1)), self.labels[indices])


class DenoisedText(_Words):
    """Recover the words of a sentence in which some were replaced."""

    def loss(self, indices: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Cross-entropy over all words; share of wrong ones among those replaced."""
        ids, is_word = self.ids[indices], self.is_word[indices]
        replaced = _choose(is_word, draws)
        others = torch.randint(FIRST, VOCABULARY, ids.shape, generator=draws).to(ids.device)
        logits = self.head(self.model(input_ids=torch.where(replaced, others, ids), attention_mask=is_word.long())[0])
        loss, _ = _classify(logits[is_word], ids[is_word])
        return loss, (logits[replaced].argmax(1) != ids[replaced]).float().mean()


class LabelledImages(_Labelled):
    """Predict the label of an image from the mean of its tokens."""

    def __init__(self, corpus: Pictures, model: Any, device: torch.device) -> None:
        self.model = model
        self.labels, self.num_labels = torch.from_numpy(corpus.labels).clone().to(device), corpus.num_labels
        self.images = _normalised(corpus, model.config.image_size).to(device)
        self.size = len(self.labels)
        self.head = nn.Linear(model.num_features, corpus.num_labels).to(device)

    def loss(self, indices: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Cross-entropy and share of wrong labels."""
        return _classify(self.head(self.model(pixel_values=self.images[indices])[0].mean(1)), self.labels[indices])


class DenoisedImages:
    """Recover the pixels of an image that noise was added to, those of an output token's square from that token."""

    def __init__(self, corpus: Pictures, model: Any, device: torch.device) -> None:
        self.model = model
        self.images = _normalised(corpus, model.config.image_size).to(device)
        self.size = len(self.images)
        config = model.config
        self.square = config.patch_size * 2 ** (len(config.depths) - 1)
        self.head = nn.Linear(model.num_features, 3 * self.square**2).to(device)

    def loss(self, indices: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mean squared error of the normalised pixels, as both."""
        images = self.images[indices]
        noise = torch.randn(images.shape, generator=draws).to(images.device)
        found = self.head(self.model(pixel_values=images + PIXEL_NOISE * noise)[0])
        loss = nn.functional.mse_loss(found, squares(images, self.square))
        return loss, loss.detach()


def squares(images: Tensor, side: int) -> Tensor:
    """(n, c, h, w) -> (n, l, c side^2): the pixels of each square, in raster order of the squares."""
    return nn.functional.unfold(images, side, stride=side).transpose(1, 2)


def with_label_noise(labels: Tensor, num_labels: int, share: float, draws: torch.Generator) -> Tensor:
    """Labels of which a share became another one, drawn uniformly; a larger share keeps the changes of a smaller one.

    Symmetric noise, as in Chen et al. 2024, "Understanding and mitigating the label noise in pre-training on downstream tasks", arXiv
    2309.17002.

    Args:
        labels: (n,) int64 from 0.
        num_labels: How many there are, at least 2.
        share: Probability of a change, in [0, 1].
        draws: A generator on the CPU.
    """
    chosen = torch.rand(len(labels), generator=draws) < share
    others = labels + torch.randint(1, num_labels, (len(labels),), generator=draws)
    return torch.where(chosen, others % num_labels, labels)


def _words(corpus: Sequences, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(corpus.ids).to(device), torch.from_numpy(corpus.is_word).to(device)


def _choose(is_word: Tensor, draws: torch.Generator) -> Tensor:
    """Some of the words, at least one of each sentence."""
    chosen = (torch.rand(is_word.shape, generator=draws) < MASKED_SHARE).to(is_word.device) & is_word
    chosen[:, 0] |= ~chosen.any(1)
    return chosen


def _classify(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return nn.functional.cross_entropy(logits, targets), (logits.argmax(1) != targets).float().mean()


def _normalised(corpus: Pictures, side: int) -> Tensor:
    """(n, 3, side, side), normalised as an image body takes them."""
    resized = nn.functional.interpolate(torch.from_numpy(corpus.images), (side, side), mode="bilinear", align_corners=False)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    return (resized - mean) / std
