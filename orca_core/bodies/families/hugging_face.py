"""Models of Hugging Face, from a checkpoint folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from orca_core.bodies.family import Family


def hugging_face_model(folder: Path, family: Family, *, dropout: float, pretrained: bool) -> tuple[nn.Module, list[str]]:
    """The model in a folder, with its weights or with ones drawn from torch's global generator; no code of the folder is run.

    Of a checkpoint of several towers it is the one that the family names.

    Returns:
        The model, and the names of weights that the checkpoint lacks; poolers are not used, so theirs do not count.
    """
    from transformers import AutoModel

    return _made(AutoModel, folder, _configuration(folder, family, dropout), pretrained)


def t5_encoder(folder: Path, family: Family, *, dropout: float, pretrained: bool) -> tuple[nn.Module, list[str]]:
    """The encoder of a T5 in a folder, which may hold its decoder, too; otherwise as `hugging_face_model`."""
    from transformers import T5EncoderModel

    return _made(T5EncoderModel, folder, _configuration(folder, family, dropout), pretrained)


def _made(kind: Any, folder: Path, config: Any, pretrained: bool) -> tuple[nn.Module, list[str]]:
    """A model of a class of transformers, and the names of weights that the checkpoint lacks."""
    if not pretrained:
        made = kind._from_config if hasattr(kind, "_from_config") else kind.from_config
        return made(config, dtype=torch.float32), []
    model, report = kind.from_pretrained(folder, config=config, local_files_only=True, output_loading_info=True, dtype=torch.float32)
    return model, sorted(name for name in report["missing_keys"] if "pooler" not in name)


def _configuration(folder: Path, family: Family, dropout: float) -> Any:
    from transformers import AutoConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)  # it reports unused heads, which is what we want them to be
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if family.within:
        config = getattr(config, family.within)
    for name in family.dropouts:
        setattr(config, name, dropout)
    if hasattr(config, "drop_path_rate"):
        config.drop_path_rate = 0.0
    return config
