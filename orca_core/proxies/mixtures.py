"""Mixtures of proxies: `photos*0.5+fractals*0.5`.

A mixture is written as proxies with their shares, joined by `+`. Shares are above 0 and add up to 1. Labels of different proxies are
different labels. Of each proxy as many samples are drawn by the trial's seed as its share says; the mixture is as large as the shares, the
sizes of its proxies and `align.proxy_samples` permit. A part may have suffixes of its own (`photos+k:200*0.5+fractals*0.5`); suffixes at
the end are of the whole (`photos*0.5+fractals*0.5+shuffled`), and `noise-matched:(photos*0.5+fractals*0.5)` has the moments of the whole.
The order in which parts are written is of no account.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orca_core.errors import ConfigError, DataError, Fault
from orca_core.proxies.spec import ProxyData, ProxySpec

if TYPE_CHECKING:
    import numpy as np

FORM = r"(.+?\*[\d.-][^*+/()]*(?:\+.+?\*[\d.-][^*+/()]*)*)"
"""A name whose parts all have a share."""

GRAMMAR = "A mixture is written photos*0.5+fractals*0.5: proxies with their shares, which add up to 1."

_PART = re.compile(r"(noise-matched:\(.*?\)[^*]*?|.+?)\*([^*+/]*)(?:\+|$)", re.DOTALL)

SUM_TOLERANCE = 1e-6
"""How far the sum of the shares may be from 1."""


def mixture(name: str, find: Callable[[str], ProxySpec]) -> ProxySpec:
    """The mixture of that name.

    Args:
        name: As written, of the form `FORM`.
        find: Finds the proxy of a part.

    Raises:
        ConfigError: With every share that is no number above 0, if they do not add up to 1, or if parts are the same, are of different
            modalities or widths, or choose their samples by the target.
        DataError: If a part is a file that is missing or not of the documented form.
    """
    written = [(found[1], found[2].strip()) for found in _PART.finditer(name)]
    rule = "must have a number above 0 as the share of each proxy"
    faults = [_fault(rule, f"{part}*{share}") for part, share in written if not _share(share)]
    if len(written) < 2:
        faults.append(_fault("must have two proxies or more in a mixture", name))
    total = math.fsum(_share(share) for _, share in written)
    if not faults and abs(total - 1) > SUM_TOLERANCE:
        scaled = "+".join(f"{part}*{_share(share) / total:.6g}" for part, share in written)
        faults.append(_fault("must have shares that add up to 1", f"{total:.6g}", f"In the same proportions: {scaled}."))
    if faults:
        raise ConfigError(faults)
    parts = sorted(((find(part), _share(share)) for part, share in written), key=lambda pair: pair[0].name)
    return _mixed(name, parts)


def _mixed(name: str, parts: Sequence[tuple[ProxySpec, float]]) -> ProxySpec:
    specs = [spec for spec, _ in parts]
    modalities = sorted({spec.modality for spec in specs} - {"any"})
    widths = sorted({spec.width() for spec in specs if spec.width is not None})
    faults = []
    if len(modalities) > 1:
        of_each = "; ".join(f"{spec.name} is of {spec.modality}" for spec in specs)
        faults.append(_fault("must mix proxies of one modality", name, f"{of_each}."))
    if len(widths) > 1:
        faults.append(_fault("must mix features of one width", name, f"They are {' and '.join(map(str, widths))} wide."))
    if len({spec.name for spec in specs}) < len(specs):
        faults.append(_fault("must name each proxy once in a mixture", name, "Add up the shares of the same proxy."))
    for spec in specs:
        if spec.chosen is not None:
            faults.append(_fault("must not choose by the target within a mixture", spec.name, "Put +near:N or +far:N behind the whole."))
        if not spec.loader:
            faults.append(_fault("must mix proxies of data", spec.name, "Gaussian features have moments of data: noise-matched:photos."))
    if faults:
        raise ConfigError(faults)
    modality: Literal["text", "images", "any"] = modalities[0] if modalities else "any"
    return ProxySpec(
        name="+".join(f"{spec.name}*{share:.12g}" for spec, share in parts),
        summary="; ".join(f"{100 * share:.3g} % {spec.summary}" for spec, share in parts),
        modality=modality,
        loader="orca_core.proxies.mixtures:load_mixture",
        files=partial(_all_files, tuple(specs)),
        licence="; ".join(dict.fromkeys(spec.licence for spec in specs if spec.licence)),
        source="; ".join(dict.fromkeys(spec.source for spec in specs if spec.source)),
        expects=tuple(file for spec in specs for file in spec.expects),
        identity=partial(_identify, tuple(parts)),
        width=partial(int, widths[0]) if widths else None,
        parts=tuple(parts),
    )


def _share(text: str) -> float:
    """A share as written; 0 if it is none."""
    try:
        share = float(text)
    except ValueError:
        return 0.0
    return share if 0 < share < math.inf else 0.0


def _fault(rule: str, value: str, remedy: str = GRAMMAR) -> Fault:
    return Fault("proxy", rule, value, remedy)


def _all_files(specs: tuple[ProxySpec, ...]) -> tuple[Path, ...]:
    return tuple(file for spec in specs for file in spec.files())


def _identify(parts: tuple[tuple[ProxySpec, float], ...]) -> str:
    return "mixture " + " ".join(f"{share:.12g} {spec.digest()}" for spec, share in parts)


def apportion(sizes: Sequence[int], shares: Sequence[float], most: int) -> list[int]:
    """How many samples of each part make the largest mixture.

    Args:
        sizes: How many samples each part has.
        shares: Their shares, which add up to 1.
        most: Largest number of samples of the whole.

    Returns:
        A count for each part, rounded by largest remainders. Empty if the mixture is so small that a part would have none.

    Example:
        >>> apportion([1440, 2400], [0.5, 0.5], 5000), apportion([1440, 2400], [0.25, 0.75], 10), apportion([9, 9], [0.9, 0.1], 4)
        ([1440, 1440], [3, 7], [])
    """
    total = min(most, *(math.floor(size / share + 1e-9) for size, share in zip(sizes, shares, strict=True)))
    exact = [total * share for share in shares]
    counts = [math.floor(value + 1e-9) for value in exact]
    by_remainder = sorted(range(len(counts)), key=lambda part: (counts[part] - exact[part], part))
    for part in by_remainder[: total - sum(counts)]:
        counts[part] += 1
    return counts if min(counts) > 0 else []


def load_mixture(spec: ProxySpec) -> ProxyData:
    """The parts one after the other, each cut to its share by a fixed seed, with labels of their own. Trials draw by theirs.

    Raises:
        DataError: If a part cannot be loaded, or would have no sample.
    """
    import numpy as np

    whole = [part.load() for part, _ in spec.parts]
    sizes = [min(len(data), part.max_samples or len(data)) for (part, _), data in zip(spec.parts, whole, strict=True)]
    counts = apportion(sizes, [share for _, share in spec.parts], sum(sizes))
    if not counts:
        raise DataError(f"{spec.name}: must have a sample of each of its proxies, but one has too few.")
    draws, parts, names = np.random.Generator(np.random.PCG64(0)), list[ProxyData](), list[str]()
    for (part, _), data, count in zip(spec.parts, whole, counts, strict=True):
        rows = np.sort(draws.permutation(len(data))[:count])
        inputs = [data.inputs[row] for row in rows.tolist()] if isinstance(data.inputs, list) else np.asarray(data.inputs)[rows]
        parts.append(ProxyData(inputs, data.labels[rows] + len(names), data.label_names))
        names += [f"{part.name}: {name}" for name in data.label_names]
    return ProxyData(_joined([part.inputs for part in parts]), np.concatenate([part.labels for part in parts]), tuple(names))


def _joined(inputs: list[list[str] | np.ndarray]) -> list[str] | np.ndarray:
    """All inputs; pictures of several sizes, which no array holds, as a list."""
    import numpy as np

    first = inputs[0]
    if not isinstance(first, list) and all(part.shape[1:] == first.shape[1:] for part in inputs if not isinstance(part, list)):
        return np.concatenate([part.astype(np.float32) / 255 if part.dtype == np.uint8 else part for part in map(np.asarray, inputs)])
    return [sample for part in inputs for sample in part]
