"""Bodies that come as a checkpoint folder: of Hugging Face (`hf:`) and of timm (`timm:`), by folder or by hub name."""

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


def hf_body(source: str) -> BodySpec:
    """The body in a checkpoint folder, or by its hub name in the local Hugging Face cache or on the hub."""
    name = f"hf:{source}"
    folder = _folder(name, source, source)
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
    )


def timm_body(source: str) -> BodySpec:
    """The timm model in a folder as timm's `save_for_hf` writes it, or by its name, `swin_base_patch4_window7_224.ms_in22k`."""
    name = f"timm:{source}"
    folder = _folder(name, source, source if "/" in source else f"timm/{source}")
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


def _folder(name: str, source: str, hub_name: str) -> Path:
    """The folder at a path, or the one that a hub name stands for."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if source.count("/") > 1 or source.startswith((".", "/", "~")):
        raise ConfigError([Fault("body.name", "must be an existing checkpoint folder", name, "It holds config.json and the weights.")])
    return _from_hub(hub_name, name)


@memoize(maxsize=64)
def _from_hub(hub_name: str, name: str) -> Path:
    """Snapshot folder of a hub name, from the local cache or fetched."""
    from huggingface_hub import snapshot_download  # imported here: it is slow, and only hub names need it

    wanted = ["config.json", "preprocessor_config.json", "*.safetensors*", "pytorch_model.bin*", *TEXT_FILES]
    for local_only in (True, False):
        try:
            return Path(snapshot_download(hub_name, local_files_only=local_only, allow_patterns=wanted, etag_timeout=5))
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
