"""What a body and its embedding promise to the rest of a trial: shapes, parts, and what the spec says of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from orca_core.bodies.base import Body, BodyEmbedding, Geometry, ImageEmbedding, TextEmbedding, rows_before_third
from orca_core.bodies.families.decoders import DecoderBody
from orca_core.bodies.spec import BodySpec


def broken_promises(spec: BodySpec, body: Body, embedding: BodyEmbedding | None) -> list[str]:
    """What a body that brings its own code does not keep, one line each; of several in a row that follow from one another, the first.

    Args:
        spec: The body, as declared.
        body, embedding: Its modules, in eval mode; a bodiless arm has no embedding.
    """
    for promises in (_geometry(spec, body), _parts(spec, body, embedding), _declared(spec, body, embedding), _tokens(body)):
        if broken := list(promises):
            return broken
    return []


def _geometry(spec: BodySpec, body: Body) -> Iterator[str]:
    geometry = getattr(body, "geometry", None)
    if not isinstance(geometry, Geometry):
        yield f"body.geometry must be a Geometry, but is {type(geometry).__name__}."
    elif geometry.modality != spec.modality:
        yield f"body.geometry.modality must be {spec.modality}, as the spec says, but is {geometry.modality}."
    elif min(geometry.width, geometry.output_width) < 1:
        yield f"body.geometry must have widths of at least 1, but has {geometry.width} and {geometry.output_width}."
    elif geometry.modality != "images" and geometry.max_tokens < 1:
        yield f"body.geometry.max_tokens must be at least 1, but is {geometry.max_tokens}."
    elif geometry.modality == "images" and (
        min(geometry.image_size, geometry.patch_size, geometry.output_side) < 1 or geometry.image_size % geometry.patch_size
    ):
        yield f"body.geometry must have an image_size that patch_size divides, and an output_side of at least 1, but is {geometry}."


def _parts(spec: BodySpec, body: Body, embedding: BodyEmbedding | None) -> Iterator[str]:
    geometry, modules = body.geometry, set(body.modules())
    if spec.is_bodiless:
        if embedding is not None or not modules.issuperset((*body.blocks, *body.attention)):
            yield "a bodiless arm must have no embedding, and as blocks and attention only modules of its own."
        return
    kind = TextEmbedding if spec.modality == "text" else ImageEmbedding
    if not isinstance(embedding, kind):
        yield f"the embedding must be a {kind.__name__} for {spec.modality}, but is a {type(embedding).__name__}."
        return
    if not body.blocks or not modules.issuperset(body.blocks):
        yield "body.blocks must be modules of the body, at least one."
    elif not body.attention or not modules.issuperset(body.attention):
        yield "body.attention must be modules of the body, at least one."
    if embedding.norm is not None and not (
        isinstance(embedding.norm, nn.LayerNorm) and embedding.norm.normalized_shape == (geometry.width,)
    ):
        yield f"embedding.norm must be a LayerNorm over the width, {geometry.width}, or None."
    count = geometry.max_tokens if spec.modality == "text" else geometry.side**2
    if embedding.positions is not None and tuple(embedding.positions.shape) != (count, geometry.width):
        yield f"embedding.positions must be of shape {(count, geometry.width)} or None, but is of {tuple(embedding.positions.shape)}."
    if isinstance(embedding, ImageEmbedding):
        shape = tuple(embedding.projection.weight.shape)
        if shape != (geometry.width, 3, geometry.patch_size, geometry.patch_size) or embedding.image_size != geometry.image_size:
            yield f"embedding.projection must be Conv2d(3, width, patch_size), for images of image_size, but its weight is of {shape}."


def _declared(spec: BodySpec, body: Body, embedding: BodyEmbedding | None) -> Iterator[str]:
    found = {"num_layers": len(body.blocks), "width": body.geometry.width, "rows_before_third": rows_before_third(embedding)}
    for name, value in found.items():
        if getattr(spec, name) not in (None, value):
            yield f"{name} of the spec must be what the body has, {value}, or None, but is {getattr(spec, name)}."
    if spec.is_decoder != isinstance(body, DecoderBody):
        yield f"the body must {'' if spec.is_decoder else 'not '}be a DecoderBody with model_type {spec.model_type!r}."


def _tokens(body: Body) -> Iterator[str]:
    geometry = body.geometry
    is_grid = geometry.modality == "images"
    length = geometry.side**2 if is_grid else min(4, geometry.max_tokens)
    expected = (2, geometry.output_side**2 if is_grid else length, geometry.output_width)
    tokens = torch.linspace(-1, 1, 2 * length * geometry.width).reshape(2, length, geometry.width)
    try:
        with torch.no_grad():
            found = body(tokens)
    except Exception as error:  # the code of another package: anything may go wrong in it
        yield f"the body must take tokens of shape {tuple(tokens.shape)}, but fails with {type(error).__name__}: {error}"
        return
    if not isinstance(found, torch.Tensor) or tuple(found.shape) != expected:
        shown = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        yield f"the body must return tokens of shape {expected} for tokens of shape {tuple(tokens.shape)}, but returns {shown}."
