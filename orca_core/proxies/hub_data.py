"""`hfds:NAME` as a proxy: pictures, texts or features of the training split of a data set; the name is as for a task."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from orca_core.datafiles.arrow_folders import read_split, to_array, to_labels
from orca_core.datafiles.decoding import Decoding, decode_once, refuse_not_finite
from orca_core.datafiles.expected import refuse
from orca_core.errors import Fault
from orca_core.proxies.spec import ProxyData, ProxySpec
from orca_core.proxies.texts import number_labels
from orca_core.tasks.own.hub_data import HubData, decode, look_up


def hfds_proxy(argument: str) -> ProxySpec:
    """The training split as a proxy: of pictures, of texts, or of arrays (d,) as features for bodies of that width.

    Raises:
        ConfigError, DataError: As `look_up`; also if the label holds real numbers, or the inputs have no modality.
    """
    data = _training(look_up(argument, "proxy"))
    faults = []
    if data.label.form == "number" and "int" not in data.label.type:
        faults.append(Fault("label", "must hold classes", f"{data.label.name} of {data.label.type}", "Labels of a proxy are classes."))
    if data.role == "numbers" or (data.role == "array" and data.inputs[0].axes > 2):
        remedy = "Features are arrays (d,) or (tokens, d), as wide as the body's tokens."
        faults.append(Fault("inputs", "must be pictures, texts or features", [one.name for one in data.inputs], remedy))
    refuse(fault.text(str(data.folder)) for fault in faults)
    modality = {"picture": "images", "text": "text"}.get(data.role, "any")
    return ProxySpec(
        name=f"hfds:{argument}",
        summary=f"{data.inputs[0].name} of {data.folder.name}, labelled by {data.label.name}",
        modality=modality,  # type: ignore[arg-type]
        loader="orca_core.proxies.hub_data:load_hfds",
        files=partial(tuple, data.parts["train"]),
        source=argument,
        own_path=data.own_path,
        identity=partial(str, f"hfds {data.variant}"),
        width=partial(_width, data) if modality == "any" else None,
    )


def _training(data: HubData) -> HubData:
    """The data without the splits that validate and test."""
    return replace(data, parts={"train": data.parts["train"]}, splits={"train": data.splits["train"]})


def _width(data: HubData) -> int:
    name = data.inputs[0].name
    columns = read_split(data.parts["train"][:1], [name])
    return int(to_array(str(data.folder), name, columns[name][:1]).shape[-1])


def load_hfds(spec: ProxySpec) -> ProxyData:
    """The samples in the order of the files.

    Raises:
        DataError: If a file is damaged, or labels or entries are missing.
    """
    data = _training(look_up(spec.source, "proxy"))
    where, name = f"{data.folder} ({data.splits['train']})", data.inputs[0].name
    if data.role == "picture":
        arrays, facts = decode_once(spec, partial(_decode, data=data))
        return ProxyData(arrays["train_x"], arrays["train_y"], tuple(facts["labels"]))
    columns = read_split(data.parts["train"], [name, data.label.name])
    labels = to_labels(where, data.label, columns[data.label.name])
    if data.role == "text":
        texts = columns[name].to_pylist()
        if missing := sum(text is None for text in texts):
            refuse([Fault(name, "must have no missing entries", missing).text(where)])
        return number_labels(texts, labels)
    x = to_array(where, name, columns[name])
    refuse_not_finite(Path(where), name, x)
    means = x if x.ndim == 2 else x.mean(1)
    numbered = number_labels([], labels)
    return ProxyData(means.astype("float32"), numbered.labels, numbered.label_names)


def _decode(out: Decoding, data: HubData) -> None:
    decode(out, data, is_class=True)
