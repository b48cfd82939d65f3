"""Proxy data sets: data of the body's own modality, to which the embedder is aligned.

`PROXIES` is the table of all of them; an entry is a `ProxySpec`. A loader is `load(spec) -> ProxyData`, the whole proxy in a fixed
order; which samples a trial uses is drawn by the trial's seed (`align.proxy_samples`). `noise` has no loader: it is drawn in
the width of the body's embedding, so it fits every body. Third parties add proxies through the entry-point group
`orca_core.proxies`; each entry point is a `ProxySpec`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from orca_core.errors import ConfigError, Fault, nearest
from orca_core.plugins import broken_entry, third_party
from orca_core.proxies.builtin import BUILTIN_PROXIES
from orca_core.proxies.own import images_proxy, npz_proxy, task_proxy, text_proxy
from orca_core.proxies.published import PUBLISHED_PROXIES
from orca_core.proxies.spec import ProxyData, ProxySpec

__all__ = ["DEFAULT_PROXY", "PROXIES", "ProxyData", "ProxySpec", "find_proxy"]

PROXIES: dict[str, ProxySpec] = {spec.name: spec for spec in (*BUILTIN_PROXIES, *PUBLISHED_PROXIES)}

DEFAULT_PROXY = {"text": "pydoc", "images": "photos"}
"""What a body of that modality is aligned to when the task's recipe names no proxy that fits it."""


PROXY_FAMILIES: dict[str, Callable[[str], ProxySpec]] = {
    "text:": text_proxy,
    "images:": images_proxy,
    "npz:": npz_proxy,
    "task:": task_proxy,
}
"""Prefix of a name -> the function that makes a spec of what follows it."""

FAMILY_NAMES = ("text:PATH", "images:PATH", "npz:PATH", "task:NAME")
"""How names of the families are written. Behind any name may stand `+shuffled` and `+k:N`."""


def find_proxy(name: str) -> ProxySpec:
    """The proxy of that name.

    Raises:
        ConfigError: If there is none; the fault offers the nearest known name.
        DataError: If the name is a file or folder (`text:PATH`) that is missing or not of the documented form.
    """
    before, plus, control = name.rpartition("+")
    if plus and control == "shuffled":
        return replace(find_proxy(before), name=name, shuffled=True)
    if plus and control.startswith("k:"):
        number = control.removeprefix("k:")
        if not number.isdigit() or int(number) < 2:
            raise ConfigError([Fault("proxy", "must end in +k:N with N, the number of its samples, 2 at least", name)])
        return replace(find_proxy(before), name=name, most=int(number))
    for prefix, make in PROXY_FAMILIES.items():
        if name.startswith(prefix):
            return make(name.removeprefix(prefix))
    known = PROXIES | third_party("orca_core.proxies")
    if name not in known and (wrong := broken_entry("orca_core.proxies", name)):
        raise ConfigError([Fault("proxy", wrong, Fault.ABSENT)])
    if name not in known:
        raise ConfigError([Fault("proxy", "must be the name of a proxy data set", name, nearest(name, [*known, *FAMILY_NAMES]))])
    return known[name]
