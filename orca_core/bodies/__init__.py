"""Bodies: the transformers that are adapted.

    mini-roberta, mini-swin, ...  small bodies that are pretrained here, as a stage, on data that comes with Python packages
    hf:NAME_OR_FOLDER             a Hugging Face encoder or decoder of a family in `orca_core.bodies.family`, from a folder or by hub name
    hf:NAME@REVISION              the same at a branch, tag or commit of the hub: checkpoints along one pretraining
    timm:NAME_OR_FOLDER           a Swin or ViT of timm, from a folder as timm saves it or by its name (`timm/NAME` on the hub)
    none, attention-1, ...        bodiless arms: what is left without a pretrained body (`orca_core.bodies.bodiless`)

A `BodySpec` says what a body is without importing torch; `orca_core.bodies.loading` builds the modules. Other packages add theirs, with
their code, through the entry-point group `orca_core.bodies`.
"""

from __future__ import annotations

from collections.abc import Mapping

from orca_core.bodies.checkpoints import hf_body, timm_body
from orca_core.bodies.family import FAMILIES, HUGGING_FACE
from orca_core.bodies.spec import BodySpec
from orca_core.catalogue import Catalogue, NameForm
from orca_core.plugins import check_reference

__all__ = ["BODIES", "BODILESS", "BODY_CATALOGUE", "BodySpec", "find_body"]

BODILESS: dict[str, BodySpec] = {
    name: BodySpec(name, summary, "none", model_type, num_layers=layers, rows_before_third=0)
    for name, model_type, layers, summary in (
        ("none", "none", 0, "no body: the embedder's tokens go straight to the predictor"),
        ("attention-1", "attention", 1, "one layer of self-attention in place of a body, not pretrained"),
        ("transformer-1", "transformer", 1, "one transformer layer in place of a body, not pretrained"),
        ("cnn", "cnn", 4, "a small residual network of convolutions in place of a body, 1D or 2D as the task, not pretrained"),
    )
}
"""The bodiless arms by name."""

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
            name="mini-roberta-small",
            summary="RoBERTa of 1 layer, width 32, by masked tokens on pydoc",
            modality="text",
            model_type="roberta",
            corpus=("pydoc",),
            num_layers=1,
            width=32,
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
        *BODILESS.values(),
    )
}


_NAMES_OF = {
    modality: ", ".join(name for name, family in HUGGING_FACE.items() if family.modality == modality) for modality in ("text", "images")
}

_FORMS = (
    NameForm(
        "hf:NAME_OR_FOLDER",
        r"hf:(.*)",
        hf_body,
        f"Hugging Face models of text ({_NAMES_OF['text']}) and of images ({_NAMES_OF['images']}); NAME@REVISION at a revision",
        {"modality": "text, images"},
    ),
    NameForm("timm:NAME_OR_FOLDER", r"timm:(.*)", timm_body, "Swin, ViT and DeiT of timm", {"modality": "images"}),
)


def _check(spec: BodySpec, known: Mapping[str, BodySpec]) -> None:
    if spec.corpus:
        raise TypeError(f"corpus must be empty: only the mini bodies are pretrained here, but it is {spec.corpus!r}")
    if spec.build:
        check_reference("build", spec.build)
        if spec.tokenizer:
            check_reference("tokenizer", spec.tokenizer)
        if spec.modality not in ("text", "images"):
            raise TypeError(f"modality must be text or images, not {spec.modality!r}")
        return
    if spec.folder is None:
        raise TypeError('build must be "module:function", the code that makes the body, or folder a checkpoint of a known family')
    if spec.model_type not in FAMILIES:
        raise TypeError(f"model_type must be a known family ({', '.join(FAMILIES)}) unless build names code, not {spec.model_type!r}")
    if spec.modality != FAMILIES[spec.model_type].modality:
        raise TypeError(f"modality must be that of its family, {FAMILIES[spec.model_type].modality}, not {spec.modality!r}")


BODY_CATALOGUE: Catalogue[BodySpec] = Catalogue(
    kind="body", knob="body.name", group="orca_core.bodies", spec_class=BodySpec, builtin=BODIES.values(), forms=_FORMS, check=_check
)


def find_body(name: str) -> BodySpec:
    """The body of that name.

    Raises:
        ConfigError: If there is none, or `hf:` names no checkpoint of a known family.
    """
    return BODY_CATALOGUE.find(name)
