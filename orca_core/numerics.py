"""What computes the bits of a row: processor, instruction set, libraries; and how to hold them equal between processors.

Libraries choose their code by the processor they find, and differently vectorised sums round differently. So "bit for bit" holds between
processes of one numerical kind. With `bits: portable` all of them are told, before they are loaded, to use what every x86-64-v3 processor
has. Torch is imported in functions: the command line reads `PORTABLE` without it.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from orca_core.errors import ConfigError, Fault, UnpinnedError
from orca_core.rows import Cells

if TYPE_CHECKING:
    from torch import Tensor


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _numpy_features() -> str:
    """The instruction sets that numpy is told to leave alone, in the names of the installed version: it knows no others."""
    release = tuple(int(part) for part in re.findall(r"\d+", _version("numpy") or "0")[:2])
    if release >= (2, 4):
        return "X86_V3,X86_V4,AVX512_ICL,AVX512_SPR"
    return "FMA3,AVX2,AVX512F,AVX512CD,AVX512_SKX,AVX512_CLX,AVX512_CNL,AVX512_ICL,AVX512_SPR"


PORTABLE: Mapping[str, str] = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",  # `AVX2` does nothing on processors that are not Intel's
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": _numpy_features(),
}
"""The environment that `bits: portable` needs. Libraries read it when they are loaded, so it must be there when the process starts."""


@dataclass(frozen=True, kw_only=True)
class NumericalKind(Cells):
    """What computes in a process. Two processes of one kind compute the same bits from the same config."""

    TABLE: ClassVar[str] = "trials"

    device_name: Annotated[str, "Model of the GPU, or of the processor, that computed the trial."]
    cpu_capability: Annotated[str, "Instruction set that torch uses on the worker's processor: AVX512, AVX2, DEFAULT, ..."]
    blas: Annotated[
        str, "Linear algebra on the worker's processor: MKL with the value of MKL_CBWR, OpenBLAS with the processor it takes this one for."
    ]
    cuda_version: Annotated[str | None, "Version of CUDA that torch was built with; null for trials on the CPU."] = None
    python_version: Annotated[str, "Version of Python, of the worker as all versions of libraries."] = field(compare=False)
    torch_version: Annotated[str | None, "Version of torch."] = None
    numpy_version: Annotated[str | None, "Version of numpy."] = None
    sklearn_version: Annotated[str | None, "Version of scikit-learn."] = None
    transformers_version: Annotated[str | None, "Version of transformers."] = None
    peft_version: Annotated[str | None, "Version of peft."] = None
    timm_version: Annotated[str | None, "Version of timm."] = None

    def computes_like(self, other: NumericalKind) -> bool:
        """Whether another kind computes the same bits as this one, the kind of this process.

        On a pinned CPU, models of one vendor count as one: see `docs/design.md` for what was tested.
        """
        if self.cuda_version is None and is_pinned() and vendor(self.device_name) == vendor(other.device_name):
            return self == replace(other, device_name=self.device_name)
        return self == other


def vendor(device_name: str) -> str:
    """`Intel` of `Intel(R) Xeon(R) Platinum`."""
    found = re.match(r"\w+", device_name)
    return found.group() if found else device_name


@lru_cache
def numerical_kind(device: str = "cpu") -> NumericalKind:
    """The kind of this process.

    Args:
        device: Device type, `cpu` or `cuda`.
    """
    import torch

    on_gpu = device == "cuda"
    return NumericalKind(
        device_name=torch.cuda.get_device_name() if on_gpu else _processor(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        blas=", ".join(_blas()),
        cuda_version=torch.version.cuda if on_gpu else None,
        python_version=platform.python_version(),
        torch_version=torch.__version__,
        numpy_version=_version("numpy"),
        sklearn_version=_version("scikit-learn"),
        transformers_version=_version("transformers"),
        peft_version=_version("peft"),
        timm_version=_version("timm"),
    )


def _processor() -> str:
    """Model of the processor as the system names it; of the kinds that it does not name, the architecture."""
    try:
        named = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        named = None
    return named.group(1).strip() if named else platform.processor() or platform.machine()


def _blas() -> list[str]:
    """The libraries of linear algebra that torch and numpy compute with."""
    import torch

    found = []
    if torch.backends.mkl.is_available():
        release = re.search(r"Math Kernel Library Version (\S+)", torch.__config__.show())
        found.append(f"MKL {release.group(1) if release else ''} {_environment_at_start().get('MKL_CBWR', '')}".strip())
    copies = {f"OpenBLAS {library['version']} {library['architecture']}" for library in _openblas()}
    return [*found, *sorted(copies)]  # they are loaded in no fixed order


def _openblas() -> list[dict[str, Any]]:
    """The copies of OpenBLAS in this process: numpy and scipy each bring one, loaded here so that both always count."""
    import scipy.linalg  # noqa: F401
    from threadpoolctl import threadpool_info

    return [library for library in threadpool_info() if library["internal_api"] == "openblas"]


@lru_cache(maxsize=1)
def _environment_at_start() -> dict[str, str]:
    """The environment this process was started with; variables that were set later are not in it. Empty where the system hides it."""
    try:
        entries = Path("/proc/self/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def is_pinned() -> bool:
    """Whether this process was started with the environment of `bits: portable`. Imports nothing."""
    started_with = _environment_at_start()
    return all(started_with.get(name) == value for name, value in PORTABLE.items())


def check_pinned(device: str = "cpu") -> None:
    """That this process computes portable bits.

    Args:
        device: Device type of the trial.

    Raises:
        UnpinnedError: If it was not started with the environment of portable bits.
        ConfigError: If device, processor or libraries cannot do it all the same.
    """
    if device != "cpu":
        raise ConfigError([Fault("bits", "must be native on a GPU: what pins a processor does not pin a GPU", "portable")])
    if not is_pinned():
        rule = "must be native in a process that was not started with the environment of portable bits"
        settings = " ".join(f"{name}={value}" for name, value in PORTABLE.items())
        remedy = f"`sweeper run` and `sweeper trial` start such processes (on Linux); your own needs {settings}"
        raise UnpinnedError([Fault("bits", rule, "portable", f"{remedy}.")])
    if wrong := _dispatched_otherwise():
        remedy = "It needs an x86-64-v3 processor (AVX2 and FMA), and libraries that heed the environment."
        raise ConfigError([Fault("bits", f"must be native here: {', '.join(wrong)}", "portable", remedy)])


@lru_cache(maxsize=1)
def _dispatched_otherwise() -> tuple[str, ...]:
    """The libraries that use another instruction set than the environment of portable bits asks for."""
    import torch
    from numpy._core._multiarray_umath import __cpu_features__ as features  # numpy has no public name for it

    found = []
    if (capability := torch.backends.cpu.get_cpu_capability()) != "AVX2":
        found.append(f"torch uses {capability}")
    if used := [name for name in _numpy_features().split(",") if features.get(name)]:
        found.append(f"numpy uses {' and '.join(used)}")
    found += [f"OpenBLAS takes the processor for {one['architecture']}" for one in _openblas() if one["architecture"] != "Haswell"]
    return tuple(found)


def square_root(x: Tensor) -> Tensor:
    """Square root without a gradient, element by element; in a pinned process rounded correctly.

    On the CPU, `torch.sqrt` is MKL's, which starts from an approximation that processors give to different bits; no variable changes that.
    """
    import numpy as np
    import torch

    return torch.from_numpy(np.sqrt(x.detach().numpy())) if is_pinned() and x.device.type == "cpu" else x.sqrt()


# ---------------------------------------------------------------------------------------------------------------- artifacts


def made_by(kind: NumericalKind, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the data of an artifact says about the kinds that computed it.

    Args:
        kind: Of this process.
        before: Data of the artifact that it was computed on from, if there was one.
    """
    makers: list[NumericalKind | None] = [] if before is None else _makers(before)
    return {"made_by": [None if maker is None else maker.cells() for maker in dict.fromkeys([*makers, kind])]}


def is_mixed(kind: NumericalKind, data: Mapping[str, Any]) -> bool | None:
    """Whether an artifact was computed, all or in part, by something that computes other bits than `kind`.

    Args:
        kind: Of this process.
        data: Of the artifact.

    Returns:
        None if that is not known: version 0.1 did not record it.
    """
    makers = _makers(data)
    if any(maker is not None and not kind.computes_like(maker) for maker in makers):
        return True
    return None if None in makers else False


def _makers(data: Mapping[str, Any]) -> list[NumericalKind | None]:
    return [None if cells is None else NumericalKind.from_cells(cells) for cells in data.get("made_by", [None])]
