"""The parts of a body's modules, and bodies that start with some of them pretrained or with all of them shuffled."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from orca_core.bodies.base import Body, BodyEmbedding
from orca_core.bodies.keep import kept_layers, kept_parts
from orca_core.errors import ConfigError, Fault
from orca_core.seeding import derive


def tensors_of(body: Body, embedding: BodyEmbedding | None) -> dict[str, Tensor]:
    """Every parameter and buffer of a body and of its embedding, by a name that begins with `body.` or `embedding.`; each tensor once."""
    return {name: tensor for name, tensor, _ in _named(body, embedding)}


def parts_of(body: Body, embedding: BodyEmbedding | None) -> dict[str, str]:
    """The part, of `orca_core.bodies.keep.PARTS`, that each tensor of `tensors_of` belongs to."""
    attention, blocks = _inside(body.attention), _inside(body.blocks)
    embedded = {id(tensor) for tensor in body.embedded}
    own = _inside([embedding] if embedding is not None else [])

    def part(module: nn.Module, tensor: Tensor) -> str:
        if is_norm(module):
            return "layernorm"
        if id(module) in attention:
            return "attention"
        if id(module) in own or id(tensor) in embedded:
            return "embeddings"
        return "ffn" if id(module) in blocks else "other"

    return {name: part(module, tensor) for name, tensor, module in _named(body, embedding)}


def kept_names(body: Body, embedding: BodyEmbedding | None, keep: str) -> set[str]:
    """The tensors of `tensors_of` that start pretrained.

    Args:
        body, embedding: The modules.
        keep: As `orca_core.bodies.keep.spell_keep` spells it.

    Raises:
        ConfigError: If the body has fewer layers than are to be kept.
    """
    parts, layers = kept_parts(keep), kept_layers(keep)
    if layers > len(body.blocks):
        raise ConfigError([Fault("body.keep", f"must name at most the {len(body.blocks)} layers of the body", keep)])
    whole = _inside(body.blocks[:layers])
    names = {name for name, part in parts_of(body, embedding).items() if part in parts}
    return names | {name for name, _, module in _named(body, embedding) if id(module) in whole}


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalises by layer: torch's LayerNorm and RMSNorm, and the classes by which families write their own."""
    return isinstance(module, nn.LayerNorm | nn.RMSNorm) or type(module).__name__.endswith(("LayerNorm", "RMSNorm"))


def copy_kept(source: tuple[Body, BodyEmbedding | None], target: tuple[Body, BodyEmbedding | None], keep: str) -> None:
    """Give a body the tensors of another one of the same configuration that `keep` names; the others stay as they are."""
    tensors, others = tensors_of(*source), tensors_of(*target)
    with torch.no_grad():
        for name in sorted(kept_names(*source, keep)):
            others[name].copy_(tensors[name])


def shuffled(body: Body, embedding: BodyEmbedding | None, seed: int) -> tuple[Body, BodyEmbedding | None]:
    """A copy in which the entries of each parameter are permuted: the same numbers in every tensor, and no structure.

    Each permutation is drawn by the seed and the parameter's name. Buffers, which no training has changed, stay.
    """
    body, embedding = copy.deepcopy((body, embedding))
    with torch.no_grad():
        for name, tensor in tensors_of(body, embedding).items():
            if isinstance(tensor, nn.Parameter):
                draws = torch.Generator().manual_seed(derive(seed, "body-shuffle", detail=name))
                tensor.copy_(tensor.flatten()[torch.randperm(tensor.numel(), generator=draws)].view_as(tensor))
    return body, embedding


def _named(body: Body, embedding: BodyEmbedding | None) -> Iterator[tuple[str, Tensor, nn.Module]]:
    """(name, parameter or buffer, the module that holds it), without tensors that stand in two places twice."""
    seen: set[int] = set()
    for root, whole in (("body", body), ("embedding", embedding)):
        if whole is None:
            continue
        for path, module in whole.named_modules(prefix=root):
            for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield f"{path}.{name}", tensor, module


def _inside(modules: Iterable[nn.Module]) -> set[int]:
    return {id(part) for module in modules for part in module.modules()}
