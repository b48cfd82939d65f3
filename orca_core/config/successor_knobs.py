"""Knobs of methods that came after ORCA, beside those of alignment: parts of a `TrialConfig`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from orca_core.config.faults import broken_rule
from orca_core.config.part import Epochs, Part, Positive


class MixConfig(Part):
    """Patch replacement of PaRe, in fine-tuning: a second pass of each batch in which tokens of the proxy replace some of the target's."""

    share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0,
        description="Share of the tokens of a mixed sequence that are the proxy's, in the first epoch (PaRe, arXiv 2406.09003). 0 = no "
        "mixing. It asks whether a way of intermediate modalities, from the proxy's to the target's, makes fine-tuning better.",
    )
    end_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Share to which it falls, linearly, at most `share`; the mixed pass ends where no token is left to replace."
    )
    epochs: Positive = Field(10.0, description="Epochs of fine-tuning over which the share falls; afterwards it stays at `end_share`.")
    weight: Positive = Field(1.0, description="Weight of the loss of the mixed pass; PaRe's code has 1 for images and 0.1 for series.")
    gate: Literal["learned", "random"] = Field(
        "learned",
        description="Which tokens are kept and which of the proxy's are taken: the best by a gate that trains along, or any, as a control "
        "of the gate.",
    )
    gate_epochs: Epochs = Field(
        10,
        description="Epochs in which they are drawn by the gate's scores, and the gate learns; afterwards the best are taken. PaRe's code "
        "has 10 for images and 5 for series.",
    )

    @model_validator(mode="after")
    def _check_shares(self) -> MixConfig:
        if self.end_share > self.share:
            raise broken_rule("end_share", f"must be at most mix.share ({self.share:g})", self.end_share)
        return self
