"""A body without its weights (`BodySpec`). No torch here; `orca_core.bodies.loading` makes the modules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orca_core.bodies.family import FAMILIES
from orca_core.bodies.files import checkpoint_files
from orca_core.datafiles.digests import digest_content
from orca_core.proxies import find_proxy


@dataclass(frozen=True)
class BodySpec:
    """One body, described without its weights.

    Args:
        name: As written in a config.
        summary: One line for `sweeper bodies`.
        modality: What it was pretrained on; `none` for a bodiless arm, in which something untrained, or nothing, takes the body's place.
        model_type: Name of a family in `orca_core.bodies.family.FAMILIES`; anything for a body that `build` makes.
        corpus: Proxies that a mini body is pretrained on; empty for a body that comes with weights.
        folder: The checkpoint folder; None for the mini bodies, and where `build` needs none.
        num_layers: Transformer blocks, Swin's over all stages; None if only the loaded model shows it.
        width: Width of the embedding; None if only the loaded model shows it.
        rows_before_third: Rows of its position table that a text body uses before row 2, which is where RoBERTa starts: 2 for BERT; 0 for
            RoBERTa, and without such a table; None if only the loaded model shows it.
        version: Raised when the code makes another body than before from the same files.
        build: `"module:function"` of a body that brings its own code, called as `build(spec, pretrained=..., dropout=...)`; returns
            (Body, BodyEmbedding), with pretrained weights or with ones drawn from torch's global generator. Empty for a body of a family.
        tokenizer: `"module:function"` of a text body that brings its own code, called as `tokenizer(spec)`; returns a tokenizer of
            Hugging Face. Without one the body cannot embed a proxy of texts.
        files: The files whose content, beside that of `folder`, defines a body that brings its own code.
        pretrain_tokens: How many tokens its pretraining has seen, where that is known by its name; not for mini bodies.
        dims: Dimensions of the task that a bodiless arm is built for; other bodies are the same for every task.
    """

    name: str
    summary: str
    modality: Literal["text", "images", "none"]
    model_type: str = ""
    corpus: tuple[str, ...] = ()
    folder: Path | None = None
    version: int = 1
    num_layers: int | None = None
    width: int | None = None
    rows_before_third: int | None = None
    build: str = ""
    tokenizer: str = ""
    files: Callable[[], tuple[Path, ...]] = tuple
    pretrain_tokens: int | None = None
    dims: int = 1

    @property
    def is_bodiless(self) -> bool:
        """Whether there is no body to adapt: nothing pretrained, no embedding of its own, no proxy to align with."""
        return self.modality == "none"

    @property
    def is_convolutional(self) -> bool:
        """Whether it is the convolutional network, which takes points or pixels rather than patches."""
        return self.is_bodiless and self.model_type == "cnn"

    @property
    def pretrained_here(self) -> bool:
        """Whether its pretraining is a stage of the trial."""
        return bool(self.corpus)

    @property
    def is_decoder(self) -> bool:
        """Whether each of its tokens sees only those before it."""
        return self.model_type in FAMILIES and FAMILIES[self.model_type].is_decoder

    @property
    def takes_tokens(self) -> bool:
        """Whether learned tokens may pass through its blocks; of a body that brings its own code, only the loaded model shows it."""
        return bool(self.build) or (self.model_type in FAMILIES and FAMILIES[self.model_type].takes_tokens)

    def digest(self) -> str:
        """SHA-256 over what defines the body: version and files; corpora of a mini body; name and code of one that brings its own code.

        Raises:
            DataError: If files are missing.
        """
        if self.build:
            files = (*self.files(), *(checkpoint_files(self.folder) if self.folder is not None else ()))
            return digest_content(f"body {self.name} {self.build} {self.tokenizer} {self.version}", files)
        if self.folder is None:
            corpora = " ".join(find_proxy(name).digest() for name in self.corpus)
            return digest_content(f"body {self.name} {self.version} {corpora}", ())
        return digest_content(f"body {self.model_type} {self.version}", tuple(checkpoint_files(self.folder)))
