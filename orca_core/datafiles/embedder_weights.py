"""Files of an embedder's initial weights, to start where another implementation starts (`embedder.weights`).

The file is in the safetensors format and holds every tensor of the embedder, by the names of its parameters:

    projection.weight, projection.bias    of the convolution: (d, channels, s), (d, channels, patch, patch), and (d,)
    norm.weight, norm.bias                (d,), unless the embedder has no LayerNorm (ViT)
    positions                             (l, d), unless the body adds positions itself (GPT-2) or has none (Swin)

A header is read without torch, so that a wrong file is refused when a sweep is planned; shapes are compared before it starts.
"""

from __future__ import annotations

from collections.abc import Mapping

from orca_core.datafiles.digests import digest_content
from orca_core.datafiles.expected import refuse
from orca_core.errors import DataError, Fault
from orca_core.workbench import Workbench

NAMES = ("projection.weight", "projection.bias", "norm.weight", "norm.bias", "positions")
"""Every tensor that an embedder can have."""

_FLOATS = ("F16", "BF16", "F32", "F64")

_REMEDY = "Write it with safetensors.torch.save_file, with the tensors that docs/bodies.md lists."


def weights_digest(path: str) -> str:
    """SHA-256 of what the file holds.

    Raises:
        DataError: If it cannot be read.
    """
    return digest_content("embedder weights", (Workbench.current().locate(path),))


def check_weights_file(path: str) -> Mapping[str, tuple[int, ...]]:
    """The names and shapes of the tensors in a file, from its header.

    Raises:
        DataError: If it is missing, is not a safetensors file, or holds something other than the tensors of an embedder.
    """
    from safetensors import SafetensorError, safe_open

    file = Workbench.current().locate(path)
    if not file.is_file():
        refuse([Fault("", "must be an existing file", Fault.ABSENT, f"A relative path starts in the working folder. {_REMEDY}").text(path)])
    try:
        with safe_open(file, framework="numpy") as tensors:
            held = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 - it is no mapping
            shapes = {name: tuple(part.get_shape()) for name, part in held.items()}
            kinds = {name: part.get_dtype() for name, part in held.items()}
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: must be a safetensors file, but cannot be read ({error}). {_REMEDY}") from None
    faults = [Fault(name, f"must be one of {', '.join(NAMES)}", Fault.ABSENT) for name in shapes if name not in NAMES]
    faults += [Fault(name, "must hold floating-point numbers", kind) for name, kind in kinds.items() if kind not in _FLOATS]
    refuse(fault.text(path) for fault in faults)
    return shapes
