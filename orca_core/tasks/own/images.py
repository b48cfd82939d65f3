"""`images:PATH`, a task made of one's own pictures, and `domainnet/DOMAIN`.

`images:PATH` is a folder with a folder for each class. If it has folders `train` and `test` (and `valid` or `val`), each with a folder
for each class, these are the parts; else 20 % test and 10 % validation are split off by `split_seed`. `images:PATH?size=96` sets the side
in pixels (default 64): the shorter side is resized to it, and the middle is cut out.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from orca_core.datafiles.decoding import Decoding, decode_once
from orca_core.datafiles.expected import ExpectedFile, refuse
from orca_core.datafiles.file_lists import find_below, find_named_files
from orca_core.datafiles.pictures import BYTES, SUFFIXES, is_deep, open_picture, read_square
from orca_core.datafiles.reading import read_text, require_utf8
from orca_core.errors import ConfigError, DataError, Fault
from orca_core.tasks.builtin import laptop_recipe
from orca_core.tasks.preparation import Answers, Preparation
from orca_core.tasks.recipes import published_recipe
from orca_core.tasks.spec import Split, TaskData, TaskSpec
from orca_core.tasks.splitting import deal, hold_out, take_rows
from orca_core.workbench import Workbench, memoize

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

SIZE = 64
"""Default side of a picture, in pixels."""

PICTURES_VERSION = 2
"""Of what reads picture files: 2 keeps the range of more than 8 bits, composites transparent pictures and turns them upright."""

MAX_REPORTED = 10
"""Largest number of broken pictures to report."""

MAX_IGNORED = 5
"""Largest number of files that are no pictures to name."""

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of ImageNet's colours."""


class Normalised:
    """Bytes (n, 3, side, side) -> inputs, by the statistics of ImageNet's colours. Pictures stay bytes until they are used."""

    def __init__(self, side: int, mean: Sequence[float] = MEAN, deviation: Sequence[float] = DEVIATION) -> None:
        self.shape: tuple[int, ...] = (3, side, side)
        self.mean, self.deviation = tuple(mean), tuple(deviation)

    def __call__(self, rows: Tensor) -> Tensor:
        constants = (self.mean, self.deviation)
        mean, deviation = (rows.new_tensor(values, dtype=rows.float().dtype).view(1, 3, 1, 1) for values in constants)
        return (rows.float() / 255 - mean) / deviation


def images_task(argument: str) -> TaskSpec:
    """The task in the folder that `argument` names.

    Raises:
        DataError: If it is not a folder with a folder of pictures for each of at least two classes.
        ConfigError: If the size is not a whole number from 8 to 1024.
    """
    path, size = parse_size("images:", argument)
    folder = Workbench.current().locate(path)
    parts = list_pictures(folder)
    names = sorted({name for part in parts.values() for name, _ in part})
    layout = hashlib.sha256("\n".join(f"{part}/{name}/{at.name}" for part, rows in parts.items() for name, at in rows).encode()).hexdigest()
    paths = tuple(at for part in parts.values() for _, at in part)
    return TaskSpec(
        name=f"images:{argument}",
        summary=f"{len(paths)} pictures of {len(names)} classes, {size} x {size} pixels",
        dims=2,
        kind="classification",
        loss="cross-entropy",
        score="1-accuracy",
        loader="orca_core.tasks.own.images:load_images",
        version=PICTURES_VERSION,
        recipes={"laptop": laptop_recipe(2, epochs=6, batch_size=16)},
        files=partial(tuple, paths),
        source=str(folder),
        own_path=path,
        variant=f"{size} {layout}",  # the class of a picture is in its path, not in its content
        notes=_ignored_note(paths),
        fixed_validation="Its pictures for validation are in a folder of their own" if "valid" in parts else "",
    )


def load_images(spec: TaskSpec, split_seed: int) -> TaskData:
    """x (n, 3, size, size) bytes that become inputs when they are used.

    Raises:
        DataError: If a picture cannot be read, or a part has too few rows or a class that train does not have.
    """
    import numpy as np

    path, size = parse_size("images:", spec.name.removeprefix("images:"))
    folder = Workbench.current().locate(path)
    parts = list_pictures(folder)
    whole = parts.get("train") or parts[""]
    names = sorted({name for name, _ in whole})
    for part in parts.values():
        if absent := sorted({name for name, _ in part} - set(names)):
            refuse([Fault("", "must have only classes of train", absent).text(str(folder))])
    rows = {part: [(at, names.index(name)) for name, at in held] for part, held in parts.items()}
    arrays, facts = decode_once(spec, partial(write_pictures, parts=rows, size=size))
    first = "train" if "train" in parts else "all"
    x, y = arrays[f"{first}_x"], arrays[f"{first}_y"]
    if first == "train":
        test = Split(arrays["test_x"], arrays["test_y"])
        if "valid" in parts:
            train, valid = Split(x, y), Split(arrays["valid_x"], arrays["valid_y"])
        else:
            kept, held = hold_out(y, 0.1, split_seed)
            train, valid = take_rows(x, y, kept), take_rows(x, y, held)
    else:
        num_test, num_valid = max(1, round(0.2 * len(y))), max(1, round(0.1 * len(y)))
        if len(y) - num_test - num_valid < len(names):
            refuse([Fault("", "must have pictures for test, validation and one of each class in train", len(y)).text(str(folder))])
        train, valid, test = deal(np.asarray(x), y, split_seed, num_valid=num_valid, num_test=num_test)
    return _with_preparation(TaskData(train, valid, test, len(names)), size, facts["scale"], names)


def _with_preparation(data: TaskData, size: int, scale: Sequence[float] | None, names: Sequence[str | int]) -> TaskData:
    """The data of pictures of some classes."""
    return with_preparation(data, size, scale, Answers("classification", tuple(names)))


def with_preparation(data: TaskData, size: int, scale: Sequence[float] | None, answers: Answers) -> TaskData:
    """The data of pictures, which become inputs as `PictureInputs` says."""
    from orca_core.tasks.own.raw_pictures import PictureInputs

    inputs = PictureInputs(size, MEAN, DEVIATION, None if scale is None else (scale[0], scale[1]))
    return replace(data, prepare=inputs.prepare, preparation=Preparation(inputs, answers))


def write_pictures(out: Decoding, parts: dict[str, list[tuple[Path, int]]], size: int) -> None:
    """Decode the pictures of some parts, each with the id of its class.

    Grey pictures of more than 8 bits become bytes by one scale: the least value of all pictures of the first part becomes 0, the
    largest 255. A data set has such pictures alone, or none.

    Args:
        out: Where they are written.
        parts: Part -> pictures and class ids; the training part comes first.
        size: Side in pixels.

    Raises:
        DataError: With the pictures that cannot be read, at most `MAX_REPORTED` of them; or if all training pictures are equal.
    """
    import numpy as np

    out.require_room(sum(len(rows) for rows in parts.values()) * 3 * size * size)
    scale, wrong = _find_scale(parts), []
    out.facts["scale"] = scale
    for part, rows in parts.items():
        x = out.empty(f"{part or 'all'}_x", (len(rows), 3, size, size), "uint8")
        for number, (path, _) in enumerate(rows):
            try:
                x[number] = read_square(path, size, scale or BYTES)
            except DataError as error:
                wrong.append(str(error))
                refuse(wrong if len(wrong) == MAX_REPORTED else ())
        out.save(f"{part or 'all'}_y", np.array([label for _, label in rows]), "int64")
        if not wrong and part in ("", "all", "train") and len(rows) > 1 and all(np.array_equal(row, x[0]) for row in x):
            rule = f"must be pictures that differ, but all {len(rows)} are the same once they are {size} x {size}"
            refuse([Fault(part, rule, Fault.ABSENT).text(os.path.commonpath([path for path, _ in rows]))])
    refuse(wrong)


def _find_scale(parts: dict[str, list[tuple[Path, int]]]) -> tuple[float, float] | None:
    """The range of the first part's pictures if they are grey with more than 8 bits, else None; unreadable pictures are left out.

    Raises:
        DataError: If only some of the pictures have more than 8 bits.
    """
    import numpy as np

    paths = [path for rows in parts.values() for path, _ in rows]
    deep = {path: found for path in paths if (found := _try(is_deep, path)) is not None}
    if not any(deep.values()):
        return None
    if shallow := [path for path, found in deep.items() if not found]:
        rule = f"must have more than 8 bits like {next(path for path, found in deep.items() if found)}"
        refuse([Fault("", rule, Fault.ABSENT, "Pictures of both kinds have no common scale: convert one.").text(str(shallow[0]))])
    pictures = (_try(open_picture, path) for path, _ in next(iter(parts.values())))
    extrema = [picture.getextrema() for picture in pictures if picture is not None]
    return (float(np.min(extrema)), float(np.max(extrema))) if extrema else (0.0, 255.0)


def _try(read: Callable[[Path], T], path: Path) -> T | None:
    try:
        return read(path)
    except DataError:  # reported when the picture is decoded
        return None


def parse_size(prefix: str, argument: str, knob: str = "task") -> tuple[str, int]:
    """The path before `?size=N`, and N.

    Raises:
        ConfigError: If N is not a whole number from 8 to 1024; the fault names the knob.
    """
    path, mark, option = argument.partition("?")
    if not mark:
        return path, SIZE
    key, _, value = option.partition("=")
    if key != "size" or not (value.isascii() and value.isdigit()) or not 8 <= int(value) <= 1024:
        raise ConfigError([Fault(knob, "must end in ?size=N, with N from 8 to 1024", f"{prefix}{argument}")])
    return path, int(value)


def list_pictures(folder: Path) -> dict[str, list[tuple[str, Path]]]:
    """Part -> (class, picture) in the order of names; the part is `train`, `valid` or `test`, or empty for a folder without parts.

    Raises:
        DataError: If there are no pictures in folders of two classes.
    """
    example = "Expected a folder for each class with its pictures, or train, test and optionally valid with such folders."
    if not folder.is_dir():
        refuse([Fault("", "must be an existing folder", Fault.ABSENT, example).text(str(folder))])
    has_parts = (folder / "train").is_dir() and (folder / "test").is_dir()
    valid = "valid" if (folder / "valid").is_dir() else "val"
    roots = {"train": folder / "train", "valid": folder / valid, "test": folder / "test"} if has_parts else {"": folder}
    parts = {part: _list_classes(root) for part, root in roots.items() if root.is_dir()}
    for part, rows in parts.items():
        number = len({name for name, _ in rows})
        if not rows or (part in ("", "train") and number < 2):
            refuse([Fault(part, "must have folders of pictures of at least two classes", number, example).text(str(folder))])
    return parts


def _list_classes(root: Path) -> list[tuple[str, Path]]:
    folders = tuple(sorted(entry.path for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")))
    return [row for path in folders for row in _list_folder(path, os.stat(path).st_mtime_ns)]


@memoize(maxsize=4096)
def _list_folder(folder: str, mtime_ns: int) -> tuple[tuple[str, Path], ...]:
    """The pictures of a class; listed again when the folder has changed."""
    names = sorted(entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(SUFFIXES))
    require_utf8(folder, *names)
    return tuple((os.path.basename(folder), Path(folder, name)) for name in names)


def _ignored_note(pictures: Iterable[Path]) -> tuple[str, ...]:
    """Which files beside the pictures are left out, in a sentence; none if there are none."""
    folders = sorted({os.path.dirname(at) for at in pictures})
    if not (names := [name for folder in folders for name in _list_ignored(folder, os.stat(folder).st_mtime_ns)]):
        return ()
    files = f"{len(names)} file is" if len(names) == 1 else f"{len(names)} files are"
    shown = ", ".join(names[:MAX_IGNORED]) + (", ..." if len(names) > MAX_IGNORED else "")
    return (f"{files} left out, without the name of a picture ({' '.join(SUFFIXES)}): {shown}",)


@memoize(maxsize=4096)
def _list_ignored(folder: str, mtime_ns: int) -> tuple[str, ...]:
    entries = [entry.name for entry in os.scandir(folder) if not entry.name.startswith(".") and not entry.is_dir()]
    return tuple(sorted(f"{os.path.basename(folder)}/{name}" for name in entries if not name.lower().endswith(SUFFIXES)))


# ------------------------------------------------------------------------------------------------------------------- DomainNet


def domainnet_task(argument: str) -> TaskSpec:
    """`domainnet/DOMAIN`, where DOMAIN is clipart, infograph, painting, quickdraw, real or sketch; `?size=N` as for `images:PATH`.

    Raises:
        ConfigError: If it is not a possible name of a domain, or the size is not valid.
    """
    domain, size = parse_size("domainnet/", argument)
    if not domain.isalpha():
        raise ConfigError([Fault("task", "must be domainnet/DOMAIN", f"domainnet/{argument}", "As in domainnet/sketch.")])
    files = tuple(
        ExpectedFile(
            f"domainnet/{domain}_{part}.txt",
            "list",
            (),
            "a picture a line: its path below domainnet/ and the number of its class",
            "",
            "ai.bu.edu/M3SDA",
            (f"domainnet/{domain}_{part}_mini.txt",),
        )
        for part in ("train", "test")
    )
    return TaskSpec(
        name=f"domainnet/{argument}",
        summary=f"pictures of DomainNet's {domain}, {size} x {size} pixels",
        dims=2,
        kind="classification",
        loss="cross-entropy",
        score="1-accuracy",
        loader="orca_core.tasks.own.images:load_domainnet",
        version=PICTURES_VERSION,
        recipes={
            "laptop": laptop_recipe(2, epochs=5, batch_size=64),
            "published": published_recipe(
                2, epochs=60, batch_size=32, accum=32, optimizer="adamw", lr=1e-4, weight_decay=5e-3, momentum=0.9, warmup=5, decay=100
            ),
        },
        files=partial(_find_domainnet_files, files),
        licence="as its page says",
        source="DomainNet (Peng et al. 2019)",
        expects=files,
        variant=f"{size}",
    )


def load_domainnet(spec: TaskSpec, split_seed: int) -> TaskData:
    """x (n, 3, size, size) bytes that become inputs when they are used; a tenth of train is validation, stratified, by the seed."""
    _, size = parse_size("domainnet/", spec.name.removeprefix("domainnet/"))
    parts = {part: read_list(file.find()) for part, file in zip(("train", "test"), spec.expects, strict=True)}
    numbers = sorted({number for _, number in parts["train"]})
    if absent := sorted({number for _, number in parts["test"]} - set(numbers)):
        refuse([Fault("", "must have only classes of the training list", absent).text(str(spec.expects[1].find()))])
    rows = {part: [(path, numbers.index(number)) for path, number in held] for part, held in parts.items()}
    arrays, facts = decode_once(spec, partial(write_pictures, parts=rows, size=size))
    x, y = arrays["train_x"], arrays["train_y"]
    kept, held = hold_out(y, 0.1, split_seed)
    test = Split(arrays["test_x"], arrays["test_y"])
    data = TaskData(take_rows(x, y, kept), take_rows(x, y, held), test, len(numbers))
    return _with_preparation(data, size, facts["scale"], numbers)


def _find_domainnet_files(files: tuple[ExpectedFile, ...]) -> tuple[Path, ...]:
    lists = tuple(file.find() for file in files)
    return (*lists, *find_named_files(lists, _read_paths))


def _read_paths(file: Path) -> list[Path]:
    return [path for path, _ in read_list(file)]


def read_list(file: Path) -> list[tuple[Path, int]]:
    """The pictures of a list and their class numbers.

    Raises:
        DataError: If a line is not a path below the folder and a number.
    """
    rows = []
    root = Workbench.current().data_root / "domainnet"
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        if not name or not (label.isascii() and label.isdigit()):
            refuse([Fault(f"line {number}", "must be a path below domainnet/ and a class number", line).text(str(file))])
        rows.append((find_below(root, name, file, f"line {number}"), int(label)))
    if len({label for _, label in rows}) < 2 and "_train" in file.name:
        refuse([Fault("", "must name pictures of at least two classes", len(rows)).text(str(file))])
    return rows
