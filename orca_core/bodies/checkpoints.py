"""Bodies that come as a checkpoint folder: of Hugging Face (`hf:`) and of timm (`timm:`), by folder or by hub name.

`NAME@REVISION` is a hub name with a branch, a tag or a commit: checkpoints along one pretraining are often published as branches, as
Pythia's are (`EleutherAI/pythia-160m@step3000`). A folder whose path has an `@` stays that folder. Whatever its name, a body is known by
the content of its files.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from orca_core.bodies.family import HUGGING_FACE, find_family, timm_family
from orca_core.bodies.files import TEXT_FILES, weight_files
from orca_core.bodies.spec import BodySpec
from orca_core.errors import ConfigError, Fault
from orca_core.workbench import memoize

_SHOWN_WEIGHTS = ("model.safetensors", "pytorch_model.bin")

_PYTHIA = re.compile(
    r"EleutherAI/pythia-(70m|160m|410m|1b|1\.4b|2\.8b|6\.9b|12b)(-deduped)?(@(main|step(?P<step>0|[1-9][0-9]*)))?", re.ASCII
)
_PYTHIA_STEPS, _PYTHIA_TOKENS_OF_A_STEP = 143_000, 2_097_152


def hf_body(source: str) -> BodySpec:
    """The body in a checkpoint folder, or by its hub name in the local Hugging Face cache or on the hub."""
    name = f"hf:{source}"
    folder = _folder(name, source)
    config = _read_config(name, folder)
    family = find_family(config.get("model_type"), name, HUGGING_FACE)
    if family.equal_widths and len({config.get(key, default) for key, default in family.equal_widths.items()}) > 1:
        raise ConfigError([Fault("body.name", "must have an embedding as wide as its layers", name)])
    _check_weights(name, folder)
    return BodySpec(
        name,
        f"{family.model_type} in {folder}",
        family.modality,
        family.model_type,
        folder=folder,
        version=family.version,
        num_layers=family.num_layers(config),
        width=family.width(config),
        rows_before_third=family.rows_before_third(config),
        pretrain_tokens=pythia_tokens(source),
    )


def timm_body(source: str) -> BodySpec:
    """The timm model in a folder as timm's `save_for_hf` writes it, or by its name, `swin_base_patch4_window7_224.ms_in22k`."""
    name = f"timm:{source}"
    folder = _folder(name, source, owner="timm")
    architecture = _read_config(name, folder).get("architecture")
    family = timm_family(architecture, name)
    _check_weights(name, folder)
    return BodySpec(
        name,
        f"{architecture} in {folder}",
        family.modality,
        family.model_type,
        folder=folder,
        version=family.version,
        num_layers=_blocks_in(weight_files(folder)[0]),
        rows_before_third=0,
    )


def pythia_tokens(source: str) -> int | None:
    """How many tokens a checkpoint of Pythia has seen, by its hub name and revision; None for any other body.

    Each step of these models takes 2,097,152 tokens, and `main` is step 143000, at 299,892,736,000 tokens (github.com/EleutherAI/pythia;
    Biderman et al. 2023, arXiv 2304.01373). Models named `-v0`, which were replaced, have other batches, so they are left out.

    >>> pythia_tokens("EleutherAI/pythia-160m@step3000"), pythia_tokens("EleutherAI/pythia-70m-deduped"), pythia_tokens("gpt2")
    (6291456000, 299892736000, None)
    """
    found = _PYTHIA.fullmatch(source)
    return None if found is None else _PYTHIA_TOKENS_OF_A_STEP * int(found["step"] or _PYTHIA_STEPS)


def _folder(name: str, source: str, owner: str = "") -> Path:
    """The folder at a path, or the one that a hub name stands for.

    Args:
        name: Of the body, for errors.
        source: What follows its prefix.
        owner: Of a hub name without one; empty if it needs none.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    hub_name, at, revision = source.partition("@")
    if hub_name.count("/") > 1 or source.startswith((".", "/", "~")):
        raise ConfigError([Fault("body.name", "must be an existing checkpoint folder", name, "It holds config.json and the weights.")])
    if not hub_name or (at and not revision):
        raise ConfigError([Fault("body.name", "must be a hub name, or NAME@REVISION", name, "A revision is a branch, a tag or a commit.")])
    return _from_hub(f"{owner}/{hub_name}" if owner and "/" not in hub_name else hub_name, revision or None, name)


@memoize(maxsize=64)
def _from_hub(hub_name: str, revision: str | None, name: str) -> Path:
    """Snapshot folder of a hub name, from the local cache or fetched."""
    from huggingface_hub import snapshot_download  # imported here: it is slow, and only hub names need it

    wanted = ["config.json", "preprocessor_config.json", "*.safetensors*", "pytorch_model.bin*", *TEXT_FILES]
    for local_only in (True, False):
        try:
            found = snapshot_download(hub_name, revision=revision, local_files_only=local_only, allow_patterns=wanted, etag_timeout=5)
            return Path(found)
        except Exception as error:  # the hub client raises errors of many libraries; all mean that the name stands for no folder
            reason = type(error).__name__
    remedy = f"It is neither a folder nor in the local cache, and fetching it failed ({reason})."
    raise ConfigError([Fault("body.name", "must be a checkpoint folder or a hub name", name, remedy)])


def _read_config(name: str, folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "config.json").read_text()))
    except (OSError, ValueError, TypeError):
        raise ConfigError([Fault("body.name", "must have a readable config.json", name, f"Looked in {folder}.")]) from None


def _check_weights(name: str, folder: Path) -> None:
    if not weight_files(folder):
        raise ConfigError([Fault("body.name", "must have weights", name, f"Expected {' or '.join(_SHOWN_WEIGHTS)} in {folder}.")])


def _blocks_in(weights: Path) -> int | None:
    """Transformer blocks of a timm model, from the header of its safetensors file; None for a file of another form."""
    try:
        with weights.open("rb") as file:
            names = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), 10**8)))
        return len({found[0] for name in names if (found := re.match(r"(layers\.\d+\.)?blocks\.\d+\.", name))}) or None
    except (OSError, ValueError, TypeError):
        return None
