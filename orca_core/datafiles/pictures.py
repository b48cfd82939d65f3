"""Opens pictures: the one place that does, for tasks and proxies.

Only the formats of `FORMATS` are opened, whatever a file is called: for others, like EPS, Pillow starts another program on the file.

- Transparent pictures are composited on white, as a page shows them.
- Pictures whose EXIF data says that the camera was turned are turned back.
- Grey pictures of more than 8 bits (16-bit, 32-bit, float) keep their values; `to_bytes` scales them by a range that their data set
  shares. Colours of 16 bits are read by their upper 8 bits, as Pillow does.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from orca_core.datafiles.reading import reading
from orca_core.datafiles.room import require_memory

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")

BYTES = (0.0, 255.0)
"""The range of pictures of 8 bits."""

BACKGROUND = (255, 255, 255)
"""What shows behind transparent pixels."""

_ORIENTATION = 0x0112
"""EXIF tag."""


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A picture whose header was read."""
    from PIL import Image, UnidentifiedImageError

    with reading(path, f"a picture ({', '.join(FORMATS)})", ""), path.open("rb") as file:
        try:
            image = Image.open(file, formats=FORMATS)
        except UnidentifiedImageError:
            raise ValueError("its content has none of these formats") from None
        with image:
            require_memory(path, "", 4 * image.width * image.height * max(1, len(image.getbands())))
            yield image


def is_deep(path: Path) -> bool:
    """Whether a picture is grey with more than 8 bits, by its header.

    Raises:
        DataError: If the file is not a picture of one of the formats, or does not fit into memory.
    """
    with _opened(path) as image:
        return image.mode == "F" or image.mode.startswith("I")


def open_picture(path: Path) -> Image.Image:
    """The first frame of a picture as it is looked at: `RGB`, or `F` if it is grey with more than 8 bits.

    Raises:
        DataError: If the file is not a picture of one of the formats, is damaged, does not fit into memory, or has NaN in it.
    """
    import numpy as np
    from PIL import Image

    with _opened(path) as image:
        image.load()
        upright = _turn_upright(image)
        if upright.mode == "F" or upright.mode.startswith("I"):
            deep = upright.convert("F")
            if not np.isfinite(np.asarray(deep)).all():
                raise ValueError("it has NaN or infinite values")
            return deep
        if not upright.has_transparency_data:
            return upright.convert("RGB")
        page = Image.new("RGBA", upright.size, (*BACKGROUND, 255))
        page.alpha_composite(upright.convert("RGBA"))
        return page.convert("RGB")


def _turn_upright(image: Image.Image) -> Image.Image:
    from PIL import Image

    turn = Image.Transpose
    turns = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_270,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_90,
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # EXIF data that cannot be read says nothing; the pixels are whole all the same
        orientation = None
    return image.transpose(turns[orientation]) if orientation in turns else image.copy()


def read_square(path: Path, size: int, scale: tuple[float, float] = BYTES) -> np.ndarray:
    """(3, size, size) bytes: the shorter side is resized to `size`, and the middle is cut out.

    Args:
        path: The picture.
        size: Side in pixels.
        scale: The values of a grey picture of more than 8 bits that become 0 and 255; what is outside becomes the nearer of them.

    Raises:
        DataError: As `open_picture`.
    """
    import numpy as np
    from PIL import Image, ImageOps

    image = open_picture(path)
    with reading(path, "a picture"):
        fitted = np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR))
    if image.mode == "RGB":
        return np.moveaxis(fitted, -1, 0)
    low, high = scale
    scaled = (fitted.astype(np.float64) - low) / ((high - low) or 1.0)
    return np.broadcast_to(np.rint(255 * scaled.clip(0, 1)).astype(np.uint8), (3, size, size))
