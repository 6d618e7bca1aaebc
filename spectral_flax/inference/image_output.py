# SPDX-License-Identifier: Apache-2.0
"""Writing of image files, whole or not at all, with the metadata of their source.

All is checked before the work, and no file is overwritten unless this is asked for.
"""

import contextlib
import io
import os
import re
import struct
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_flax.files import local_path, new_file, refuse_existing
from spectral_flax.inference.images import SUFFIXES, opened, pillow

if TYPE_CHECKING:
    from PIL import Image

# Known pixels stay as they are where a format can hold them, and nearly so where it can not.
_SETTINGS = {
    "WEBP": {"lossless": True, "exact": True},
    "JPEG": {"quality": 95, "subsampling": 0},
    "AVIF": {"quality": 95},
}
# Tags 254 to 700 of TIFF say how its pixels are stored, but for these: descriptions, resolution and
# the meaning of colours.
_DESCRIPTIONS = {269, 270, 271, 272, 282, 283, 285, 296, 301, 305, 306, 315, 316, 318, 319, 333}
_XMP, _ICC = 700, 34675
_XMP_OF_PNG = "XML:com.adobe.xmp"


def check_output(
    path: str | os.PathLike[str], *, mode: str = "RGB", overwrite: bool = False
) -> None:
    """Raise a ValueError or OSError if an image of a colour mode can not be written to ``path``."""
    path = local_path(path, "output")
    if path.is_dir():
        raise IsADirectoryError(f"output {str(path)!r} is a folder; expected the name of a file")
    format_ = _format(path)
    try:
        pillow().new(mode, (1, 1)).save(io.BytesIO(), format_)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"output {str(path)!r}: {format_} can not hold an image of mode {mode}; .png can"
        ) from error
    if not path.parent.is_dir():
        raise FileNotFoundError(f"output {str(path)!r}: there is no folder {str(path.parent)!r}")
    _require_writable(path.parent)
    refuse_existing([path], overwrite=overwrite)


def check_output_folder(
    folder: str | os.PathLike[str], files: Iterable[Path], *, overwrite: bool = False
) -> None:
    """Raise a ValueError or OSError if ``files`` can not be written to ``folder``.

    The folder, which need not exist, is not made.
    """
    folder = local_path(folder, "output")
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"output {str(folder)!r} is a file; several images need a folder")
    if not folder.exists() and folder.suffix.lower() in SUFFIXES:
        raise ValueError(f"output {str(folder)!r} names an image; several images need a folder")
    _require_writable(next(place for place in (folder, *folder.parents) if place.exists()))
    refuse_existing(files, overwrite=overwrite)


def output_files(
    images: Sequence[str], output: str | os.PathLike[str], *, overwrite: bool = False
) -> dict[str, Path]:
    """Return the file to write for each of several images, having checked that it can be written.

    ``output`` is that of the only image, or a folder, for PNG files of the images' names.
    Raises ValueError or OSError if one can not be written, or two would have one name.
    """
    folder = local_path(output, "output")
    if len(images) == 1 and not folder.is_dir():
        check_output(output, overwrite=overwrite)
        return {images[0]: folder}
    found: dict[Path, str] = {}
    for image in images:
        path = folder / f"{Path(image).stem}.png"
        if path in found:
            raise ValueError(f"{found[path]!r} and {image!r} would both be drawn to {str(path)!r}")
        found[path] = image
    check_output_folder(output, found, overwrite=overwrite)
    return {image: path for path, image in found.items()}


def save_image(
    image: "Image.Image",
    path: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> None:
    """Write an upright image, in the format of the suffix, with what the file ``source`` says.

    That is its colour profile, EXIF, resolution, XMP and texts, as far as the format has room. The
    EXIF orientation and thumbnail, which are of other pixels, are left out.
    """
    check_output(path, mode=image.mode, overwrite=overwrite)
    path = local_path(path, "output")
    format_, encoded = _format(path), io.BytesIO()
    kept = {} if source is None else _metadata(source, format_, image.size)
    image.save(encoded, format_, **_SETTINGS.get(format_, {}), **kept)
    with new_file(path, overwrite=overwrite) as draft:
        draft.write_bytes(encoded.getbuffer())


def _format(path: Path) -> str:
    format_ = pillow().registered_extensions().get(path.suffix.lower())
    if format_ not in pillow().SAVE:
        raise ValueError(
            f"output {str(path)!r} has an unknown file extension {path.suffix!r}; expected one "
            f"such as {', '.join(SUFFIXES)}"
        )
    return format_


def _require_writable(folder: Path) -> None:
    if not folder.is_dir():
        raise NotADirectoryError(f"output: {str(folder)!r} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"output: nothing can be written to the folder {str(folder)!r}")


def _metadata(
    source: str | os.PathLike[str], format_: str, size: tuple[int, int]
) -> dict[str, Any]:
    """Return what Pillow is to write beside the pixels."""
    with opened(source) as image:
        image.load()  # texts may follow the pixels
        info = image.info
        kept = {name: info[name] for name in ("icc_profile", "dpi", "comment") if info.get(name)}
        xmp = _upright_xmp(info.get("xmp") or b"")
        try:
            exif = _exif(image, size)
            if format_ == "TIFF" and xmp:
                exif[_XMP] = xmp
            kept |= {"exif": exif.tobytes()} if len(exif) else {}
        except Exception as error:  # whatever Pillow trips over in a damaged one
            warnings.warn(f"EXIF of {os.fspath(source)!r} is damaged: {error!r}", stacklevel=2)
        if format_ == "PNG":
            return kept | {"pnginfo": _png_chunks(image, xmp)}
        return kept | ({"xmp": xmp} if xmp else {})


def _exif(image: "Image.Image", size: tuple[int, int]):
    """Return EXIF for the upright pixels, without orientation, thumbnail, and TIFF's own layout."""
    exif = image.getexif()
    details = exif.get_ifd(0x8769) if 0x8769 in exif else {}
    for tag, length in zip((0xA002, 0xA003), size, strict=True):
        if tag in details:
            details[tag] = length
    for tag in list(exif):
        if tag == _ICC or (254 <= tag <= _XMP and tag not in _DESCRIPTIONS):
            del exif[tag]
    return exif


def _upright_xmp(xmp: bytes | str) -> bytes:
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    return re.sub(rb'(tiff:Orientation\s*(?:=\s*["\']|>))\d', rb"\g<1>1", xmp)


def _png_chunks(image: "Image.Image", xmp: bytes):
    """Return the texts of an image, and what its colours mean where no profile says so."""
    from PIL.PngImagePlugin import PngInfo

    chunks, info = PngInfo(), image.info
    with contextlib.suppress(TypeError, struct.error):  # what a damaged chunk may hold
        if "gamma" in info:
            chunks.add(b"gAMA", struct.pack(">I", round(info["gamma"] * 100000)))
        if "chromaticity" in info:
            points = [round(value * 100000) for value in info["chromaticity"]]
            chunks.add(b"cHRM", struct.pack(">8I", *points))
        if "srgb" in info:
            chunks.add(b"sRGB", struct.pack("B", info["srgb"]))
    for key, text in getattr(image, "text", {}).items():
        # EXIF in ImageMagick's way of writing, and XMP, are written anew.
        if key != _XMP_OF_PNG and not key.startswith("Raw profile type"):
            chunks.add_text(key, text)
    if xmp:
        chunks.add_itxt(_XMP_OF_PNG, xmp.decode("utf-8", "replace"))
    return chunks
