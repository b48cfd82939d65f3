"""Bodies: the transformers that are adapted.

    mini-roberta, mini-swin     small bodies that are pretrained here, as a stage, on data that comes with Python packages
    hf:NAME_OR_FOLDER           a Hugging Face encoder or decoder of a family in `orca_core.bodies.family`, from a folder or by hub name
    timm:NAME_OR_FOLDER         a Swin or ViT of timm, from a folder as timm saves it or by its name (`timm/NAME` on the hub)

A `BodySpec` says what a body is without importing torch; `orca_core.bodies.loading` builds the modules.
"""

from __future__ import annotations

from orca_core.bodies.checkpoints import hf_body, timm_body
from orca_core.bodies.spec import BodySpec
from orca_core.errors import ConfigError, Fault, nearest
from orca_core.plugins import third_party

__all__ = ["BODIES", "BodySpec", "find_body"]

BODIES: dict[str, BodySpec] = {
    spec.name: spec
    for spec in (
        BodySpec(
            name="mini-roberta",
            summary="RoBERTa of 2 layers, width 64, by masked tokens on pydoc",
            modality="text",
            model_type="roberta",
            corpus=("pydoc",),
            num_layers=2,
            width=64,
            rows_before_third=0,
        ),
        BodySpec(
            name="mini-swin",
            summary="Swin of depths 1 and 1, 16 px, by labels on fractals",
            modality="images",
            model_type="swin",
            corpus=("fractals",),
            num_layers=2,
            width=32,
            rows_before_third=0,
        ),
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
