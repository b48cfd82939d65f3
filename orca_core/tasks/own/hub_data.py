"""`hfds:NAME`, a task made of a data set in the format of the package `datasets`: a folder, or a name of the Hugging Face hub.

    hfds:/path/to/folder?config=C&inputs=COLUMN,COLUMN&label=COLUMN&train=SPLIT&valid=SPLIT&test=SPLIT&size=N
    hfds:owner/name?...     from the local caches of `datasets` and of the hub, else fetched as Parquet

    config    one of several configs of the data set; by default the files that are in none, else `default`, else the only one
    inputs    the columns that are the inputs; by default the only one with pictures, else the only one with arrays, else all numbers
    label     the column to predict; by default `label`, `labels`, `target` or `class`, else the only column of declared classes
    train, valid, test    the splits; by default `train` (or the only one), `validation` (`valid`, `val`, `dev`), and `test`
    size      side of pictures in pixels (64)

Pictures go the way of `images:PATH`. Arrays are (n, length), (n, channels, length) or (n, channels, height, width), and go the way of
`npz:PATH`. Numbers are F channels of length 1, standardised by the training rows. Declared classes, whole numbers, texts and truth values
are classes; real numbers are a regression. Where there is no test split, 20 % of train is test; where there is no validation split, 10 %
validates, both by `split_seed`. Texts as inputs are refused: a task's inputs go to a new embedder, which reads numbers and pictures.
The content of the files is the identity of the data, and what is made of which columns.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote

from orca_core.datafiles.arrow_folders import Feature, find_splits, read_features, read_split, to_array, to_labels, to_pictures
from orca_core.datafiles.decoding import Decoding, decode_once, refuse_not_finite
from orca_core.datafiles.expected import refuse
from orca_core.datafiles.hub import find_data_folder, is_path
from orca_core.datafiles.pictures import is_deep, read_square
from orca_core.errors import ConfigError, DataError, Fault, nearest
from orca_core.tasks.builtin import laptop_recipe
from orca_core.tasks.own.images import MAX_REPORTED, SIZE, with_preparation
from orca_core.tasks.preparation import Answers, Preparation, Scale
from orca_core.tasks.raw_arrays import ArrayInputs, array_range
from orca_core.tasks.spec import Split, TaskData, TaskSpec
from orca_core.tasks.splitting import EPSILON, stratified_order
from orca_core.tasks.validation import hold_out_first

if TYPE_CHECKING:
    import pyarrow as pa

Role = Literal["picture", "array", "numbers", "text"]

OPTIONS = ("config", "inputs", "label", "train", "valid", "test", "size")
LABELS = ("label", "labels", "target", "class")
VALIDATION = ("validation", "valid", "val", "dev")
MIN_ROWS = 10


@dataclass(frozen=True)
class HubData:
    """What a name says, and what was found.

    Args:
        argument: The name after `hfds:`.
        folder: Where the files are.
        own_path: The folder as written; empty for a name of the hub.
        parts: `train`, and `valid` and `test` where there are such splits -> its files.
        splits: The same -> name of the split.
        inputs, label: The columns.
        role: What the inputs are.
        size: Side of pictures.
    """

    argument: str
    folder: Path
    own_path: str
    parts: Mapping[str, tuple[Path, ...]]
    splits: Mapping[str, str]
    inputs: tuple[Feature, ...]
    label: Feature
    role: Role
    size: int = SIZE
    notes: tuple[str, ...] = field(default=())

    @property
    def variant(self) -> str:
        """What is made of the files, as far as their content does not say."""
        parts = {part: len(files) for part, files in self.parts.items()}
        size = self.size if self.role == "picture" else 0
        return json.dumps([self.role, [one.name for one in self.inputs], self.label.name, parts, size])


def parse(argument: str, knob: str) -> tuple[str, dict[str, str]]:
    """The folder or name, and the options.

    Raises:
        ConfigError: With every option that is unknown, repeated or has a wrong value.
    """
    source, _, query = argument.partition("?")
    given, faults = dict[str, str](), []
    for text in query.split("&") if query else ():
        key, _, value = text.partition("=")
        if key not in OPTIONS:
            faults.append(Fault(knob, "must have options of a data set after the `?`", text, nearest(key, OPTIONS)))
        elif key in given or not value:
            faults.append(Fault(knob, f"must have one value of {key}", text, "As in hfds:folder?inputs=image&label=label."))
        given.setdefault(key, unquote(value) if key != "inputs" else value)
    size = given.get("size", str(SIZE))
    if not (size.isascii() and size.isdigit() and 8 <= int(size) <= 1024):
        faults.append(Fault(knob, "must have a size from 8 to 1024", size))
    if not source:
        faults.append(Fault(knob, "must name a folder or a data set", f"hfds:{argument}", "As in hfds:folder or hfds:owner/name."))
    if faults:
        raise ConfigError(faults)
    return source, given


def look_up(argument: str, knob: str) -> HubData:
    """What a name stands for, by the names of its files and the schema of the first.

    Raises:
        ConfigError: If options are wrong, or a name is neither a folder nor a data set that can be had.
        DataError: If config, splits or columns are not there, or cannot be what they are named for; all faults at once.
    """
    source, given = parse(argument, knob)
    folder = find_data_folder(source, knob)
    configs = find_splits(folder)
    usual = next((name for name in ("", "default") if name in configs), next(iter(configs)))
    config = given.get("config", usual)
    if config not in configs:
        _refuse(folder, [Fault("config", "must be a config of the data set", config, nearest(config, list(configs)))])
    if "config" not in given and len(configs) > 1 and config not in ("", "default"):
        _refuse(folder, [Fault("config", "must be given, as there are several", ", ".join(configs), f"As in ?config={config}.")])
    splits, faults = _find_parts(configs[config], given)
    _refuse(folder, faults)
    parts = {part: configs[config][split] for part, split in splits.items()}
    features = {one.name: one for one in read_features(parts["train"][0])}
    label, faults = _find_label(features, given.get("label", ""))
    inputs, more = _find_inputs(features, given.get("inputs", ""), label)
    _refuse(folder, faults + more)
    assert label is not None
    role: Role = {"picture": "picture", "array": "array", "text": "text"}.get(inputs[0].form, "numbers")  # type: ignore[assignment]
    unused = [name for name, one in features.items() if one not in inputs and one != label]
    notes = (f"columns that are not used: {', '.join(unused)}",) if unused else ()
    own_path = source if is_path(source) else ""
    return HubData(argument, folder, own_path, parts, splits, inputs, label, role, int(given.get("size", SIZE)), notes)


def _find_parts(splits: Mapping[str, Any], given: Mapping[str, str]) -> tuple[dict[str, str], list[Fault]]:
    """Part -> split, and what is wrong with the splits that were named."""
    known = list(splits)
    named = {part: given[part] for part in ("train", "valid", "test") if part in given}
    rule = "must be a split of the data set"
    faults = [Fault(part, rule, name, nearest(name, known)) for part, name in named.items() if name not in splits]
    train = given.get("train", next((name for name in ("train", "training") if name in splits), known[0] if len(known) == 1 else ""))
    if not train:
        faults.append(Fault("train", "must be given, as no split is called train", known, f"As in ?train={known[0]}."))
    found = {"train": train}
    for part, usual in (("valid", VALIDATION), ("test", ("test", "testing", "eval"))):
        taken = set(given.values()) | set(found.values())
        name = given.get(part) or next((name for name in usual if name in splits and name not in taken), None)
        if name is not None:
            found[part] = name
    if not faults and len(set(found.values())) < len(found):
        faults.append(Fault("train", "must be another split than those that validate and test", list(found.values())))
    return found, faults


def _find_label(features: Mapping[str, Feature], name: str) -> tuple[Feature | None, list[Fault]]:
    names = list(features)
    if name:
        if name not in features:
            return None, [Fault("label", "must be a column", name, nearest(name, names))]
        if features[name].form in ("picture", "array", "other"):
            remedy = "Dense targets are read from npz:PATH."
            return None, [Fault("label", "must hold classes or numbers", f"{name} of {features[name].type}", remedy)]
        return features[name], []
    usual = [features[wanted] for wanted in LABELS if wanted in features and features[wanted].form in ("class", "number", "text")]
    declared = [one for one in features.values() if one.form == "class" and one.names]
    if found := usual[:1] or (declared if len(declared) == 1 else []):
        return found[0], []
    return None, [Fault("label", "must be given, as no column is called label", names, f"As in ?label={names[-1]}.")]


def _find_inputs(features: Mapping[str, Feature], written: str, label: Feature | None) -> tuple[tuple[Feature, ...], list[Fault]]:
    names = list(features)
    if written:
        wanted = tuple(dict.fromkeys(unquote(name.strip()) for name in written.split(",")))
        faults = [Fault("inputs", "must be columns", name, nearest(name, names)) for name in wanted if name not in features]
        found = tuple(features[name] for name in wanted if name in features)
        faults += [Fault("inputs", "must not be the label", one.name) for one in found if one == label]
        faults += [
            Fault("inputs", "must hold pictures, arrays, numbers or, for a proxy, texts", f"{one.name} of {one.type}")
            for one in found
            if one.form == "other"
        ]
        forms = {"number" if one.form == "class" else one.form for one in found}
        if not faults and (len(forms) > 1 or (len(found) > 1 and forms != {"number"})):
            faults.append(Fault("inputs", "must be one column, or several of numbers", [one.name for one in found]))
        return found, faults
    rest = [one for one in features.values() if one != label]
    for form in ("picture", "array"):
        of_form = [one for one in rest if one.form == form]
        if len(of_form) == 1:
            return (of_form[0],), []
        if of_form:
            several = [one.name for one in of_form]
            return (), [Fault("inputs", "must be given, as there are several", several, f"As in ?inputs={several[0]}.")]
    texts, numbers = ([one for one in rest if one.form == form] for form in ("text", "number"))
    if len(texts) == 1:  # numbers beside a text are mostly row numbers
        return (texts[0],), []
    if numbers:
        return tuple(numbers), []
    return (), [Fault("inputs", "must be given, as no column has pictures, arrays or numbers", names, f"As in ?inputs={names[0]}.")]


def hfds_task(argument: str) -> TaskSpec:
    """The task in the data set that `argument` names.

    Raises:
        ConfigError, DataError: As `look_up`; also if the inputs are texts.
    """
    data = look_up(argument, "task")
    if data.role == "text":
        remedy = f"Give numbers (embeddings of the texts) by ?inputs=, or take it as a proxy: hfds:{argument}."
        rule = "must not be texts: a task's inputs are pictures, arrays or numbers"
        _refuse(data.folder, [Fault("inputs", rule, data.inputs[0].name, remedy)])
    is_class = data.label.form in ("class", "text") or "int" in data.label.type
    dims: Literal[1, 2] = 2 if data.role == "picture" or data.inputs[0].axes == 3 else 1
    if data.role == "array" and data.inputs[0].axes > 3:
        rule = "must be arrays (length,), (channels, length) or (channels, height, width)"
        _refuse(data.folder, [Fault(data.inputs[0].name, rule, f"{data.inputs[0].axes} axes")])
    shown = ", ".join(one.name for one in data.inputs[:3]) + (", ..." if len(data.inputs) > 3 else "")
    return TaskSpec(
        name=f"hfds:{argument}",
        summary=f"{'classes' if is_class else 'numbers'} of column {data.label.name!r} by {shown}",
        dims=dims,
        kind="classification" if is_class else "regression",
        loss="cross-entropy" if is_class else "mse",
        score="1-accuracy" if is_class else "1-r2",
        loader="orca_core.tasks.own.hub_data:load_hfds",
        recipes={"laptop": laptop_recipe(dims, epochs=6 if dims == 2 else 8, batch_size=16 if dims == 2 else 32)},
        files=partial(tuple, tuple(file for files in data.parts.values() for file in files)),
        source=str(data.folder),
        own_path=data.own_path,
        variant=data.variant,
        notes=(f"splits: {', '.join(f'{part} {split}' for part, split in data.splits.items())}", *data.notes),
        fixed_validation=f"The data set has a split {data.splits['valid']}" if "valid" in data.parts else "",
    )


def load_hfds(spec: TaskSpec, split_seed: int) -> TaskData:
    """x as the module says; y (n,) class ids, or (n, 1) numbers at mean 0 and deviation 1.

    Raises:
        DataError: If files are damaged, entries are missing, there are too few rows, or a part has a class that train does not have.
    """
    import numpy as np

    data = look_up(spec.name.removeprefix("hfds:"), "task")
    arrays, facts = decode_once(spec, partial(decode, data=data, is_class=spec.kind == "classification"))
    names = facts["labels"]
    x, y = arrays["train_x"], arrays["train_y"]
    strata = y if names else np.zeros(len(y), dtype=np.int64)
    order = stratified_order(strata, split_seed)
    num_test, num_valid = (0 if part in data.parts else max(1, round(share * len(y))) for part, share in (("test", 0.2), ("valid", 0.1)))
    if len(y) - num_test - num_valid < max(len(names), 1) or len(y) < MIN_ROWS:
        rule = "must have rows for what is split off it, and one of each class"
        _refuse(data.folder, [Fault(data.splits["train"], rule, f"{len(y)} rows, {len(names)} classes")])
    test_rows, (train_rows, valid_rows) = order[:num_test], hold_out_first(order[num_test:], strata, num_valid)
    rows = {"train": np.sort(train_rows), "valid": np.sort(valid_rows), "test": np.sort(test_rows)}
    xs = {part: arrays[f"{part}_x"] if part in data.parts and part != "train" else x[rows[part]] for part in rows}
    ys = {part: arrays[f"{part}_y"] if part in data.parts and part != "train" else y[rows[part]] for part in rows}
    answers = Answers("classification", tuple(names))
    if not names:
        mean, deviation = float(ys["train"].mean()), float(ys["train"].std())
        if not deviation > 0:
            _refuse(data.folder, [Fault(data.label.name, "must have numbers that are not all equal", mean)])
        ys = {part: ((of_part - mean) / deviation).astype(np.float32)[:, None] for part, of_part in ys.items()}
        scale = Scale(np.array([[mean]]), np.array([[deviation]]))
        answers = Answers("regression", (data.label.name,), scale, scored_scaled=True)
    preparation: Preparation | None = None
    if data.role == "numbers":
        mean_x, deviation_x = xs["train"].mean(0), xs["train"].std(0) + EPSILON
        raw_range = array_range(xs["train"])
        xs = {part: ((of_part - mean_x) / deviation_x).astype(np.float32) for part, of_part in xs.items()}
        steps = (Scale(mean_x[None], deviation_x[None]),)
        preparation = Preparation(ArrayInputs(tuple(xs["train"].shape[1:]), steps, *raw_range, dtype="float64"), answers)
    elif data.role == "array":
        preparation = Preparation(ArrayInputs(tuple(xs["train"].shape[1:]), (), *array_range(xs["train"])), answers)
    train, valid, test = (Split(np.ascontiguousarray(xs[part]), np.ascontiguousarray(ys[part])) for part in ("train", "valid", "test"))
    found = TaskData(train, valid, test, len(names) or None, preparation=preparation)
    return with_preparation(found, data.size, None, answers) if data.role == "picture" else found


def decode(out: Decoding, data: HubData, is_class: bool) -> None:
    """Write inputs and answers of each part; the names of classes are a fact.

    Raises:
        DataError: With the faults of the first part that has some.
    """
    import numpy as np

    names: list[str] = []
    for part, files in data.parts.items():
        where = f"{data.folder} ({data.splits[part]})"
        columns = read_split(files, [*(one.name for one in data.inputs), data.label.name])
        if is_class:
            labels = to_labels(where, data.label, columns[data.label.name])
            if part == "train":
                names = _class_names(where, data.label, labels)
            if absent := sorted(set(labels) - set(names)):
                refuse([Fault(data.label.name, "must have only classes of train", absent[:5]).text(where)])
            out.save(f"{part}_y", np.array([names.index(label) for label in labels]), "int64")
        else:
            numbers = to_array(where, data.label.name, columns[data.label.name])
            refuse_not_finite(Path(where), data.label.name, numbers)
            out.save(f"{part}_y", numbers, "float64")
        write_inputs(out, f"{part}_x", data, columns, where)
    out.facts["labels"] = names


def _class_names(where: str, label: Feature, labels: list[str]) -> list[str]:
    held = set(labels)
    if len(held) < 2:
        refuse([Fault(label.name, "must have at least two classes", sorted(held)).text(where)])
    if label.names:
        return [name for name in label.names if name in held]
    try:
        return sorted(held, key=float)
    except ValueError:
        return sorted(held)


def write_inputs(out: Decoding, name: str, data: HubData, columns: Mapping[str, pa.Array], where: str) -> None:
    """Write the inputs of a part: pictures as bytes, arrays with a channel axis, numbers as channels of length 1.

    Raises:
        DataError: With the first `MAX_REPORTED` pictures that cannot be read; or if numbers are missing or not finite.
    """
    import numpy as np

    if data.role == "picture":
        column = data.inputs[0].name
        x = out.empty(name, (len(columns[column]), 3, data.size, data.size), "uint8")
        wrong: list[str] = []
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "picture"
            for row, content in enumerate(to_pictures(where, column, columns[column])):
                file.write_bytes(content)
                try:
                    if is_deep(file):
                        raise DataError(f"{file}: must have 8 bits a colour.")
                    x[row] = read_square(file, data.size)
                except DataError as error:
                    wrong.append(str(error).replace(str(file), f"{where}: {column}: row {row + 1}"))
                    refuse(wrong if len(wrong) == MAX_REPORTED else ())
        refuse(wrong)
        return
    arrays = [to_array(where, one.name, columns[one.name]) for one in data.inputs]
    values = arrays[0] if data.role == "array" else np.stack(arrays, axis=1)
    refuse_not_finite(Path(where), data.inputs[0].name, values)
    if data.role == "numbers":
        values = values[:, :, None]
    elif values.ndim == 2:
        values = values[:, None]
    out.save(name, values, "float64" if data.role == "numbers" else "float32")


def _refuse(folder: Path, faults: list[Fault]) -> None:
    refuse(fault.text(str(folder)) for fault in faults)


def spell_options(argument: str) -> str:
    """A name with its options in one order."""
    found = re.fullmatch(r"(.*?)\?(.*)", argument, flags=re.DOTALL)
    if found is None:
        return argument
    order = {key: number for number, key in enumerate(OPTIONS)}
    written = sorted(found[2].split("&"), key=lambda text: order.get(text.partition("=")[0], len(OPTIONS)))
    return f"{found[1]}?{'&'.join(written)}"
