"""Bodies: the transformers that are adapted.

    mini-roberta, mini-swin     small bodies that are pretrained here, as a stage, on data that comes with Python packages
    hf:NAME_OR_FOLDER           a Hugging Face encoder or decoder of a family in `MODEL_TYPES`, from a folder or by its hub name
    timm:NAME_OR_FOLDER         a Swin or ViT of timm, from a folder as timm saves it or by its name (`timm/NAME` on the hub)

A `BodySpec` says what a body is without importing torch; `orca_core.bodies.loading` builds the modules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from orca_core.datafiles.digests import content_digest
from orca_core.errors import ConfigError, DataError, Fault, nearest
from orca_core.plugins import third_party
from orca_core.proxies import find_proxy

__all__ = ["BODIES", "DECODERS", "MODEL_TYPES", "BodySpec", "find_body"]

MODEL_TYPES: dict[str, Literal["text", "images"]] = {
    "bert": "text",
    "roberta": "text",
    "xlm-roberta": "text",
    "camembert": "text",
    "distilbert": "text",
    "electra": "text",
    "gpt2": "text",
    "gpt_neox": "text",
    "swin": "images",
    "vit": "images",
    "deit": "images",
    "beit": "images",
}
"""`model_type` of a Hugging Face config -> the modality that family was pretrained on."""

DECODERS = ("gpt2", "gpt_neox")
"""Families that read one way only: `body.flip` and `body.double` are for them."""

_TIMM_FAMILIES = {"swin": "timm-swin", "vit": "timm-vit", "deit": "timm-vit", "deit3": "timm-vit"}
"""First part of a timm architecture's name -> family."""

_VERSIONS = {"vit": 2, "deit": 2}
"""`BodySpec.version` of families whose bodies have changed: ViT and DeiT now keep their class token."""

_SHOWN_WEIGHTS = ("model.safetensors", "pytorch_model.bin")

VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model")
"""Files of which a checkpoint with a tokenizer has at least one."""

_TEXT_FILES = (*VOCABULARY_FILES, "tokenizer_config.json", "merges.txt")


@dataclass(frozen=True)
class BodySpec:
    """One body, described without its weights.

    Args:
        name: As written in a config.
        summary: One line for `sweeper bodies`.
        modality: What it was pretrained on.
        model_type: Hugging Face family, or `timm-swin`, `timm-vit`.
        corpus: Proxies that a mini body is pretrained on; empty for a body that comes with weights.
        folder: Gives the checkpoint folder; None for the mini bodies.
        num_layers: Transformer blocks, Swin's over all stages; None where only the loaded model can tell.
        version: Raised when the code gives another body than before from the same files.
    """

    name: str
    summary: str
    modality: Literal["text", "images"]
    model_type: str
    corpus: tuple[str, ...] = ()
    folder: Path | None = field(default=None)
    version: int = 1
    num_layers: int | None = None

    @property
    def pretrained_here(self) -> bool:
        """Whether its pretraining is a stage of the trial."""
        return bool(self.corpus)

    @property
    def is_decoder(self) -> bool:
        """Whether each of its tokens sees only those before it."""
        return self.model_type in DECODERS

    def digest(self) -> str:
        """SHA-256 over what defines the body: its files, or the code version and the corpora of a mini body."""
        if self.folder is None:
            corpora = " ".join(find_proxy(name).digest() for name in self.corpus)
            return content_digest(f"body {self.name} {self.version} {corpora}", ())
        return content_digest(f"body {self.model_type} {self.version}", tuple(_files(self.folder)))


BODIES: dict[str, BodySpec] = {
    spec.name: spec
    for spec in (
        BodySpec("mini-roberta", "RoBERTa of 2 layers, width 64, by masked tokens on pydoc", "text", "roberta", ("pydoc",), num_layers=2),
        BodySpec("mini-swin", "Swin of depths 1 and 1, 16 px, by labels on fractals", "images", "swin", ("fractals",), num_layers=2),
    )
}


def find_body(name: str) -> BodySpec:
    """The body of that name.

    Raises:
        ConfigError: If there is none, or `hf:` names no checkpoint of a known family.
    """
    for prefix, find in (("hf:", hf_body), ("timm:", timm_body)):
        if name.startswith(prefix):
            return find(name.removeprefix(prefix))
    known = BODIES | third_party("orca_core.bodies")
    if name not in known:
        names = [*known, "hf:NAME_OR_FOLDER", "timm:NAME_OR_FOLDER"]
        raise ConfigError([Fault("body.name", "must be the name of a body", name, nearest(name, names))])
    return known[name]


def hf_body(place: str) -> BodySpec:
    """The body in a checkpoint folder, or by its hub name in the local Hugging Face cache or on the hub."""
    name = f"hf:{place}"
    folder = _folder(name, place, place)
    config = _read_config(name, folder)
    model_type = config.get("model_type")
    if model_type not in MODEL_TYPES:
        remedy = nearest(model_type, MODEL_TYPES)
        raise ConfigError([Fault("body.name", f"must be of a known family, not {model_type!r}", name, remedy)])
    if model_type == "electra" and config.get("embedding_size", 128) != config.get("hidden_size", 256):
        raise ConfigError([Fault("body.name", "must have an embedding as wide as its layers", name)])
    if not weight_files(folder):
        raise ConfigError([Fault("body.name", "must have weights", name, f"Expected {' or '.join(_SHOWN_WEIGHTS)} in {folder}.")])
    version, layers = _VERSIONS.get(model_type, 1), _num_layers(config)
    return BodySpec(
        name, f"{model_type} in {folder}", MODEL_TYPES[model_type], model_type, folder=folder, version=version, num_layers=layers
    )


def timm_body(place: str) -> BodySpec:
    """The timm model in a folder as timm's `save_for_hf` writes it, or by its name, `swin_base_patch4_window7_224.ms_in22k`."""
    name = f"timm:{place}"
    folder = _folder(name, place, place if "/" in place else f"timm/{place}")
    architecture = _read_config(name, folder).get("architecture")
    family = _TIMM_FAMILIES.get(str(architecture).partition("_")[0])
    if family is None:
        remedy = f"Known families: {', '.join(_TIMM_FAMILIES)}."
        raise ConfigError([Fault("body.name", f"must be a Swin or a ViT of timm, not {architecture!r}", name, remedy)])
    if not weight_files(folder):
        raise ConfigError([Fault("body.name", "must have weights", name, f"Expected {' or '.join(_SHOWN_WEIGHTS)} in {folder}.")])
    layers = _blocks_in(weight_files(folder)[0])
    return BodySpec(name, f"{architecture} in {folder}", "images", family, folder=folder, num_layers=layers)


def _folder(name: str, place: str, hub_name: str) -> Path:
    """The folder that a place is, or the one that a hub name gives."""
    folder = Path(place).expanduser()
    if folder.is_dir():
        return folder
    if place.count("/") > 1 or place.startswith((".", "/", "~")):
        raise ConfigError([Fault("body.name", "must be an existing checkpoint folder", name, "It holds config.json and the weights.")])
    return _from_hub(hub_name, name)


def _read_config(name: str, folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "config.json").read_text()))
    except (OSError, ValueError, TypeError):
        raise ConfigError([Fault("body.name", "must have a readable config.json", name, f"Looked in {folder}.")]) from None


def _blocks_in(weights: Path) -> int | None:
    """Transformer blocks of a timm model, from the header of its safetensors file; None for a file of another form."""
    try:
        with weights.open("rb") as file:
            names = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), 10**8)))
        return len({found[0] for name in names if (found := re.match(r"(layers\.\d+\.)?blocks\.\d+\.", name))}) or None
    except (OSError, ValueError, TypeError):
        return None


def _num_layers(config: Mapping[str, Any]) -> int | None:
    """Transformer blocks that a Hugging Face config says, under the names that the families have for it."""
    if isinstance(config.get("depths"), list):
        return sum(config["depths"])
    return next((config[key] for key in ("num_hidden_layers", "n_layer", "n_layers") if isinstance(config.get(key), int)), None)


@lru_cache(maxsize=64)
def _from_hub(hub_name: str, name: str) -> Path:
    """Snapshot folder of a hub name, from the local cache or fetched."""
    from huggingface_hub import snapshot_download  # imported here: it is slow, and only hub names need it

    wanted = ["config.json", "preprocessor_config.json", "*.safetensors*", "pytorch_model.bin*", *_TEXT_FILES]
    for local_only in (True, False):
        try:
            return Path(snapshot_download(hub_name, local_files_only=local_only, allow_patterns=wanted, etag_timeout=5))
        except Exception as error:  # the hub client raises errors of many libraries; all mean that the name gives no folder
            reason = type(error).__name__
    remedy = f"It is neither a folder nor in the local cache, and fetching it failed ({reason})."
    raise ConfigError([Fault("body.name", "must be a checkpoint folder or a hub name", name, remedy)])


def weight_files(folder: Path) -> list[Path]:
    """The files of the weights, in a fixed order: safetensors if there are any, else `.bin`."""
    return sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def _files(folder: Path) -> list[Path]:
    """The files that define a checkpoint, in a fixed order: one form of the weights only."""
    try:
        names = ("config.json", "preprocessor_config.json", *_TEXT_FILES)
        return [*weight_files(folder), *(folder / name for name in names if (folder / name).is_file())]
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from None
