"""The files of a checkpoint folder."""

from __future__ import annotations

from pathlib import Path

from orca_core.errors import DataError

VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model")
"""Files of which a checkpoint with a tokenizer has at least one."""

TEXT_FILES = (*VOCABULARY_FILES, "tokenizer_config.json", "merges.txt")
"""Files that define a tokenizer."""


def weight_files(folder: Path) -> list[Path]:
    """The files of the weights, in a fixed order: safetensors if there are any, else `.bin`."""
    return sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def checkpoint_files(folder: Path) -> list[Path]:
    """The files that define a checkpoint, in a fixed order: one form of the weights only.

    Raises:
        DataError: If the folder cannot be read.
    """
    try:
        names = ("config.json", "preprocessor_config.json", *TEXT_FILES)
        return [*weight_files(folder), *(folder / name for name in names if (folder / name).is_file())]
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from None
