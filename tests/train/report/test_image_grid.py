import numpy as np
from PIL import Image

from train.report.image_grid import MARGIN, SIDE, write_image_grid


def test_every_image_stands_in_its_column_enlarged(tmp_path):
    rng = np.random.default_rng(0)
    columns = {name: rng.integers(0, 255, (3, 20, 30, 3), np.uint8) for name in ("a", "b")}
    write_image_grid(columns, tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    scale = -(-SIDE // 20)
    height, width = 20 * scale, 30 * scale
    top = len(sheet) - 3 * (height + MARGIN)  # below the titles
    for i, images in enumerate(columns.values()):
        for j, image in enumerate(images):
            y, x = top + j * (height + MARGIN), MARGIN + i * (width + MARGIN)
            found = sheet[y : y + height : scale, x : x + width : scale]
            np.testing.assert_array_equal(found, image)
