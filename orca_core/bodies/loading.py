"""From a `BodySpec` to modules with weights."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from orca_core.bodies.base import Body, BodyEmbedding
from orca_core.bodies.bodiless import bodiless
from orca_core.bodies.family import find_family
from orca_core.bodies.files import VOCABULARY_FILES, weight_files
from orca_core.bodies.mini import mini_model, mini_tokenizer
from orca_core.bodies.parts import copy_kept, shuffled, tensors_of
from orca_core.bodies.promises import broken_promises
from orca_core.bodies.spec import BodySpec
from orca_core.datafiles.expected import refuse
from orca_core.errors import DataError
from orca_core.plugins import resolve
from orca_core.seeding import seeded
from orca_core.workbench import memoize


@dataclass(frozen=True)
class LoadedBody:
    """A body's modules, on the CPU. Shared between the trials of a process: copied before use, never changed.

    Args:
        body: The transformer, in eval mode.
        embedding: The body's own embedding, for source features and for the embedder's start; None for a bodiless arm.
        spec: What it was made from.
    """

    body: Body
    embedding: BodyEmbedding | None
    spec: BodySpec

    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer of a text body.

        Raises:
            DataError: If the checkpoint has none.
        """
        return _tokenizer(self.spec)


def random_body(spec: BodySpec, *, seed: int, dropout: float = 0.0) -> LoadedBody:
    """The body with weights drawn by `seed`, at the configuration of the pretrained one.

    Raises:
        DataError: If the body brings its own code, and that fails or makes another thing than promised.
    """
    with seeded(seed, "body-init"):
        if spec.is_bodiless:
            return _frozen(bodiless(spec, dropout), None, spec)
        if spec.build:
            return _built(spec, dropout, pretrained=False)
        model = mini_model(spec, dropout) if spec.pretrained_here else _model_in_folder(spec, dropout, pretrained=False)[0]
    return _split(model, spec)


def pretrained_mini(spec: BodySpec, tensors: Mapping[str, Tensor], dropout: float = 0.0) -> LoadedBody:
    """A mini body with the weights that its pretraining stage stored."""
    with seeded(0, "body-init"):  # all of it is overwritten; seeded so that building it draws nothing from the caller
        model = mini_model(spec, dropout)
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")})
    return _split(model, spec)


@memoize(maxsize=2)
def checkpoint_body(spec: BodySpec, digest: str, dropout: float = 0.0) -> LoadedBody:
    """A body with the pretrained weights it comes with; kept in the process between trials.

    Args:
        spec: The body.
        digest: Of the body, so that a folder that changes is read again.
        dropout: Rate inside the body.

    Raises:
        DataError: If weights are missing or damaged, or the body brings its own code, and that fails or makes another thing than promised.
            Of checkpoints, safetensors are loaded, else `.bin` files with `weights_only`; no code in them is run.
    """
    if spec.build:
        with seeded(0, "body-init"):
            return _built(spec, dropout, pretrained=True)
    assert spec.folder is not None
    try:
        with seeded(0, "body-init"):
            model, missing = _model_in_folder(spec, dropout, pretrained=True)
    except Exception as error:  # the loaders of three file formats raise errors of their own; each means a damaged checkpoint
        files = ", ".join(str(path) for path in weight_files(spec.folder))
        raise DataError(f"{spec.name}: weights cannot be loaded from {files} ({_cause(error)})") from error
    if missing:
        raise DataError(f"{spec.name}: weights are missing from the checkpoint: {', '.join(missing[:5])} ({len(missing)} in all)")
    return _split(model, spec)


def partly_pretrained(pretrained: LoadedBody, keep: str, *, seed: int, dropout: float = 0.0) -> LoadedBody:
    """The body of `random_body` with the parts of the pretrained one that `keep` names copied over.

    Nothing of the pretrained body is changed. The random values are those of `body.weights: random`, so arms of a seed are paired.

    Raises:
        ConfigError: If the body has fewer layers than are to be kept.
        DataError: If a body that brings its own code has other tensors when it is random.
    """
    drawn = random_body(pretrained.spec, seed=seed, dropout=dropout)
    shapes = [{name: tuple(tensor.shape) for name, tensor in tensors_of(x.body, x.embedding).items()} for x in (pretrained, drawn)]
    if shapes[0] != shapes[1]:
        differing = ", ".join(sorted(name for name, _ in shapes[0].items() ^ shapes[1].items())[:5])
        rule = "must have the same tensors pretrained and random for body.keep, but differs in"
        raise DataError(f"{pretrained.spec.name}: {rule} {differing}")
    copy_kept((pretrained.body, pretrained.embedding), (drawn.body, drawn.embedding), keep)
    return drawn


def shuffled_body(pretrained: LoadedBody, *, seed: int) -> LoadedBody:
    """A copy of the pretrained body with the entries of each parameter permuted by the seed."""
    return LoadedBody(*shuffled(pretrained.body, pretrained.embedding, seed), pretrained.spec)


def _model_in_folder(spec: BodySpec, dropout: float, *, pretrained: bool) -> tuple[nn.Module, list[str]]:
    """A checkpoint's model, and the names of weights that it lacks."""
    family = find_family(spec.model_type, spec.name)
    model, missing = resolve(family.load)(spec.folder, family, dropout=dropout, pretrained=pretrained)
    return model, missing


def _cause(error: BaseException) -> str:
    """Why weights cannot be loaded, on one line."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, pickle.UnpicklingError) or "weights_only" in str(seen):
            return "the file is damaged, or a pickle that holds other things than tensors, which could run code; safetensors cannot"
        seen = seen.__cause__ or seen.__context__
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _split(model: nn.Module, spec: BodySpec) -> LoadedBody:
    """A model of a known family, cut in two."""
    body, embedding = resolve(find_family(spec.model_type, spec.name).split)(model)
    return _frozen(body, embedding, spec)


def _built(spec: BodySpec, dropout: float, *, pretrained: bool) -> LoadedBody:
    """A body that brings its own code, once it has been checked against what it promises."""
    try:
        made = resolve(spec.build)(spec, pretrained=pretrained, dropout=dropout)
    except Exception as error:  # the code of another package: anything may go wrong in it
        raise DataError(f"{spec.name}: {spec.build} fails with {type(error).__name__}: {error}") from error
    if not isinstance(made, tuple) or len(made) != 2 or not isinstance(made[0], Body) or not isinstance(made[1], BodyEmbedding):
        raise DataError(f"{spec.name}: {spec.build}: must return (Body, TextEmbedding or ImageEmbedding), but got {_types(made)}.")
    loaded = _frozen(made[0], made[1], spec)
    refuse(f"{spec.name}: {spec.build}: {broken}" for broken in broken_promises(spec, loaded.body, loaded.embedding))
    return loaded


def _types(made: object) -> str:
    return f"({', '.join(type(part).__name__ for part in made)})" if isinstance(made, tuple) else type(made).__name__


def _frozen(body: Body, embedding: BodyEmbedding | None, spec: BodySpec) -> LoadedBody:
    for module in (body, embedding):
        if module is not None:
            module.requires_grad_(False).eval()
    return LoadedBody(body, embedding, spec)


@memoize(maxsize=4)
def _tokenizer(spec: BodySpec) -> Any:
    if spec.build:
        if not spec.tokenizer:
            raise DataError(f"{spec.name}: names no tokenizer, and a text proxy needs one")
        return resolve(spec.tokenizer)(spec)
    if spec.folder is None:
        return mini_tokenizer()
    from transformers import AutoTokenizer

    if not any((spec.folder / name).is_file() for name in VOCABULARY_FILES):  # transformers would make up an empty one
        found = f"{spec.folder} has none of {', '.join(VOCABULARY_FILES)}"
        raise DataError(f"{spec.name}: has no tokenizer that can be loaded, and a text proxy needs one ({found})")
    try:
        tokenizer = AutoTokenizer.from_pretrained(spec.folder, local_files_only=True)
    except Exception as error:  # tokenizers of many kinds raise errors of many kinds; each means there is none to use
        raise DataError(f"{spec.name}: has no tokenizer that can be loaded, and a text proxy needs one ({error})") from error
    if tokenizer.pad_token is None:  # decoders have none; padded positions are masked, so any token will do
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
