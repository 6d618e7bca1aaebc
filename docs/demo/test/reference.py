# SPDX-License-Identifier: Apache-2.0
"""Write what the library fills in itself, with which the test of the page compares the browser.

An image of odd size, smaller than the network's squares, and a mask, into ``reference/``.
Run: python docs/demo/test/reference.py WEIGHTS    (of which docs/demo/lama.onnx was made)
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import spectral_flax as sf

HERE = Path(__file__).parent
SQUARE = 256  # side of the exported network's squares
HEIGHT, WIDTH = 163, 201
TOP, LEFT = 60, 40


def mask() -> np.ndarray:
    """Return an ellipse and a bar at the right edge, ``bool [HEIGHT, WIDTH]``."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    ellipse = ((x - 80) / 40) ** 2 + ((y - 70) / 20) ** 2 < 1
    return ellipse | ((x > 180) & (y > 100) & (y < 120))


def main() -> None:
    """Write image, mask and filled image."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", help="a run, or a file that `sf.save` wrote")
    model = sf.load(parser.parse_args().weights)
    with Image.open(HERE.parent / "example.jpg") as file:
        image = np.asarray(file.convert("RGB"))
    image = image[TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH]
    filled = sf.inpaint(model, image, mask(), multiple=SQUARE)
    (HERE / "reference").mkdir(exist_ok=True)
    for name, pixels in (("image", image), ("mask", np.uint8(mask()) * 255), ("filled", filled)):
        Image.fromarray(pixels).save(HERE / f"reference/{name}.png", optimize=True)


if __name__ == "__main__":
    main()
