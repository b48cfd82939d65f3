"""How much data a body's pretraining has seen: the columns `pretrain_tokens` and `pretrain_images`."""

from __future__ import annotations

from collections.abc import Mapping

from orca_core.bodies import BodySpec
from orca_core.config.knobs import TrialConfig
from orca_core.corpora import Corpus, corpus_of
from orca_core.corpora.images import count_pictures
from orca_core.corpora.sequences import load_sequences
from orca_core.pretraining.loop import split_corpus
from orca_core.workbench import memoize


def seen_in_pretraining(config: TrialConfig) -> Mapping[str, int]:
    """Tokens (of text) or images that the body's weights were pretrained on, each as often as it was seen, by column.

    0 for random weights. Nothing for a bodiless arm, and where it is not known: of most checkpoints. Weights that are kept in part, or
    shuffled, count as the pretrained ones that they come from.
    """
    spec = config.body_spec
    if spec.is_bodiless:
        return {}
    column = "pretrain_tokens" if spec.modality == "text" else "pretrain_images"
    if config.start_weights == "random":
        return {column: 0}
    if spec.pretrained_here:
        settings = config.pretrain
        return {column: settings.epochs * _in_an_epoch(spec, corpus_of(spec, settings.corpus), settings.fraction, settings.seed)}
    return {} if spec.pretrain_tokens is None else {"pretrain_tokens": spec.pretrain_tokens}


@memoize(maxsize=64)
def _in_an_epoch(spec: BodySpec, corpus: Corpus, fraction: float, seed: int) -> int:
    """Tokens without padding, or images, of one pass over the training part of a corpus."""
    if spec.modality == "text":
        words = load_sequences(corpus).is_word.sum(1)
        return int(words[split_corpus(len(words), fraction, seed)[0].numpy()].sum())
    return len(split_corpus(count_pictures(corpus), fraction, seed)[0])
