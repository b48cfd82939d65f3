"""Published proxies, read from their files below the data root: CIFAR, tiny ImageNet, CoNLL-2003, and the features of the reference."""

from __future__ import annotations

import hashlib
import math
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from orca_core.datafiles.arrays import select_arrays
from orca_core.datafiles.decoding import Decoding, decode_once, to_class_ids
from orca_core.datafiles.expected import ArrayForm, ExpectedFile, find_paths, form_faults, read_headers, refuse
from orca_core.datafiles.npz import Header
from orca_core.datafiles.reading import reading, require_utf8
from orca_core.datafiles.unpickling import read_object_npy, read_pickle
from orca_core.errors import Fault
from orca_core.proxies.own import average_features, decode_pictures
from orca_core.proxies.spec import ProxyData, ProxySpec
from orca_core.proxies.texts import label_sentences, label_words, read_conll
from orca_core.tasks.nb360.images import refuse_other_pixels
from orca_core.tasks.own.images import PICTURES_VERSION
from orca_core.workbench import memoize

if TYPE_CHECKING:
    import numpy as np

CIFAR_PAGE = "cs.toronto.edu/~kriz/cifar.html"

_PIXELS = ArrayForm("data", "n d", "iu", "uint8, d = 3072")
CIFAR10_FILES = tuple(
    ExpectedFile(
        f"cifar-10-batches-py/data_batch_{number}",
        "pickle",
        (_PIXELS, ArrayForm("labels", "n", "iu", "0-9")),
        "a pickle of Python 2",
        "about 31 MB",
        CIFAR_PAGE,
    )
    for number in range(1, 6)
)
NUM_CLASSES = {"labels": 10, "fine_labels": 100}
"""By the key of the labels."""

CIFAR100_FILES = (
    ExpectedFile(
        "cifar-100-python/train",
        "pickle",
        (_PIXELS, ArrayForm("fine_labels", "n", "iu", "0-99")),
        "a pickle of Python 2",
        "about 155 MB",
        CIFAR_PAGE,
    ),
)
TINY_IMAGENET_SIDE = 64
TINY_IMAGENET_FILES = (
    ExpectedFile("tiny-imagenet-200/train", "folder", (), "a folder of pictures for each class, in it images/", "about 240 MB", "cs231n"),
)
CONLL_FILES = (
    ExpectedFile(
        "conll2003/eng.train",
        "list",
        (),
        "a word a line, its tag last, IOB1",
        "",
        "CoNLL-2003 shared task; its texts are Reuters'",
        ("eng.train",),
    ),
)
REFERENCE_TEXT_FILES = (
    ExpectedFile(
        "text_xs.npy", "npy", (ArrayForm("", "n tokens d", "f", "float, d = 768"),), "", "", "ORCA's repository", ("text_xs_32.npy",)
    ),
    ExpectedFile("text_ys.npy", "npy", (ArrayForm("", "n", "iuf", "labels"),), "", "", "ORCA's repository", ("text_ys_32.npy",)),
)


def load_cifar(spec: ProxySpec) -> ProxyData:
    """The training images, without the reference's augmentation."""
    arrays, facts = decode_once(spec, partial(_decode_cifar, files=spec.expects))
    return ProxyData(arrays["x"], arrays["y"], tuple(map(str, range(facts["classes"]))))


def _decode_cifar(out: Decoding, files: tuple[ExpectedFile, ...]) -> None:
    import numpy as np

    images: list[np.ndarray] = []
    ids: list[np.ndarray] = []
    for file in files:
        key = file.arrays[1].key
        found = select_arrays(file.find(), read_pickle(file.find()), file.arrays)
        side = math.isqrt(found["data"].shape[1] // 3)
        if 3 * side * side != found["data"].shape[1] or (images and images[0].shape[2] != side):
            refuse([Fault("data", "must have rows of three square images, one of each colour", found["data"].shape).text(str(file.find()))])
        images.append(found["data"].reshape(-1, 3, side, side))
        refuse_other_pixels(file.find(), "data", found["data"])
        ids.append(to_class_ids(file.find(), key, found[key], most=NUM_CLASSES[key]))
    out.save("x", np.concatenate(images), "uint8")
    out.save("y", np.concatenate(ids), "int64")
    out.facts["classes"] = max(int(part.max()) for part in ids) + 1


def load_tiny_imagenet(spec: ProxySpec) -> ProxyData:
    """The training images, 64 x 64."""
    return decode_pictures(spec, [(path.parents[1].name, path) for path in _find_tiny_imagenet()], TINY_IMAGENET_SIDE)


def _find_tiny_imagenet() -> tuple[Path, ...]:
    (folder,) = find_paths(TINY_IMAGENET_FILES)
    return _list_pictures_below(folder, os.stat(folder).st_mtime_ns) if folder.is_dir() else (folder,)


@memoize(maxsize=2)
def _list_pictures_below(folder: Path, mtime_ns: int) -> tuple[Path, ...]:
    paths = tuple(sorted(folder.glob("*/images/*.JPEG")))
    if len({path.parents[1] for path in paths}) < 2:
        refuse([Fault("", "must have at least two folders <class>/images/ with .JPEG pictures", len(paths)).text(str(folder))])
    require_utf8(*(path.parents[1].name for path in paths))
    return paths


def _identify_tiny_imagenet() -> str:
    """The class of a picture is in its path, not in its content: the names of all classes are part of the identity."""
    names = "\n".join(path.parents[1].name for path in _find_tiny_imagenet())
    return f"tiny-imagenet {hashlib.sha256(names.encode()).hexdigest()[:16]}"


def load_conll(spec: ProxySpec) -> ProxyData:
    """A sample for each word of eng.train: its token in its sentence, with its IOB2 tag, one of nine."""
    return label_words(read_conll(spec.expects[0].find()))


def load_conll_sentences(spec: ProxySpec) -> ProxyData:
    """A sample for each sentence of eng.train, with its most frequent kind of entity."""
    return label_sentences(read_conll(spec.expects[0].find()))


def load_reference_text(spec: ProxySpec) -> ProxyData:
    """The features that the reference stored, averaged over tokens (`embedder.py:290`)."""
    xs, ys = find_paths(spec.expects)
    x, y = read_object_npy(xs), read_object_npy(ys)
    if len(x) != len(y):
        refuse([Fault("", f"must have the {len(x)} rows of {xs.name}", len(y)).text(str(ys))])
    return average_features(xs, x, to_class_ids(ys, "", y))


def _read_reference_width() -> int:
    file = REFERENCE_TEXT_FILES[0]
    refuse(file.faults())
    with reading(file.find(), "a complete .npy file"):
        headers: dict[str, Header] = read_headers(file.find(), "npy") or {}
    refuse(fault.text(str(file.find())) for fault in form_faults(file.arrays, headers))
    return headers[""].shape[2]


PUBLISHED_PROXIES: tuple[ProxySpec, ...] = (
    ProxySpec(
        name="cifar10",
        summary="50000 photographs of 32 x 32 pixels, 10 classes",
        modality="images",
        loader="orca_core.proxies.published:load_cifar",
        licence="as its page says",
        source="CIFAR-10 (Krizhevsky 2009)",
        expects=CIFAR10_FILES,
    ),
    ProxySpec(
        name="cifar100",
        summary="50000 photographs of 32 x 32 pixels, 100 classes",
        modality="images",
        loader="orca_core.proxies.published:load_cifar",
        licence="CC BY 4.0",
        source="CIFAR-100 (Krizhevsky 2009)",
        expects=CIFAR100_FILES,
    ),
    ProxySpec(
        name="tiny-imagenet",
        summary="100000 photographs of 64 x 64 pixels, 200 classes",
        modality="images",
        loader="orca_core.proxies.published:load_tiny_imagenet",
        version=PICTURES_VERSION,
        files=_find_tiny_imagenet,
        licence="as ImageNet's page says",
        source="tiny ImageNet, of the course cs231n",
        expects=TINY_IMAGENET_FILES,
        identity=_identify_tiny_imagenet,
    ),
    ProxySpec(
        name="conll2003",
        summary="words of news in their sentences, labelled by the entity they belong to",
        modality="text",
        loader="orca_core.proxies.published:load_conll",
        licence="as Reuters' corpus",
        source="CoNLL-2003 (Tjong Kim Sang & De Meulder 2003), English, training part",
        expects=CONLL_FILES,
    ),
    ProxySpec(
        name="conll2003-sentences",
        summary="sentences of news, labelled by their most frequent kind of entity",
        modality="text",
        loader="orca_core.proxies.published:load_conll_sentences",
        licence="as Reuters' corpus",
        source="CoNLL-2003 (Tjong Kim Sang & De Meulder 2003), English, training part",
        expects=CONLL_FILES,
    ),
    ProxySpec(
        name="reference-text",
        summary="the sentence features that the reference code reads, for bodies of their width, 768",
        modality="text",
        loader="orca_core.proxies.published:load_reference_text",
        source="ORCA's repository",
        expects=REFERENCE_TEXT_FILES,
        width=_read_reference_width,
    ),
)
