# SPDX-License-Identifier: Apache-2.0
"""Inpainting of arrays, files and folders with a LaMa generator."""

import functools
import os
import pathlib
import struct
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from spectral_flax.cpu import compiler_options

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def inpaint(model: nnx.Module, image, mask, *, multiple: int = 8) -> np.ndarray:
    """Fill in the missing part of an image: ``[H, W, 3], [H, W] -> [H, W, 3]``.

    Any H and W, with or without a leading batch axis on both. ``image`` is uint8, or floating in
    [0, 1]; the result has its dtype. The mask is anything but 0 where the image is missing. Known
    pixels come back bit for bit, so an empty mask returns the image. The model sees the image
    padded at the bottom and on the right, by mirroring, to multiples of ``multiple``; a larger one
    means fewer compilations for a collection of sizes.

    Raises:
      ValueError: a shape does not fit, values are outside [0, 1], or the model is no generator.
      TypeError: the image is neither uint8 nor floating.
    """
    image, mask = np.asarray(image), np.asarray(mask)
    if image.ndim not in (3, 4) or image.shape[-1] != 3 or 0 in image.shape:
        raise ValueError(f"image has shape {image.shape}; expected [H, W, 3] or [N, H, W, 3]")
    if mask.shape == (*image.shape[:-1], 1):
        mask = mask[..., 0]
    if mask.shape != image.shape[:-1]:
        raise ValueError(f"mask has shape {mask.shape}; expected {image.shape[:-1]}, the image's")
    if image.dtype != np.uint8 and not jnp.issubdtype(image.dtype, jnp.floating):
        raise TypeError(f"image has dtype {image.dtype}; expected uint8, or floating in [0, 1]")
    if image.dtype != np.uint8 and not (np.min(image) >= 0 and np.max(image) <= 1):
        raise ValueError("image has values outside [0, 1]")
    if multiple < 1 or multiple % 8:
        raise ValueError(f"multiple={multiple}; expected a multiple of 8")
    missing = mask != 0
    if not missing.any():
        return image.copy()
    scale = 255 if image.dtype == np.uint8 else 1
    x, m = image.astype(np.float32) / np.float32(scale), missing.astype(np.float32)[..., None]
    if image.ndim == 3:
        x, m = x[None], m[None]
    height, width = x.shape[1:3]
    margins = [(0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0)]
    x, m = (np.pad(a, margins, mode="symmetric") for a in (x, m))
    graphdef, state = nnx.split(
        nnx.view(model, raise_if_not_found=False, use_running_average=True, deterministic=True)
    )
    filled = np.asarray(_compiled_fill()(graphdef, state, x, m))[:, :height, :width] * scale
    if image.dtype == np.uint8:
        filled = np.rint(filled)
    filled = np.clip(filled, 0, scale).reshape(image.shape).astype(image.dtype)
    return np.where(missing[..., None], filled, image)


def inpaint_file(
    model: nnx.Module,
    image: str | os.PathLike,
    mask: str | os.PathLike,
    out: str | os.PathLike,
    *,
    multiple: int = 8,
) -> None:
    """Fill in an image file where a mask file is not black, and write the result to ``out``.

    Grey images stay grey and an alpha channel is kept as it is. Known pixels are unchanged if
    ``out`` is of a lossless format (PNG).

    Raises:
      ValueError: a file is no image, has 16 bits a channel, or the sizes differ.
    """
    from PIL import Image

    picture, hole = read_image(image), read_image(mask)
    if hole.mode == "RGBA" and hole.getextrema()[3] != (255, 255):
        raise ValueError(f"mask {str(mask)!r} is transparent in parts; expected black and white")
    if hole.size != picture.size:
        raise ValueError(
            f"mask {str(mask)!r} is {hole.size[0]}x{hole.size[1]}; the image is "
            f"{picture.size[0]}x{picture.size[1]}"
        )
    pixels = np.asarray(picture)
    colour = pixels[..., :3] if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, -1)
    missing = np.asarray(hole.convert("L")) != 0
    filled = inpaint(model, colour, missing, multiple=multiple)
    if pixels.ndim == 2:
        filled = np.rint(filled.astype(np.float32).mean(-1)).astype(np.uint8)
    elif pixels.shape[-1] == 4:
        filled = np.concatenate([filled, pixels[..., 3:]], -1)
    Image.fromarray(filled).save(out)


def inpaint_folder(
    model: nnx.Module,
    images: str | os.PathLike,
    masks: str | os.PathLike,
    out: str | os.PathLike,
    *,
    multiple: int = 8,
) -> Iterator[pathlib.Path]:
    """Fill in every image of a folder with the mask of the same stem, writing PNG files to ``out``.

    Yields the path of each result. Nothing is written if an image has no mask or a mask no image.
    """
    pictures, holes = _files(images), _files(masks)
    alone = [
        str(found[stem])
        for found, other in ((pictures, holes), (holes, pictures))
        for stem in sorted(found.keys() - other.keys())
    ]
    if alone or not pictures:
        found = f"files without a partner: {', '.join(alone)}" if alone else "no images"
        raise ValueError(f"{str(images)!r} and {str(masks)!r}: {found}")
    directory = pathlib.Path(out)
    directory.mkdir(parents=True, exist_ok=True)
    for stem in sorted(pictures):
        path = directory / f"{stem}.png"
        inpaint_file(model, pictures[stem], holes[stem], path, multiple=multiple)
        yield path


def read_image(path: str | os.PathLike):
    """Read an image of 8 bits a channel: a PIL image of mode L, RGB or RGBA, turned upright."""
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise ImportError("reading image files needs Pillow: pip install pillow") from error
    path = pathlib.Path(path)
    with path.open("rb") as file:
        head = file.read(26)
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            image.load()
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{str(path)!r} is not a readable image: {error}") from error
    # Pillow drops half the bits of 16-bit colour PNG files without a word.
    deep_png = head.startswith(b"\x89PNG") and struct.unpack_from("B", head, 24)[0] == 16
    if deep_png or image.mode.startswith(("I", "F")):
        raise ValueError(f"{str(path)!r} has more than 8 bits a channel; convert it to 8 first")
    if image.mode in ("L", "RGB", "RGBA"):
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("P", "LA", "PA"):
        transparent = "A" in image.mode or "transparency" in image.info
        return image.convert("RGBA" if transparent else "RGB")
    raise ValueError(f"{str(path)!r} has colour mode {image.mode}; expected grey, RGB or RGBA")


def _files(folder) -> dict[str, pathlib.Path]:
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is not a folder")
    found: dict[str, pathlib.Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            if path.stem in found:
                raise ValueError(f"{str(found[path.stem])!r} and {str(path)!r} share a name")
            found[path.stem] = path
    return found


@functools.cache
def _compiled_fill():
    # Not when this is imported: which options these are asks JAX for its devices.
    return jax.jit(_fill, static_argnums=0, compiler_options=compiler_options())


def _fill(graphdef, state, image, mask):
    model = nnx.merge(graphdef, state)
    try:
        y = model(jnp.concatenate([image * (1 - mask), mask], axis=-1))
    except ValueError as error:
        raise ValueError(f"{type(model).__name__} is no inpainting generator: {error}") from error
    if not hasattr(y, "shape") or y.shape != image.shape:
        raise ValueError(f"{type(model).__name__} is no inpainting generator")
    return y.astype(jnp.float32)
