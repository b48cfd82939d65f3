"""Where a store keeps an artifact: `<kind>/<key>/<at>`.

align/<stage key>/e00010      the state after epoch 10 of a trajectory
source/<stage key>/whole      the result of a stage that has no epochs
align/<stage key>/interim     the state of a run under way; dropped when the stage is complete
model/<result key>/best       fine-tuned weights: of the best epoch, or of the last
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

WHOLE, INTERIM = "whole", "interim"

_AT = re.compile(r"e(\d{5,})|whole|interim|best|last")


class Address(NamedTuple):
    """The address of one artifact.

    Args:
        kind: Of a stage, or `model`.
        key: Hash of what the artifact depends on.
        at: Which artifact of that key; the constructors below spell it.
    """

    kind: str
    key: str
    at: str

    @classmethod
    def after(cls, kind: str, key: str, epoch: int) -> Address:
        """The state of a trajectory after `epoch` epochs."""
        return cls(kind, key, f"e{epoch:05d}")

    @classmethod
    def model(cls, result_key: str, which: Literal["best", "last"]) -> Address:
        """The fine-tuned weights of a trial."""
        return cls("model", result_key, which)

    @classmethod
    def parse(cls, text: str) -> Address | None:
        """The address that a text spells; None if it spells none."""
        parts = text.split("/")
        return cls(*parts) if len(parts) == 3 and all(parts) and _AT.fullmatch(parts[2]) else None

    @property
    def folder(self) -> str:
        """What all artifacts of the key share: `<kind>/<key>`."""
        return f"{self.kind}/{self.key}"

    @property
    def epoch(self) -> int | None:
        """The epoch of a trajectory's state; None for any other artifact."""
        found = _AT.fullmatch(self.at)
        return int(found[1]) if found and found[1] else None

    def __str__(self) -> str:
        return f"{self.folder}/{self.at}"
