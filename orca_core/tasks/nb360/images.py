"""CIFAR-100 and its images drawn on a sphere: pickles of a training and a test set."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from orca_core.datafiles.arrays import select_arrays
from orca_core.datafiles.decoding import Decoding, decode_once, iterate_blocks, refuse_not_finite, to_class_ids
from orca_core.datafiles.expected import ArrayForm, ExpectedFile, refuse
from orca_core.datafiles.unpickling import read_pickle
from orca_core.errors import Fault
from orca_core.tasks.preparation import Answers, Preparation, Scale
from orca_core.tasks.raw_arrays import ArrayInputs, Divide
from orca_core.tasks.spec import Split, TaskData, TaskSpec
from orca_core.tasks.splitting import hold_out, take_rows

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

MEAN = (0.5071, 0.4867, 0.4408)
DEVIATION = (0.2675, 0.2565, 0.2761)
"""Of CIFAR-100's training pixels in [0, 1], by colour, as in the reference."""

CLASSES = 100

_CIFAR_ARRAYS = (ArrayForm("data", "n d", "iu", "uint8, d = 3072"), ArrayForm("fine_labels", "n", "iu", "0-99"))
_CIFAR_ABOUT = "a pickle of Python 2, images 3 x 32 x 32"
_CIFAR_PAGE = "cs.toronto.edu/~kriz/cifar.html"
CIFAR_FILES = tuple(
    ExpectedFile(f"cifar-100-python/{part}", "pickle", _CIFAR_ARRAYS, _CIFAR_ABOUT, size, _CIFAR_PAGE)
    for part, size in (("train", "about 155 MB"), ("test", "about 31 MB"))
)
SPHERICAL_FILES = (
    ExpectedFile(
        "s2_cifar100.gz",
        "gzipped pickle",
        tuple(
            form
            for part in ("train", "test")
            for form in (ArrayForm(f"{part}.images", "n 3 h w".replace("n", part), "iuf", "uint8"), ArrayForm(f"{part}.labels", part, "iu"))
        ),
        "",
        "272 MB",
        "NAS-Bench-360",
    ),
)


def load_cifar100(spec: TaskSpec, split_seed: int, reference: bool) -> TaskData:
    """x (n, 3, side, side), normalised by colour; a fifth of train is validation, stratified. Training images are cropped and flipped."""
    fill = tuple(-mean / deviation for mean, deviation in zip(MEAN, DEVIATION, strict=True))  # black
    return _load(spec, split_seed, reference, _decode_cifar100, _pixels, augment=partial(crop_and_flip, pad=4, fill=fill))


def load_spherical(spec: TaskSpec, split_seed: int, reference: bool) -> TaskData:
    """x (n, 3, h, w) in [0, 1]; a fifth of train is validation, stratified."""
    return _load(spec, split_seed, reference, _decode_spherical, _unrolled)


def _load(
    spec: TaskSpec,
    split_seed: int,
    reference: bool,
    decode: Callable[[Decoding], None],
    inputs_of: Callable[[tuple[int, ...]], ArrayInputs],
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
) -> TaskData:
    arrays, facts = decode_once(spec, decode)
    x, y, test = arrays["train_x"], arrays["train_y"], Split(arrays["test_x"], arrays["test_y"])
    preparation = Preparation(inputs_of(tuple(x.shape[1:])), Answers("classification", tuple(range(facts["classes"]))))
    if reference:
        return TaskData(Split(x, y), test, test, facts["classes"], augment, preparation=preparation)
    train, valid = hold_out(y, 0.2, split_seed)
    return TaskData(take_rows(x, y, train), take_rows(x, y, valid), test, facts["classes"], augment, preparation=preparation)


def _pixels(shape: tuple[int, ...]) -> ArrayInputs:
    """CIFAR's pixels as they are published -> normalised by colour."""
    import numpy as np

    mean, deviation = (np.array(values, dtype=np.float32).reshape(1, 3, 1, 1) for values in (MEAN, DEVIATION))
    return ArrayInputs(shape, (Divide(255), Scale(mean, deviation)), 0, 255, about="pixels, 0 to 255")


def _unrolled(shape: tuple[int, ...]) -> ArrayInputs:
    """Pixels of the unrolled sphere as they are published -> in [0, 1]."""
    return ArrayInputs(shape, (Divide(255),), 0, 255, about="pixels, 0 to 255")


def _decode_cifar100(out: Decoding) -> None:
    classes = None
    for part, file in zip(("train", "test"), CIFAR_FILES, strict=True):
        arrays = select_arrays(file.find(), read_pickle(file.find()), file.arrays)
        refuse_other_pixels(file.find(), "data", arrays["data"])
        ids = to_class_ids(file.find(), "fine_labels", arrays["fine_labels"], classes, most=CLASSES)
        classes = classes or range(int(ids.max()) + 1)
        side = math.isqrt(arrays["data"].shape[1] // 3)
        if 3 * side * side != arrays["data"].shape[1]:
            rule = "must have rows of three square images, one of each colour"
            refuse([Fault("data", rule, arrays["data"].shape).text(str(file.find()))])
        pixels = arrays["data"].reshape(-1, 3, side, side)
        x, inputs = out.empty(f"{part}_x", pixels.shape), _pixels(pixels.shape[1:])
        for rows in iterate_blocks(pixels):
            x[rows] = inputs.transform(pixels[rows])
        out.save(f"{part}_y", ids, "int64")
    out.facts["classes"] = len(classes or ())


def _decode_spherical(out: Decoding) -> None:
    (file,) = SPHERICAL_FILES
    arrays = select_arrays(file.find(), read_pickle(file.find()), file.arrays)
    classes = None
    for part in ("train", "test"):
        images = arrays[f"{part}.images"]
        refuse_not_finite(file.find(), f"{part}.images", images)
        refuse_other_pixels(file.find(), f"{part}.images", images)
        ids = to_class_ids(file.find(), f"{part}.labels", arrays[f"{part}.labels"], classes, most=CLASSES)
        classes = classes or range(int(ids.max()) + 1)
        x, inputs = out.empty(f"{part}_x", images.shape), _unrolled(images.shape[1:])
        for rows in iterate_blocks(images):
            x[rows] = inputs.transform(images[rows])
        out.save(f"{part}_y", ids, "int64")
    out.facts["classes"] = len(classes or ())


def refuse_other_pixels(path: Path, key: str, pixels: np.ndarray) -> None:
    """Refuse pixels that are not 0 to 255: of more bits, or scaled to [0, 1] already.

    Raises:
        DataError: With the range that was found.
    """
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0 or high > 255 or (pixels.dtype.kind == "f" and high <= 1):
        refuse([Fault(key, "must be pixels from 0 to 255", (low, high), "Are they scaled already?").text(str(path))])


def crop_and_flip(batch: Tensor, draws: torch.Generator, *, pad: int, fill: tuple[float, ...]) -> Tensor:
    """Each image shifted by up to `pad` pixels in each direction, filled up with `fill`, and mirrored or not.

    Args:
        batch: (n, channels, height, width).
        draws: The epoch's generator.
        pad: Pixels, at least 0.
        fill: One value per channel.
    """
    import torch

    n, channels, height, width = batch.shape
    background = torch.tensor(fill, dtype=batch.dtype, device=batch.device).view(1, channels, 1, 1)
    padded = torch.nn.functional.pad(batch - background, (pad, pad, pad, pad)) + background
    top, left = (torch.randint(2 * pad + 1, (n, 1), generator=draws) for _ in range(2))
    mirrored = torch.randint(2, (n, 1), generator=draws).bool()
    rows, columns = top + torch.arange(height), torch.arange(width).expand(n, width)
    columns = left + torch.where(mirrored, columns.flip(1), columns)
    samples = torch.arange(n).view(n, 1, 1)
    # Index arrays on both sides of the channels' slice: indexing puts the sliced axis last.
    shifted = padded[samples, :, rows.unsqueeze(2), columns.unsqueeze(1)]
    return shifted.permute(0, 3, 1, 2).contiguous()
