"""Proxies from one's own data, and from tasks.

text:PATH     texts: .csv, .jsonl, a folder with a folder of .txt files for each label, any file that begins with a line of column names
              separated by tabs (text and label); any other file has a word and its tag per line
images:PATH   a folder with a folder of pictures for each class; `?size=N` as for the task of that name
npz:PATH      features: x (n, d) or (n, tokens, d), y (n,) whole numbers; for bodies of width d
task:NAME     the training images of a 2D classification task, scaled to [0, 1]
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from orca_core.datafiles.decoding import decode_once, refuse_not_finite
from orca_core.datafiles.expected import ArrayForm, ExpectedFile, form_faults, read_headers, refuse
from orca_core.datafiles.npz import read_npz
from orca_core.datafiles.reading import reading, require_utf8
from orca_core.errors import ConfigError, DataError, Fault
from orca_core.proxies.spec import ProxyData, ProxySpec
from orca_core.proxies.texts import is_tsv, label_words, list_text_files, read_conll, read_csv, read_folder, read_jsonl, read_tsv
from orca_core.tasks import TaskSpec, find_task
from orca_core.tasks.own.images import PICTURES_VERSION, list_pictures, parse_size, write_pictures
from orca_core.workbench import Workbench

if TYPE_CHECKING:
    import numpy as np

FEATURES = (ArrayForm("y", "n", "iu", "labels, whole numbers"),)


def text_proxy(path: str) -> ProxySpec:
    """Texts in a file or folder.

    Raises:
        DataError: If there are none.
    """
    source = Workbench.current().locate(path)
    files = list_text_files(source) if source.is_dir() else (source,)
    if not files or not all(file.is_file() for file in files):
        example = "Expected a file of texts, or a folder with a folder of .txt files for each label."
        refuse([Fault("", "must be an existing file or folder with texts", Fault.ABSENT, example).text(str(source))])
    require_utf8(*(file.parent.name for file in files))
    layout = hashlib.sha256("\n".join(file.parent.name for file in files).encode()).hexdigest()[:16] if source.is_dir() else source.suffix
    if not source.is_dir() and is_tsv(source):
        layout += " with a header"
    return ProxySpec(
        name=f"text:{path}",
        summary=f"texts of {source.name}",
        modality="text",
        loader="orca_core.proxies.own:load_text",
        version=2,
        files=partial(tuple, files),
        source=str(source),
        own_path=path,
        identity=partial(str, f"text {layout}"),
    )


def load_text(spec: ProxySpec) -> ProxyData:
    """The texts, in the order of the file, or of the names of the files.

    Raises:
        DataError: If the file does not have the format of its suffix.
    """
    path = Path(spec.source)
    if path.is_dir():
        return read_folder(path)
    with reading(path, "a file of texts", ""):
        match path.suffix:
            case ".csv":
                return read_csv(path)
            case ".jsonl" | ".json":
                return read_jsonl(path)
            case _:
                return read_tsv(path) if is_tsv(path) else label_words(read_conll(path))


def images_proxy(argument: str) -> ProxySpec:
    """Pictures in a folder for each class; of a folder with parts, the training part.

    Raises:
        DataError: If there are not at least two classes.
        ConfigError: If the size is not valid.
    """
    path, size = parse_size("images:", argument, "proxy")
    folder = Workbench.current().locate(path)
    rows = _list_training_pictures(folder)
    layout = hashlib.sha256("\n".join(f"{name}/{path.name}" for name, path in rows).encode()).hexdigest()[:16]
    return ProxySpec(
        name=f"images:{argument}",
        summary=f"{len(rows)} pictures of {folder.name}, {size} x {size}",
        modality="images",
        loader="orca_core.proxies.own:load_images",
        version=PICTURES_VERSION,
        files=partial(tuple, tuple(path for _, path in rows)),
        source=f"{folder}?size={size}",
        own_path=path,
        identity=partial(str, f"images {size} {layout}"),
    )


def load_images(spec: ProxySpec) -> ProxyData:
    """The pictures, class after class.

    Raises:
        DataError: If one cannot be read.
    """
    path, size = parse_size("", spec.source)
    return decode_pictures(spec, _list_training_pictures(Path(path)), size)


def decode_pictures(spec: ProxySpec, rows: list[tuple[str, Path]], size: int) -> ProxyData:
    """Pictures by class, decoded once per node.

    Args:
        spec: The proxy.
        rows: Class and path of each picture.
        size: Side in pixels.
    """
    names = sorted({name for name, _ in rows})
    parts = {"all": [(path, names.index(name)) for name, path in rows]}
    arrays, _ = decode_once(spec, partial(write_pictures, parts=parts, size=size))
    return ProxyData(arrays["all_x"], arrays["all_y"], tuple(names))


def _list_training_pictures(folder: Path) -> list[tuple[str, Path]]:
    parts = list_pictures(folder)
    return parts.get("train") or parts[""]


def npz_proxy(path: str) -> ProxySpec:
    """Features in an .npz file.

    Raises:
        DataError: If the file is missing, or does not have x and y of these shapes.
    """
    file = Workbench.current().locate(path)
    width = _read_npz_width(file)
    return ProxySpec(
        name=f"npz:{path}",
        summary=f"features of width {width}",
        modality="any",
        loader="orca_core.proxies.own:load_npz",
        files=partial(tuple, (file,)),
        source=str(file),
        own_path=path,
        identity=partial(str, "npz"),
        width=partial(int, width),
    )


def load_npz(spec: ProxySpec) -> ProxyData:
    """The features, averaged over tokens.

    Raises:
        DataError: If values are not finite.
    """
    path = Path(spec.source)
    _read_npz_width(path)
    arrays = read_npz(path, remedy="Write it again.")
    return average_features(path, arrays["x"], arrays["y"])


def average_features(path: Path, x: np.ndarray, y: np.ndarray) -> ProxyData:
    """A proxy of (n, d) or (n, tokens, d) features, averaged over tokens, and (n,) labels, any whole numbers."""
    import numpy as np

    refuse_not_finite(path, "x", x)
    names, ids = np.unique(y, return_inverse=True)
    means = x.astype(np.float32) if x.ndim == 2 else x.mean(1, dtype=np.float32)
    return ProxyData(np.ascontiguousarray(means), ids.astype(np.int64), tuple(map(str, names.tolist())))


def _read_npz_width(path: Path) -> int:
    form = ExpectedFile(str(path.absolute()), "npz", FEATURES, "and x: (n, d) or (n, tokens, d) float")
    refuse(form.faults())
    headers = read_headers(path, "npz") or {}
    shape = headers["x"].shape if "x" in headers else ()
    axes = "n d" if len(shape) == 2 else "n tokens d"
    refuse(fault.text(str(path)) for fault in form_faults((ArrayForm("x", axes, "f", "float"), *FEATURES), headers))
    return shape[-1]


def task_proxy(name: str) -> ProxySpec:
    """The images of a task.

    Raises:
        ConfigError: If the task is unknown, or is not a classification of images.
        DataError: If the task is a file that is missing or not of the documented form.
    """
    task = find_task(name)
    if task.dims != 2 or task.kind != "classification":
        raise ConfigError(
            [Fault("proxy", "must be task:NAME of a 2D classification", f"task:{name}", f"{name} is {task.dims}D, {task.kind}.")]
        )
    return ProxySpec(
        name=f"task:{name}",
        summary=f"training images of {name}: {task.summary}",
        modality="images",
        loader="orca_core.proxies.own:load_task",
        files=task.files,
        licence=task.licence,
        source=name,
        own_path=task.own_path,
        expects=task.expects,
        identity=partial(_identify_task, task),
    )


def _identify_task(task: TaskSpec) -> str:
    return f"task {task.digest()}"


def load_task(spec: ProxySpec) -> ProxyData:
    """The training images under split seed 0, scaled linearly to [0, 1]; a single channel is repeated three times.

    Raises:
        DataError: If the task's files are not as expected, or it has neither one nor three channels.
    """
    import numpy as np
    import torch

    name = spec.source
    data = find_task(name).load(0)
    channels = data.input_shape[0]
    if data.num_classes is None or channels not in (1, 3):
        raise DataError(f"task:{name}: must have one or three channels to serve as images, but has {channels}.")
    x = data.train.x if data.prepare is None else data.inputs(torch.from_numpy(data.train.x)).numpy()
    low, high = float(x.min()), float(x.max())
    images = ((x - low) / (high - low or 1.0)).astype(np.float32)
    return ProxyData(np.repeat(images, 3 // channels, axis=1), data.train.y, tuple(map(str, range(data.num_classes))))
