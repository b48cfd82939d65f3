"""The proxies that need no download: the table of them, and the loaders of those read from installed packages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from orca_core.datafiles.packaged import find_package_file
from orca_core.datafiles.pictures import open_picture
from orca_core.errors import DataError
from orca_core.proxies.spec import ProxyData, ProxySpec

if TYPE_CHECKING:
    import numpy as np

NUM_TOPICS = 16
"""How many topics `pydoc` uses, the longest ones: those with about thirty sentences or more."""

CROP_SIDE, CROPS_PER_REGION, CROP_SEED = 32, 120, 11
"""Side of a crop in pixels; crops per third of a photograph and scale; seed of their positions."""


def _topics_file() -> tuple[Path, ...]:
    return (find_package_file("pydoc_data", "topics.py"),)


def _photo_files() -> tuple[Path, ...]:
    return tuple(find_package_file("sklearn", "datasets", "images", name) for name in ("china.jpg", "flower.jpg"))


BUILTIN_PROXIES: tuple[ProxySpec, ...] = (
    ProxySpec(
        name="pydoc",
        summary="sentences of Python's reference manual, labelled by topic",
        modality="text",
        loader="orca_core.proxies.builtin:load_pydoc",
        files=_topics_file,
        licence="PSF-2.0",
        source="pydoc_data of the running Python; other versions hold other text",
    ),
    ProxySpec(
        name="photos",
        summary="1440 crops, 32 x 32, of two photographs, labelled by photograph and third",
        modality="images",
        loader="orca_core.proxies.builtin:load_photos",
        files=_photo_files,
        licence="CC BY 2.0",
        source="china.jpg by danielbuechele, flower.jpg by vultilion (Flickr), as scikit-learn ships them",
    ),
    ProxySpec(
        name="fractals",
        summary="2400 generated fractals, 32 x 32, labelled by function system",
        modality="images",
        loader="orca_core.proxies.fractals:load_fractals",
        licence="Apache-2.0",
        source="drawn here",
        version=2,
    ),
    ProxySpec(
        name="noise",
        summary="Gaussian features with labels at random: the control",
        modality="any",
        loader="",
        licence="Apache-2.0",
        source="drawn here",
    ),
)


def load_pydoc(spec: ProxySpec) -> ProxyData:
    """About 1700 sentences of 5 to 60 words, topic after topic, each sentence once.

    A sentence of several topics belongs to the alphabetically first, so that no sentence has two labels.
    """
    import numpy as np

    sentences: dict[str, str] = {}
    for topic, text in sorted(_read_topics(spec).items()):
        for sentence in split_sentences(text):
            sentences.setdefault(sentence, topic)
    by_topic: dict[str, list[str]] = {}
    for sentence, topic in sentences.items():
        by_topic.setdefault(topic, []).append(sentence)
    names = sorted(sorted(by_topic, key=lambda topic: (-len(by_topic[topic]), topic))[:NUM_TOPICS])
    labels = np.repeat(np.arange(len(names), dtype=np.int64), [len(by_topic[name]) for name in names])
    return ProxyData([sentence for name in names for sentence in by_topic[name]], labels, tuple(names))


def split_sentences(text: str) -> Iterator[str]:
    """The prose of a topic as sentences of 5 to 60 words, without code, grammar, headings and markup.

    >>> list(split_sentences("* The *index* must be an\\n  integer.  Else, a \\"TypeError\\" is raised.\\n\\n   x = 1"))
    ['The index must be an integer.', 'Else, a TypeError is raised.']
    """
    for paragraph in text.split("\n\n"):
        if "::=" in paragraph or ">>>" in paragraph:
            continue
        prose = " ".join(paragraph.split()).removeprefix("* ")
        prose = re.sub(r"\*(\w[^*]*)\*", r"\1", prose)  # *emphasis*
        prose = re.sub(r'"([^"]*)"', r"\1", prose)  # "literals"
        prose = re.sub(r"(?<=\w)- (?=\w)", "-", prose)  # a line broken after a hyphen
        for sentence in re.split(r"(?<=[.!?]) (?=[A-Z(])", prose):
            if re.fullmatch(r"[A-Z].*[.!?]", sentence) and 5 <= len(sentence.split()) <= 60:
                yield sentence


def _read_topics(spec: ProxySpec) -> dict[str, str]:
    (path,) = spec.files()
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise DataError(f"{path}: cannot be imported ({error}). It is part of a complete Python installation.") from None
    return dict(topics)


def load_photos(spec: ProxySpec) -> ProxyData:
    """1440 crops (n, 3, 32, 32) in [0, 1], labels in turn: left, middle and right third of one photograph, then of the other.

    Half of the crops show 32 x 32 pixels, half 64 x 64 pixels averaged in blocks of 2 x 2; all lie within their third.
    """
    import numpy as np

    generator = np.random.Generator(np.random.PCG64(CROP_SEED))
    regions, names = [], []
    for path in spec.files():
        photo = _read_photo(path)
        width = photo.shape[2] // 3
        regions += [photo[:, :, k * width : (k + 1) * width] for k in range(3)]
        names += [f"{path.stem}-{third}" for third in ("left", "middle", "right")]

    crops = []
    for scale in (1, 2):
        for _ in range(CROPS_PER_REGION):
            for region in regions:
                side = scale * CROP_SIDE
                top, left = generator.integers(0, (region.shape[1] - side, region.shape[2] - side), endpoint=True)
                crop = region[:, top : top + side, left : left + side]
                crops.append(crop.reshape(3, CROP_SIDE, scale, CROP_SIDE, scale).mean(axis=(2, 4)))
    labels = np.tile(np.arange(len(regions)), 2 * CROPS_PER_REGION)
    return ProxyData(np.stack(crops), labels.astype(np.int64), tuple(names))


def _read_photo(path: Path) -> np.ndarray:
    """(3, height, width) float32 in [0, 1]."""
    import numpy as np

    pixels = np.asarray(open_picture(path), dtype=np.float32)
    return np.ascontiguousarray(np.moveaxis(pixels / 255, -1, 0))
