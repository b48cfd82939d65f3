"""Proxy data sets: data of the body's own modality, to which the embedder is aligned.

`PROXIES` is the table of all of them; an entry is a `ProxySpec`. A loader is `load(spec) -> ProxyData`, the whole proxy in a fixed
order; which samples a trial uses is drawn by the trial's seed (`align.proxy_samples`). `noise` has no loader: it is drawn in
the width of the body's embedding, so it fits every body. Third parties add proxies through the entry-point group
`orca_core.proxies`; each entry point is a `ProxySpec`.
"""

from __future__ import annotations

from orca_core.errors import ConfigError, Fault, nearest
from orca_core.plugins import third_party
from orca_core.proxies.builtin import BUILTIN_PROXIES
from orca_core.proxies.spec import ProxyData, ProxySpec

__all__ = ["DEFAULT_PROXY", "PROXIES", "ProxyData", "ProxySpec", "find_proxy"]

PROXIES: dict[str, ProxySpec] = {spec.name: spec for spec in BUILTIN_PROXIES}

DEFAULT_PROXY = {"text": "pydoc", "images": "photos"}
"""What a body of that modality is aligned to when the task's recipe names no proxy that fits it."""


def find_proxy(name: str) -> ProxySpec:
    """The proxy of that name.

    Raises:
        ConfigError: If there is none; the fault offers the nearest known name.
    """
    known = PROXIES | third_party("orca_core.proxies")
    if name not in known:
        raise ConfigError([Fault("proxy", "must be the name of a proxy data set", name, nearest(name, known))])
    return known[name]
