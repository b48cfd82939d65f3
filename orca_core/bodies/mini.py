"""The mini bodies: RoBERTas and a Swin small enough to be pretrained here, in seconds, without a network."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from orca_core.bodies.spec import BodySpec
from orca_core.errors import ConfigError, Fault, nearest
from orca_core.proxies import find_proxy
from orca_core.workbench import memoize

VOCABULARY = 2000
"""Words of the mini RoBERTas' vocabulary, special tokens included."""

MAX_TOKENS = 128
"""Longest sequence that the mini RoBERTas take."""

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def mini_model(spec: BodySpec, dropout: float = 0.0) -> Any:
    """A mini body with random weights, drawn from torch's global generator.

    Raises:
        ConfigError: If there is no mini body of that name.
    """
    if spec.name not in _MODELS:
        raise ConfigError([Fault("body.name", "must be the name of a mini body", spec.name, nearest(spec.name, _MODELS))])
    return _MODELS[spec.name]({"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout})


def _mini_roberta(dropouts: Mapping[str, Any], width: int = 64, layers: int = 2) -> Any:
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 16,
        intermediate_size=2 * width,
        max_position_embeddings=MAX_TOKENS + 2,  # ids start after the padding id, 1
        type_vocab_size=1,
        initializer_range=width**-0.5,  # the families' 0.02 suits widths of 768 and more
        **dropouts,
    )
    return RobertaModel(config, add_pooling_layer=False)


def _mini_roberta_small(dropouts: Mapping[str, Any]) -> Any:
    return _mini_roberta(dropouts, width=32, layers=1)


def _mini_swin(dropouts: Mapping[str, Any]) -> Any:
    from transformers import SwinConfig, SwinModel

    config = SwinConfig(
        image_size=16,
        patch_size=2,
        embed_dim=32,
        depths=[1, 1],
        num_heads=[2, 4],
        window_size=4,
        mlp_ratio=2.0,
        drop_path_rate=0.0,
        initializer_range=32**-0.5,
        **dropouts,
    )
    return SwinModel(config, add_pooling_layer=False)


_MODELS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "mini-roberta": _mini_roberta,
    "mini-roberta-small": _mini_roberta_small,
    "mini-swin": _mini_swin,
}


@memoize(maxsize=1)
def mini_tokenizer() -> Any:
    """Word tokeniser of the mini RoBERTas: the most frequent words of `pydoc`, lower case, ties in alphabetical order."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    texts = find_proxy("pydoc").load().inputs
    counts = Counter(word for text in texts for word in re.findall(r"\w+|[^\w\s]", str(text).lower()))
    words = sorted(counts, key=lambda word: (-counts[word], word))[: VOCABULARY - len(SPECIAL_TOKENS)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate((*SPECIAL_TOKENS, *words))}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), behavior="removed", invert=True)
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=MAX_TOKENS, **special)
