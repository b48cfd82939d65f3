"""Whether the parts of a task share samples: scores on samples that trained say little about new ones.

Some published archives share a few (UCR's Crop has 48 test series that are training series, too), so this is told and is no fault.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from orca_core.tasks.spec import Split, TaskData

if TYPE_CHECKING:
    import numpy as np


def count_overlap(data: TaskData) -> dict[tuple[str, str], int]:
    """Pairs of parts -> how many samples of the second have the inputs of a sample of the first; pairs that share none are left out.

    Samples are told apart by their inputs, or by `Split.content` where the inputs do not show what they are made of. A part that two
    names stand for, as in reference mode, is compared with the others once.
    """
    digests = {"train": _digest_rows(data.train), "test": _digest_rows(data.test)}
    if data.valid.x is not data.test.x:
        digests["valid"] = _digest_rows(data.valid)
    found = {}
    for first, second in (("train", "valid"), ("train", "test"), ("valid", "test")):
        if first in digests and second in digests:
            known = set(digests[first])
            found[first, second] = sum(digest in known for digest in digests[second])
    return {pair: number for pair, number in found.items() if number}


def describe_overlap(data: TaskData) -> str:
    """What the parts share, as a sentence; empty if they share nothing."""
    sizes = {"train": len(data.train), "valid": len(data.valid), "test": len(data.test)}
    names = {"train": "training", "valid": "validation", "test": "test"}
    shared = [
        f"{number} of the {sizes[second]} {names[second]} samples {'is' if number == 1 else 'are'} also in {names[first]}"
        for (first, second), number in count_overlap(data).items()
    ]
    return f"{', and '.join(shared)}. Scores on them say little about new samples." if shared else ""


def _digest_rows(part: Split) -> list[bytes]:
    content = part.x if part.content is None else part.content
    return [_digest(row) for row in content]


def _digest(row: np.ndarray) -> bytes:
    return hashlib.blake2b(row.tobytes(), digest_size=16).digest()
