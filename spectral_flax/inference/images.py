# SPDX-License-Identifier: Apache-2.0
"""Reader of image files and masks: opens, turns upright, converts and normalises.

Pillow is imported inside the functions: ``pip install "spectral-flax[images]"``.
"""

import contextlib
import errno
import functools
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np

from spectral_flax.files import any_path, in_memory, open_regular
from spectral_flax.inference.masks import marked
from spectral_flax.messages import shown

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")
ORIENTATION = 0x0112
"""The EXIF tag of the orientation of the stored pixels."""

_LIMIT = "PIL.Image.MAX_IMAGE_PIXELS; spectral-flax inpaint has --max-pixels"

File = str | os.PathLike[str] | BinaryIO


class ImageFileError(ValueError):
    """A file can not be read as an image; ``reason`` is the message without the file's name."""

    def __init__(self, file: File, reason: str, what: str = "an image"):
        super().__init__(_name(file), reason, what)
        self.reason = reason

    def __str__(self) -> str:
        name, reason, what = self.args
        return f"{name!r} can not be read as {what}: {reason}"


@functools.cache
def pillow():
    """Return Pillow's module ``Image``; without Pillow an ImportError says what to install."""
    try:
        from PIL import Image
    except ImportError as error:
        message = 'image files need Pillow: pip install "spectral-flax[images]"'
        raise ImportError(message) from error
    # `opened` checks the size and names the file; the user's own filters come first.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)
    return Image


@functools.cache
def _formats() -> tuple[str, ...]:
    pillow().init()
    # Pillow hands EPS to Ghostscript, which executes it.
    return tuple(name for name in pillow().ID if name != "EPS")


@contextlib.contextmanager
def opened(file: File, what: str = "an image") -> Iterator["Image.Image"]:
    """Open an image file for reading: Pillow's lazy image, of the first frame.

    ``what`` it is read as, errors say.

    Raises:
      OSError: there is no such file, or it may not be read.
      ImageFileError: the file, or what the body of the ``with`` does, raises anything else.
    """
    Image = pillow()
    from PIL import UnidentifiedImageError

    try:
        with _stream(file) as stream, Image.open(stream, formats=_formats()) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                size = f"{image.width}x{image.height} pixels"
                raise ValueError(f"it has {size}, more than {limit} ({_LIMIT})")
            if 0 in image.size:
                raise ValueError("it has no pixels")
            yield image
    except (MemoryError, ImportError, ImageFileError):
        raise
    except Image.DecompressionBombError as error:  # of more than twice the limit, as it opens
        reason = f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels ({_LIMIT})"
        raise ImageFileError(file, reason, what) from error
    except UnidentifiedImageError as error:
        raise ImageFileError(file, _unidentified(file), what) from error
    except OSError as error:
        if error.filename is not None:
            raise
        raise ImageFileError(file, _one_line(error), what) from error
    except Exception as error:  # decoders raise whatever a broken file leads them to
        raise ImageFileError(file, _one_line(error), what) from error


def read_image(file: File, *, alpha: Literal["drop", "white", "keep"] = "drop") -> "Image.Image":
    """Read an image file, upright, as RGB of 8 bits.

    Grey is repeated, 16 bits are scaled to 8, transparency is dropped or laid on white. With
    ``alpha="keep"``, for images that are to be written again, grey stays grey, transparency stays
    (modes L, LA, RGB and RGBA), and what does not fit is refused: more than 8 bits, CMYK, several
    frames.

    Raises:
      OSError: there is no such file, or it may not be read.
      ImageFileError: it is no image, is damaged, too large, or has values of no known range.
    """
    with opened(file) as image:
        return _converted(image, alpha)


def read_mask(file: File, *, labels: bool = False) -> np.ndarray:
    """Read a mask file, upright: ``int32 [H, W]``, 0 outside of what it marks.

    A pixel is marked where any of its channels is not 0; of colours every one has its own value.
    Of a palette ``labels`` takes the indices, else the colours count. Where a mask has an alpha
    channel that varies, this holds the shape, drawn in one colour on transparent ground: marked is
    what is not transparent. A mask that is transparent everywhere marks nothing.

    Raises:
      OSError: there is no such file, or it may not be read.
      ImageFileError: it is no image, has more than 8 bits a channel or several frames, is
        transparent in parts and has several colours besides, or (``labels``) its palette
        contradicts its indices.
    """
    with opened(file, "a mask") as image:
        return _marked(image, labels)


def read_pair(
    image: File,
    mask: File,
    *,
    alpha: Literal["drop", "white", "keep"] = "drop",
    labels: bool = False,
) -> tuple["Image.Image", np.ndarray]:
    """Read an image and its mask in the same frame, both upright; see `read_image`, `read_mask`.

    Each is turned by its own EXIF orientation. A mask without one is upright already if it has the
    size of the upright image, and is turned as its image if it has that of the stored pixels.

    Raises:
      OSError, ImageFileError: as they do.
      ValueError: sizes differ, or do not tell whether a mask without EXIF orientation is turned as
        its image.
    """
    with opened(image) as file:
        turn = exif_orientation(file)
        picture = _converted(file, alpha)
    with opened(mask, "a mask") as file:
        own_turn = exif_orientation(file)
        pixels = _marked(file, labels)
    size = pixels.shape[::-1]
    if turn in _TO_UPRIGHT and own_turn is None:
        stored = picture.size[::-1] if turn >= 5 else picture.size
        if size == stored == picture.size:
            raise ValueError(
                f"{_name(image)!r} has the EXIF orientation {turn}, its mask {_name(mask)!r} has "
                "none: save both upright, or give the mask the same"
            )
        if size == stored:
            pixels = np.asarray(upright(pillow().fromarray(pixels), turn))
            size = pixels.shape[::-1]
    if size != picture.size:
        sizes = "{}x{}; its image is {}x{}".format(*size, *picture.size)
        raise ValueError(f"mask {_name(mask)!r} is {sizes}")
    return picture, pixels


def files_by_stem(folder: str | os.PathLike[str], *, ending: str = "") -> dict[str, Path]:
    """Return the image files of a folder by their names without suffix and without ``ending``.

    Raises:
      ValueError: there is no such folder, or two files share a name.
    """
    folder = any_path(folder, "folder")
    if not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is not a folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        # Systems make hidden files: macOS "._a.png" beside each a.png.
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            stem = path.stem.removesuffix(ending)
            if stem in found:
                raise ValueError(f"{str(found[stem])!r} and {str(path)!r} share a name")
            found[stem] = path
    return found


def to_rgb(image: "Image.Image", *, alpha: Literal["drop", "white"] = "drop") -> "Image.Image":
    """Convert an image of any mode to 8-bit RGB; transparency is dropped or laid on white.

    Raises:
      ValueError: the values have no known range (floating point, more than 16 bits).
    """
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"integers from {values.min()} to {values.max()}; expected 16 bits")
        image = pillow().fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating point values, whose range is not known")
    image = _with_alpha(image)
    if alpha == "white" and image.mode in ("LA", "RGBA"):
        white = pillow().new("RGBA", image.size, "white")
        image = pillow().alpha_composite(white, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def exif_orientation(image: "Image.Image") -> int | None:
    """Return the EXIF orientation that an open image file notes of its stored pixels, if any."""
    try:
        value = image.getexif().get(ORIENTATION)
        return value if value in range(1, 9) else None
    except Exception:  # damaged metadata does not make a damaged image
        return None


def orientation(image: "Image.Image") -> int:
    """Return the EXIF orientation by which an open image has yet to be turned; 1 is upright."""
    if image.format == "TIFF":  # Pillow turns these itself as it loads them
        image.load()
    value = exif_orientation(image)
    return value if value in _TO_UPRIGHT else 1


def upright(image: "Image.Image", turn: int) -> "Image.Image":
    """Turn the stored pixels of an image of EXIF orientation ``turn``."""
    return image if turn == 1 else image.transpose(_turns()[turn])


def normalized(images, mean, std, *, bgr: bool = False):
    """Return ``(images / 255 - mean) / std`` in float32, ``[..., C]``; arrays of NumPy or JAX.

    With ``bgr`` the channels are reversed first; mean and deviation are of the reversed ones.
    """
    shape = (1,) * (images.ndim - 1) + (-1,)
    mean, std = (np.float32(value).reshape(shape) for value in (mean, std))
    return ((images[..., ::-1] if bgr else images).astype(np.float32) / 255 - mean) / std


_TO_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


@functools.cache
def _turns() -> dict[int, int]:
    return {turn: pillow().Transpose[name] for turn, name in _TO_UPRIGHT.items()}


def _converted(image: "Image.Image", alpha: str) -> "Image.Image":
    if alpha == "keep":
        _require_one_frame_of_eight_bits(image)
    image.load()
    turn = orientation(image)
    return upright(_with_alpha(image) if alpha == "keep" else to_rgb(image, alpha=alpha), turn)


def _with_alpha(image: "Image.Image") -> "Image.Image":
    """Return a grey or colour image of 8 bits as L, LA, RGB or RGBA; other modes as they are."""
    if image.mode in ("La", "RGBa"):  # colours multiplied by the alpha channel
        return image.convert(image.mode.upper())
    if image.mode == "PA" or (image.mode == "P" and "transparency" in image.info):
        return image.convert("RGBA")
    if "transparency" in image.info and image.mode in ("1", "L", "RGB"):  # one colour is clear
        return image.convert("RGBA" if image.mode == "RGB" else "LA")
    plain = {"P": "RGB", "1": "L", "RGBX": "RGB"}.get(image.mode)
    return image if plain is None else image.convert(plain)


def _marked(image: "Image.Image", labels: bool) -> np.ndarray:
    _require_one_frame_of_eight_bits(image)
    image = upright(image, orientation(image))
    return marked(image if labels and image.mode == "P" else _with_alpha(image))


def _require_one_frame_of_eight_bits(image: "Image.Image") -> None:
    # Pillow silently drops half the bits of 16-bit colour; the names of raw modes tell it.
    raw = str([tile[-1] for tile in getattr(image, "tile", ())])
    deep = any(f";{bits}" in raw for bits in (10, 12, 14, 16, 32))
    ppm = any(tile[0] == "ppm" and tile[-1][-1] > 255 for tile in getattr(image, "tile", ()))
    if deep or ppm or image.mode.startswith(("I", "F")):
        raise ValueError("it has more than 8 bits a channel; convert it to 8 first")
    if image.mode in ("CMYK", "LAB", "HSV", "YCbCr"):
        raise ValueError(f"it has colour mode {image.mode}; expected grey, RGB or RGBA")
    # The second picture of an MPO is a camera's preview or depth.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise ValueError(f"it has {image.n_frames} frames; expected one")


@contextlib.contextmanager
def _stream(file: File) -> Iterator[BinaryIO]:
    file = in_memory(file)
    if hasattr(file, "read"):
        yield file
        return
    if os.path.isdir(file):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(file))
    with open_regular(file) as stream:
        yield stream


def _name(file: File) -> str:
    if isinstance(file, (str, os.PathLike)):
        return os.fspath(file)
    return str(getattr(file, "name", type(file).__name__))


def _unidentified(file: File) -> str:
    with contextlib.suppress(OSError, TypeError):
        if os.path.getsize(file) == 0:
            return "the file is empty"
    return "its contents are of no format that Pillow knows, or damaged"


def _one_line(error: Exception) -> str:
    return shown(" ".join(str(error).split()) or type(error).__name__, 300)
