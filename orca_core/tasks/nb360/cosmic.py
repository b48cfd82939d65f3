"""Cosmic rays in images of the Hubble telescope (deepCR, Zhang & Bloom 2020): which pixels were hit."""

from __future__ import annotations

from pathlib import Path

from orca_core.datafiles.decoding import Decoding, decode_once, refuse_not_finite
from orca_core.datafiles.expected import ExpectedFile, refuse
from orca_core.datafiles.file_lists import find_below, find_named_files
from orca_core.datafiles.unpickling import read_object_npy
from orca_core.errors import Fault
from orca_core.seeding import derive
from orca_core.tasks.spec import Split, TaskData, TaskSpec
from orca_core.tasks.splitting import hold_out
from orca_core.workbench import Workbench

FIRST, SIDE = 64, 128
"""The part of an image that is used: [64:192, 64:192]."""

SKY = (-0.9, 3.0)
"""Range of the factor by which the sky's brightness is added to an image."""

_LIST = "object array of texts ./cosmic/npy_<split>/f435w/<program>/<visit>/<k>_<rest>.npy"
_IMAGES = "each such file: (2 or 3, h, w) image, mask of hits, mask of pixels to ignore; h, w >= 192; beside them sky.npy (n,), entry k - 1"
FILES = tuple(
    ExpectedFile(f"cosmic/{part}_dirs.npy", "npy of objects", (), f"{_LIST}; {_IMAGES}", size, "NAS-Bench-360")
    for part, size in (("train", "with its images 6.5 GB"), ("test", "with its images 2.0 GB"))
)


def find_files() -> tuple[Path, ...]:
    """The lists, the images that they name, and the sky files beside these.

    Raises:
        DataError: If images are missing.
    """
    lists = tuple(file.find() for file in FILES)
    images = find_named_files(lists, _list_images)
    skies = (folder / "sky.npy" for folder in sorted({image.parent for image in images}))
    return (*lists, *images, *filter(Path.is_file, skies))


def describe_skies() -> str:
    """The folders of images without a sky.npy, if others have one: a sky file that moves from one to the other is another data set.

    Empty where all have one, as published, or none has.
    """
    folders = sorted({image.parent for image in find_named_files((file.find() for file in FILES), _list_images)})
    without = [folder for folder in folders if not (folder / "sky.npy").is_file()]
    if len(without) in (0, len(folders)):
        return ""
    root = Workbench.current().data_root
    return "no sky in " + " ".join(folder.relative_to(root).as_posix() for folder in without)


def _list_images(file: Path) -> list[Path]:
    names = [str(name) for name in read_object_npy(file).ravel()]
    if not names or any(not name.startswith("./") for name in names):
        refuse([Fault("", "must hold paths that begin with ./", names[:3]).text(str(file))])
    return [find_below(Workbench.current().data_root, name[2:], file, f"entry {number}") for number, name in enumerate(names)]


def load_cosmic(spec: TaskSpec, split_seed: int, reference: bool) -> TaskData:
    """x (n, 1, 128, 128) images under more or less sky; y (n, 1, 128, 128), 1 where a ray hit, NaN where pixels are ignored.

    A tenth of train is validation. The sky is drawn once for each image by the seed. Differs from the reference, which draws it
    again whenever it reads an image, test images too, and takes the area under the ROC curve of outputs thresholded to 0 and 1.
    """
    import numpy as np

    arrays, _ = decode_once(spec, _decode)
    draws = np.random.Generator(np.random.PCG64(derive(split_seed, "data-draws")))

    def whole(part: str) -> Split:
        sky = arrays[f"{part}_sky"] * draws.uniform(*SKY, len(arrays[f"{part}_sky"])).astype(np.float32)
        image = arrays[f"{part}_image"]
        return Split(image + sky[:, None, None, None], arrays[f"{part}_y"], content=image)

    every, test = whole("train"), whole("test")
    if reference:
        return TaskData(every, test, test, None)
    train, valid = hold_out(every.y, 0.1, split_seed)
    image = arrays["train_image"]
    first, second = (Split(every.x[rows], every.y[rows], content=image[rows]) for rows in (train, valid))
    return TaskData(first, second, test, None)


def _decode(out: Decoding) -> None:
    import numpy as np

    kept = slice(FIRST, FIRST + SIDE)
    for part, file in zip(("train", "test"), FILES, strict=True):
        paths = _list_images(file.find())
        image, y = (out.empty(f"{part}_{name}", (len(paths), 1, SIDE, SIDE)) for name in ("image", "y"))
        sky = out.empty(f"{part}_sky", (len(paths),))
        for number, path in enumerate(paths):
            planes = read_object_npy(path)
            if planes.ndim != 3 or planes.shape[0] not in (2, 3) or min(planes.shape[1:]) < FIRST + SIDE or planes.dtype.kind not in "fiub":
                rule = f"must be numbers of shape (2 or 3, h, w) with h and w at least {FIRST + SIDE}"
                refuse([Fault("", rule, (str(planes.dtype), planes.shape)).text(str(path))])
            planes = planes[:, kept, kept]
            refuse_not_finite(path, "", planes)
            if not np.isin(planes[1], (0, 1)).all():
                refuse([Fault("", "must have a mask of 0 and 1 in its second plane", Fault.ABSENT).text(str(path))])
            image[number, 0] = planes[0]
            y[number, 0] = np.where(planes[2] != 0, np.nan, planes[1]) if len(planes) == 3 else planes[1]
            sky[number] = _read_sky(path)


def _read_sky(image: Path) -> float:
    """Brightness of the sky in an image, from the file beside it; 0 if there is none."""
    path = image.parent / "sky.npy"
    if not path.is_file():
        return 0.0
    values, name = read_object_npy(path), image.name.partition("_")[0]
    if values.ndim != 1 or not name.isdigit() or not 0 < int(name) <= len(values):
        refuse([Fault("", f"must be of shape (n,) with an entry for {image.name}, number {name}", values.shape).text(str(path))])
    refuse_not_finite(path, "", values)
    return float(values[int(name) - 1])
