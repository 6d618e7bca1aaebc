# SPDX-License-Identifier: Apache-2.0
"""Freely licensed photographs that Python packages carry, as folders to train and to test on.

None is downloaded. Every third in the order of names is held out whole, from the second on.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 256
"""Short side of the test photographs, of which the middle square is kept."""
SIDES, TILE, STRIDE = (256, 384), 128, 96
"""Short sides of the training photographs, the tiles they are cut into and their distance."""


def _skimage(name: str) -> np.ndarray:
    from skimage import data

    return getattr(data, name)()


def _sklearn(name: str) -> np.ndarray:
    from sklearn.datasets import load_sample_image

    return load_sample_image(f"{name}.jpg")


def _matplotlib(name: str) -> np.ndarray:
    from matplotlib.cbook import get_sample_data

    with Image.open(get_sample_data(f"{name}.jpg")) as image:
        return np.asarray(image)


@dataclasses.dataclass(frozen=True)
class Photograph:
    """A photograph, the function that reads it by name, who took it and its licence."""

    name: str
    function: Callable[[str], np.ndarray]
    source: str
    licence: str

    def read(self) -> np.ndarray:
        """Return the pixels, ``uint8 [H, W]`` or ``[H, W, 3]``."""
        return self.function(self.name)


PHOTOGRAPHS = (
    Photograph("astronaut", _skimage, "NASA", "public domain"),
    Photograph("brick", _skimage, "CC0Textures, Bricks25", "CC0"),
    Photograph("camera", _skimage, "Lav Varshney", "CC0"),
    Photograph("chelsea", _skimage, "Stefan van der Walt", "CC0"),
    Photograph("china", _sklearn, "danielbuechele, Flickr", "CC BY 2.0"),
    Photograph("coffee", _skimage, "Rachel Michetti", "CC0"),
    Photograph("coins", _skimage, "Brooklyn Museum", "no known copyright restrictions"),
    Photograph("flower", _sklearn, "vultilion, Flickr", "CC BY 2.0"),
    Photograph("grace_hopper", _matplotlib, "United States Navy", "public domain"),
    Photograph("grass", _skimage, "linolafett, DeviantArt", "CC0"),
    Photograph("gravel", _skimage, "CC0Textures, Gravel04", "CC0"),
    Photograph("rocket", _skimage, "SpaceX", "public domain"),
)
HELD_OUT = tuple(photograph.name for photograph in PHOTOGRAPHS[1::3])


def write(folder: Path) -> None:
    """Write ``train/``, tiles of photographs in two sizes, and ``test/``, a square of each other.

    Grey photographs become RGB. Each tile is there a second time in other colours: so few
    photographs have few colours, and a network would fill every hole with these.
    """
    rng = np.random.default_rng(0)
    for photograph in PHOTOGRAPHS:
        pixels = photograph.read()
        if photograph.name in HELD_OUT:
            _save(middle(resized(pixels, SIDE)), folder / "test" / f"{photograph.name}.png")
            continue
        for side in SIDES:
            image = resized(pixels, min(side, *pixels.shape[:2]))
            for top, left in corners(image.height, image.width):
                tile = image.crop((left, top, left + TILE, top + TILE))
                path = folder / "train" / f"{photograph.name}_{side}_{top}_{left}.png"
                _save(tile, path)
                _save(recoloured(tile, rng), path.with_stem(f"{path.stem}_recoloured"))


def resized(pixels: np.ndarray, side: int) -> Image.Image:
    """Return the RGB image whose short side is ``side``."""
    image = Image.fromarray(pixels).convert("RGB")
    scale = side / min(image.size)
    return image.resize([round(n * scale) for n in image.size], Image.Resampling.LANCZOS)


def recoloured(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return an image with its channels in any order, other contrasts, half of all as negatives."""
    pixels = np.asarray(image)[..., rng.permutation(3)] / 255
    pixels = pixels ** np.exp(rng.uniform(-0.7, 0.7))
    if rng.random() < 0.5:
        pixels = 1 - pixels
    return Image.fromarray(np.rint(pixels * 255).astype(np.uint8))


def middle(image: Image.Image) -> Image.Image:
    """Return the largest square in the middle."""
    side = min(image.size)
    left, top = ((n - side) // 2 for n in image.size)
    return image.crop((left, top, left + side, top + side))


def corners(height: int, width: int) -> list[tuple[int, int]]:
    """Return top and left of tiles that cover an image and are ``STRIDE`` apart at most."""
    tops, lefts = (
        np.linspace(0, n - TILE, -(-(n - TILE) // STRIDE) + 1).astype(int) for n in (height, width)
    )
    return [(int(top), int(left)) for top in tops for left in lefts]


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
