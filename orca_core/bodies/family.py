"""Families of bodies: one record holds all that sets a family apart. The code of a family is named, not imported, so this needs no torch.

Another family is one record in `FAMILIES`, and a function that cuts a loaded model in two, in a module of `orca_core/bodies/families/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from orca_core.errors import ConfigError, Fault, nearest

_CODE = "orca_core.bodies.families"


@dataclass(frozen=True)
class Family:
    """One family of bodies.

    Args:
        model_type: As a Hugging Face `config.json` names it; families of timm have the prefix `timm-`.
        modality: What it was pretrained on.
        split: `"module:function"`, cuts a loaded model into (Body, BodyEmbedding).
        load: `"module:function"`, called as `load(folder, family, dropout=..., pretrained=...)`; returns the model and the names of
            weights that its checkpoint lacks.
        is_decoder: Whether each token sees only those before it.
        layers_key: Key of `config.json` that holds the number of transformer blocks, or a list of them by stage.
        width_key: Key of `config.json` that holds the width of the embedding.
        equal_widths: Keys of `config.json` whose values must be equal, and what the family takes where they are absent.
        dropouts: Attributes of the configuration that hold rates of dropout.
        unused_positions: From `config.json` to the rows of the position table before the first one that is used; None where the body
            adds positions itself, and for images.
        architectures: First parts of the names that timm has for the family.
        takes_tokens: Whether learned tokens may pass through the blocks beside the patches, see `Body.takes_tokens`.
        within: Key of `config.json` under which the body's own configuration stands; empty where it stands at the top.
        defaults: What the library takes where the nested configuration leaves the number of blocks or the width out, as it may.
        version: Raised when the family's code makes another body than before from the same files.
    """

    model_type: str
    modality: Literal["text", "images"]
    split: str
    load: str = f"{_CODE}.hugging_face:hugging_face_model"
    is_decoder: bool = False
    layers_key: str = "num_hidden_layers"
    width_key: str = "hidden_size"
    equal_widths: Mapping[str, int] | None = None
    dropouts: tuple[str, ...] = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    unused_positions: Callable[[Mapping[str, Any]], int] | None = None
    architectures: tuple[str, ...] = ()
    takes_tokens: bool = False
    within: str = ""
    defaults: Mapping[str, int] | None = None
    version: int = 1

    def num_layers(self, config: Mapping[str, Any]) -> int | None:
        """Transformer blocks that a `config.json` states; None if it states none."""
        layers = self._own(config).get(self.layers_key)
        if isinstance(layers, list):
            return sum(layers)
        return layers if isinstance(layers, int) else None

    def width(self, config: Mapping[str, Any]) -> int | None:
        """Width of the embedding that a `config.json` states; None if it states none."""
        width = self._own(config).get(self.width_key)
        return width if isinstance(width, int) else None

    def _own(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The part of a `config.json` that describes the body."""
        if not self.within:
            return config
        nested = config.get(self.within)
        return {**(self.defaults or {}), **(nested if isinstance(nested, Mapping) else {})}

    def rows_before_third(self, config: Mapping[str, Any]) -> int:
        """Rows of the position table that are used before its row 2; 0 without such a table."""
        return 0 if self.unused_positions is None else max(0, 2 - self.unused_positions(config))


def _none_unused(config: Mapping[str, Any]) -> int:
    return 0


def _up_to_padding(config: Mapping[str, Any]) -> int:
    """RoBERTa's positions start after its padding id, 1 unless the configuration has another."""
    return (config.get("pad_token_id", 1) or 0) + 1


def _bert(model_type: str, unused_positions: Callable[[Mapping[str, Any]], int] = _none_unused, **different: Any) -> Family:
    return Family(model_type, "text", f"{_CODE}.bert:split_bert", unused_positions=unused_positions, **different)


def _decoder(model_type: str, **different: Any) -> Family:
    return Family(model_type, "text", f"{_CODE}.decoders:split_decoder", is_decoder=True, **different)


def _vit(model_type: str, *, takes_tokens: bool = True, **different: Any) -> Family:
    return Family(model_type, "images", f"{_CODE}.images:split_vit", takes_tokens=takes_tokens, **different)


def _tower(family: str) -> Iterator[Family]:
    """A vision tower: in a checkpoint of the whole model, beside a text tower that is not used, and on its own."""
    split, defaults = f"{_CODE}.towers:split_{family}", {"num_hidden_layers": 12, "hidden_size": 768}
    different: dict[str, Any] = {"dropouts": ("attention_dropout",), "takes_tokens": True}
    yield Family(family, "images", split, within="vision_config", defaults=defaults, **different)
    yield Family(f"{family}_vision_model", "images", split, **different)


def _timm(model_type: str, *architectures: str, takes_tokens: bool = False) -> Family:
    code = f"{_CODE}.timm"
    return Family(model_type, "images", f"{code}:split_timm", f"{code}:timm_model", architectures=architectures, takes_tokens=takes_tokens)


FAMILIES: Mapping[str, Family] = {
    family.model_type: family
    for family in (
        _bert("bert"),
        _bert("roberta", _up_to_padding),
        _bert("xlm-roberta", _up_to_padding),
        _bert("camembert", _up_to_padding),
        _bert("distilbert", layers_key="n_layers", width_key="dim", dropouts=("dropout", "attention_dropout")),
        _bert("electra", width_key="embedding_size", equal_widths={"embedding_size": 128, "hidden_size": 256}),
        _decoder("gpt2", layers_key="n_layer", width_key="n_embd", dropouts=("embd_pdrop", "resid_pdrop", "attn_pdrop")),
        _decoder("gpt_neox", dropouts=("hidden_dropout", "attention_dropout")),
        _decoder("llama", dropouts=("attention_dropout",)),
        _decoder("qwen2", dropouts=("attention_dropout",)),
        _decoder("qwen3", dropouts=("attention_dropout",)),
        Family(
            "modernbert", "text", f"{_CODE}.encoders:split_modernbert", dropouts=("embedding_dropout", "attention_dropout", "mlp_dropout")
        ),
        Family(
            "t5",
            "text",
            f"{_CODE}.encoders:split_t5",
            f"{_CODE}.hugging_face:t5_encoder",
            layers_key="num_layers",
            width_key="d_model",
            dropouts=("dropout_rate",),
        ),
        Family("dinov2", "images", f"{_CODE}.towers:split_dinov2", takes_tokens=True),
        Family("dinov2_with_registers", "images", f"{_CODE}.towers:split_dinov2", takes_tokens=True),
        *_tower("clip"),
        *_tower("siglip"),
        Family("swin", "images", f"{_CODE}.images:split_swin", layers_key="depths", width_key="embed_dim"),
        _vit("vit", version=2),  # ViT and DeiT keep their class token since version 2
        _vit("deit", version=2),
        _vit("beit", takes_tokens=False),
        _timm("timm-swin", "swin"),
        _timm("timm-vit", "vit", "deit", "deit3", takes_tokens=True),
    )
}
"""`model_type` -> the family."""

HUGGING_FACE = {name: family for name, family in FAMILIES.items() if not family.architectures}
"""The families of Hugging Face."""


def find_family(model_type: object, body: str, known: Mapping[str, Family] = FAMILIES) -> Family:
    """The family of that name.

    Args:
        model_type: Name of a family.
        body: Name of the body, for the error.
        known: The families to look in.

    Raises:
        ConfigError: If there is none; the fault offers the nearest known name.
    """
    if isinstance(model_type, str) and model_type in known:
        return known[model_type]
    raise ConfigError([Fault("body.name", f"must be of a known family, not {model_type!r}", body, nearest(model_type, known))])


def timm_family(architecture: object, body: str) -> Family:
    """The family of timm that an architecture's name belongs to.

    Raises:
        ConfigError: If it belongs to none.
    """
    first = str(architecture).partition("_")[0]
    for family in FAMILIES.values():
        if first in family.architectures:
            return family
    known = ", ".join(name for family in FAMILIES.values() for name in family.architectures)
    rule = f"must be a Swin or a ViT of timm, not {architecture!r}"
    raise ConfigError([Fault("body.name", rule, body, f"Known families: {known}.")])
