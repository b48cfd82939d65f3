"""Proxy data sets: data of the body's own modality that the embedder is aligned to.

`PROXIES` holds every built-in proxy; `PROXY_CATALOGUE` also those whose name carries an argument, `text:PATH`, and those of other packages,
through the entry-point group `orca_core.proxies`. An entry is a `ProxySpec`. A loader is `load(spec) -> ProxyData`, the whole proxy in a
fixed order; which samples a trial uses is drawn by the trial's seed (`align.proxy_samples`). `noise` has no loader: it is drawn in the
width of the body's embedding, so it fits every body. `noise-matched` stands for `noise-matched:NAME`, where NAME is the proxy that a trial
would have otherwise; a resolved config has the full name. `A*0.5+B*0.5` is a mixture (`mixtures.py`), `NAME+near:N` and `NAME+far:N` are
the samples nearest to the target, or farthest from it (`orca_core/alignment/choice.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Literal

from orca_core.catalogue import Catalogue, NameForm
from orca_core.errors import ConfigError, DataError, Fault
from orca_core.plugins import check_reference
from orca_core.proxies.builtin import BUILTIN_PROXIES
from orca_core.proxies.hub_data import hfds_proxy
from orca_core.proxies.mixtures import FORM, GRAMMAR, mixture
from orca_core.proxies.own import images_proxy, npz_proxy, task_proxy, text_proxy
from orca_core.proxies.published import PUBLISHED_PROXIES
from orca_core.proxies.spec import Choice, ProxyData, ProxySpec
from orca_core.tasks.own.suggesting import suggest_form

__all__ = ["DEFAULT_PROXY", "PROXIES", "PROXY_CATALOGUE", "Choice", "ProxyData", "ProxySpec", "complete_name", "find_proxy", "stands_for"]

PROXIES: dict[str, ProxySpec] = {spec.name: spec for spec in (*BUILTIN_PROXIES, *PUBLISHED_PROXIES)}

MATCHED = "noise-matched"

DEFAULT_PROXY = {"text": "pydoc", "images": "photos"}
"""The proxy of a body of that modality if the task's recipe names none that fits."""


def _shuffle(name: str) -> ProxySpec:
    proxy = find_proxy(name)
    return replace(proxy, name=f"{proxy.name}+shuffled", shuffled=True)


def _match(name: str) -> ProxySpec:
    is_grouped = name.startswith("(") and name.endswith(")")
    proxy = find_proxy(name[1:-1] if is_grouped else name)
    if is_grouped and (not proxy.parts or "*" not in proxy.name.rpartition("+")[2]):
        remedy = f"Write {MATCHED}:NAME, and suffixes behind the parentheses of a mixture."
        raise ConfigError([Fault("proxy", "must have a mixture in the parentheses", f"{MATCHED}:{name}", remedy)])
    name = f"({proxy.name})" if is_grouped else name
    if not proxy.loader:
        raise ConfigError([Fault("proxy", "must name a proxy of data after noise-matched:", name, "As in noise-matched:photos.")])
    summary = f"Gaussian features with the mean and covariance of those of {name}, and its labels: the control"
    return replace(proxy, name=f"{MATCHED}:{name}", summary=summary, matched=True)


def complete_name(name: str, otherwise: str) -> str:
    """A proxy's name in full: `noise-matched` with the proxy that the trial would have otherwise; others as they are.

    >>> complete_name("noise-matched+k:50", "photos"), complete_name("noise", "photos")
    ('noise-matched:photos+k:50', 'noise')
    """
    base, plus, suffixes = name.partition("+")
    if base == MATCHED:
        return f"{MATCHED}:{otherwise}{plus}{suffixes}"
    if "*" not in name:
        return name
    try:
        return find_proxy(name).name  # the one spelling of a mixture
    except (ConfigError, DataError):  # reported where the proxy is looked up
        return name


def stands_for(written: object, name: object) -> bool:
    """Whether a proxy's name as written is that of a resolved config, which has the full one.

    >>> stands_for("noise-matched", "noise-matched:photos"), stands_for("noise-matched", "noise-matched:photos+k:50")
    (True, False)
    """
    if isinstance(written, str) and "*" in written:
        return complete_name(written, "") == name
    if not isinstance(written, str) or not isinstance(name, str) or written.partition("+")[0] != MATCHED:
        return written == name
    base, _, suffixes = name.partition("+")
    return base.startswith(f"{MATCHED}:") and suffixes == written.partition("+")[2]


def _cut(name: str, number: str) -> ProxySpec:
    whole = f"{name}+k:{number}"
    if not (number.isascii() and number.isdigit()) or int(number) < 2:
        raise ConfigError([Fault("proxy", "must end in +k:N, with at least N = 2 samples", whole)])
    proxy = find_proxy(name)
    if proxy.chosen is not None:
        remedy = "N samples are drawn, and then some of them chosen: write +k:N before +near:N or +far:N."
        raise ConfigError([Fault("proxy", "must draw before it chooses", whole, remedy)])
    return replace(proxy, name=f"{proxy.name}+k:{number}", max_samples=int(number))


def _choose(which: Literal["near", "far"], name: str, number: str) -> ProxySpec:
    whole = f"{name}+{which}:{number}"
    if not (number.isascii() and number.isdigit()) or int(number) < 2:
        raise ConfigError([Fault("proxy", f"must end in +{which}:N, with at least N = 2 samples", whole, f"As in photos+{which}:200.")])
    proxy = find_proxy(name)
    if proxy.chosen is not None:
        raise ConfigError([Fault("proxy", "must choose once, +near:N or +far:N", whole)])
    if proxy.shuffled:
        remedy = f"Labels of the chosen samples are permuted: {name.removesuffix('+shuffled')}+{which}:{number}+shuffled."
        raise ConfigError([Fault("proxy", f"must have +{which}:N before +shuffled", whole, remedy)])
    if proxy.max_samples is not None and int(number) >= proxy.max_samples:
        raise ConfigError([Fault("proxy", f"must choose fewer than the {proxy.max_samples} samples of +k:{proxy.max_samples}", whole)])
    return replace(proxy, name=f"{proxy.name}+{which}:{int(number)}", chosen=Choice(which, int(number)))


def _mix(name: str) -> ProxySpec:
    return mixture(name, find_proxy)


def _suggest(name: str) -> str:
    return GRAMMAR if "*" in name else suggest_form(name, forms=("text", "images", "npz"))


_FORMS = (
    NameForm(
        "text:PATH",
        r"text:(.*)",
        text_proxy,
        "your own texts: CSV, JSON lines, columns of CoNLL, a folder for each label",
        {"modality": "text"},
    ),
    NameForm("images:PATH", r"images:(.*)", images_proxy, "your own pictures, a folder for each class", {"modality": "images"}),
    NameForm("npz:PATH", r"npz:(.*)", npz_proxy, "your own features, for bodies of their width: keys x and y", {"modality": "any"}),
    NameForm(
        "hfds:NAME", r"hfds:(.*)", hfds_proxy, "a data set of Hugging Face `datasets`: pictures, texts or features", {"modality": "any"}
    ),
    NameForm("task:NAME", r"task:(.*)", task_proxy, "training images of a 2D classification task", {"modality": "images"}),
    NameForm("noise-matched:NAME", r"noise-matched:(.*)", _match, "Gaussian features with the moments of those of NAME: a control"),
    NameForm("NAME+shuffled", r"(.*)\+shuffled", _shuffle, "any of these, with its labels permuted by the seed: a control"),
    NameForm("NAME+k:N", r"(.*)\+k:([^+]*)", _cut, "N samples of any of these"),
    NameForm("NAME+near:N", r"(.*)\+near:([^+]*)", partial(_choose, "near"), "the N samples of any of these nearest to the target"),
    NameForm("NAME+far:N", r"(.*)\+far:([^+]*)", partial(_choose, "far"), "the N samples farthest from the target: the control"),
    NameForm("NAME*SHARE+NAME*SHARE", FORM, _mix, "a mixture of some of these, by shares that add up to 1"),
)


def _check(spec: ProxySpec, known: Mapping[str, ProxySpec]) -> None:
    if spec.loader:
        check_reference("loader", spec.loader)
    if spec.modality not in ("text", "images", "any"):
        raise TypeError(f"modality must be text, images or any, not {spec.modality!r}")


PROXY_CATALOGUE: Catalogue[ProxySpec] = Catalogue(
    kind="proxy data set",
    knob="proxy",
    group="orca_core.proxies",
    spec_class=ProxySpec,
    builtin=PROXIES.values(),
    forms=_FORMS,
    check=_check,
    suggest=_suggest,
)


def find_proxy(name: str) -> ProxySpec:
    """The proxy of that name.

    Raises:
        ConfigError: If there is none; the fault offers the nearest known name.
        DataError: If the name is a file or folder (`text:PATH`) that is missing or not of the documented form.
    """
    return PROXY_CATALOGUE.find(name)
