"""Bodies: the transformers that are adapted.

    mini-roberta, mini-swin     small bodies that are pretrained here, as a stage, on data that comes with Python packages
    hf:NAME_OR_FOLDER           any Hugging Face encoder of a family in `MODEL_TYPES`, from a folder or by its hub name

A `BodySpec` says what a body is without importing torch; `orca_core.bodies.loading` builds the modules.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

from orca_core.errors import ConfigError, DataError, Fault, nearest
from orca_core.plugins import third_party
from orca_core.proxies import find_proxy
from orca_core.tasks.spec import content_digest

__all__ = ["BODIES", "MODEL_TYPES", "BodySpec", "find_body"]

MODEL_TYPES: dict[str, Literal["text", "images"]] = {
    "bert": "text",
    "roberta": "text",
    "xlm-roberta": "text",
    "camembert": "text",
    "distilbert": "text",
    "electra": "text",
    "swin": "images",
    "vit": "images",
    "deit": "images",
}
"""`model_type` of a Hugging Face config -> the modality that family was pretrained on."""

_WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

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
        model_type: Hugging Face family.
        corpus: Proxies that a mini body is pretrained on; empty for a body that comes with weights.
        folder: Gives the checkpoint folder; None for the mini bodies.
        version: Raised when the code gives another body than before from the same files.
    """

    name: str
    summary: str
    modality: Literal["text", "images"]
    model_type: str
    corpus: tuple[str, ...] = ()
    folder: Path | None = field(default=None)
    version: int = 1

    @property
    def pretrained_here(self) -> bool:
        """Whether its pretraining is a stage of the trial."""
        return bool(self.corpus)

    def digest(self) -> str:
        """SHA-256 over what defines the body: its files, or the code version and the corpora of a mini body."""
        if self.folder is None:
            corpora = " ".join(find_proxy(name).digest() for name in self.corpus)
            return content_digest(f"body {self.name} {self.version} {corpora}", ())
        return content_digest(f"body {self.model_type} {self.version}", tuple(_files(self.folder)))


BODIES: dict[str, BodySpec] = {
    spec.name: spec
    for spec in (
        BodySpec("mini-roberta", "RoBERTa of 2 layers, width 64, by masked tokens on pydoc", "text", "roberta", ("pydoc",)),
        BodySpec("mini-swin", "Swin of depths 1 and 1, 16 px, by labels on photos and fractals", "images", "swin", ("photos", "fractals")),
    )
}


def find_body(name: str) -> BodySpec:
    """The body of that name.

    Raises:
        ConfigError: If there is none, or `hf:` names no checkpoint of a known family.
    """
    if name.startswith("hf:"):
        return hf_body(name.removeprefix("hf:"))
    known = BODIES | third_party("orca_core.bodies")
    if name not in known:
        raise ConfigError([Fault("body.name", "must be the name of a body", name, nearest(name, [*known, "hf:NAME_OR_FOLDER"]))])
    return known[name]


def hf_body(place: str) -> BodySpec:
    """The body in a checkpoint folder, or by its hub name in the local Hugging Face cache or on the hub."""
    fault = partial(Fault, "body.name")
    folder = Path(place).expanduser()
    if not folder.is_dir():
        if place.count("/") > 1 or place.startswith((".", "/", "~")):
            raise ConfigError([fault("must be an existing checkpoint folder", f"hf:{place}", "It holds config.json and the weights.")])
        folder = _from_hub(place)
    try:
        model_type = json.loads((folder / "config.json").read_text()).get("model_type")
    except (OSError, ValueError, AttributeError):
        raise ConfigError([fault("must have a readable config.json", f"hf:{place}", f"Looked in {folder}.")]) from None
    if model_type not in MODEL_TYPES:
        remedy = nearest(model_type, MODEL_TYPES)
        raise ConfigError([fault(f"must be of a known family of encoders, not {model_type!r}", f"hf:{place}", remedy)])
    if not any((folder / name).is_file() for name in _WEIGHT_FILES):
        raise ConfigError([fault("must have weights", f"hf:{place}", f"Expected {_WEIGHT_FILES[0]} or {_WEIGHT_FILES[2]} in {folder}.")])
    return BodySpec(f"hf:{place}", f"{model_type} in {folder}", MODEL_TYPES[model_type], model_type, folder=folder)


@lru_cache(maxsize=64)
def _from_hub(name: str) -> Path:
    """Snapshot folder of a hub name, from the local cache or fetched."""
    from huggingface_hub import snapshot_download  # imported here: it is slow, and only hub names need it

    wanted = ["config.json", "preprocessor_config.json", "*.safetensors*", "pytorch_model.bin*", *_TEXT_FILES]
    for local_only in (True, False):
        try:
            return Path(snapshot_download(name, local_files_only=local_only, allow_patterns=wanted, etag_timeout=5))
        except Exception as error:  # the hub client raises errors of many libraries; all mean that the name gives no folder
            reason = type(error).__name__
    remedy = f"It is neither a folder nor in the local cache, and fetching it failed ({reason})."
    raise ConfigError([Fault("body.name", "must be a checkpoint folder or a hub name", f"hf:{name}", remedy)])


def _files(folder: Path) -> list[Path]:
    """The files that define a checkpoint, in a fixed order: one form of the weights only."""
    try:
        shards = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
        names = ("config.json", "preprocessor_config.json", *_TEXT_FILES)
        return [*shards, *(folder / name for name in names if (folder / name).is_file())]
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from None
