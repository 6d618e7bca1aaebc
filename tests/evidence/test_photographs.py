"""The comparison on photographs: what is held out, the holes, the averages, the equal cost."""

import numpy as np
import pytest
from PIL import Image

from evidence import photograph_data, photographs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the folder written from small photographs, each of a brightness of its own."""
    brightness = {
        photograph.name: 20 * i for i, photograph in enumerate(photograph_data.PHOTOGRAPHS)
    }
    read = lambda self: np.full((150, 200), brightness[self.name], np.uint8)
    monkeypatch.setattr(photograph_data.Photograph, "read", read)
    monkeypatch.setattr(photograph_data, "recoloured", lambda image, rng: image)
    photograph_data.write(tmp_path)
    return tmp_path


def test_no_pixel_of_a_held_out_photograph_is_trained_on(folder):
    values = {
        split: {v for path in (folder / split).iterdir() for v in np.unique(Image.open(path))}
        for split in ("train", "test")
    }
    assert len(values["test"]) == len(photograph_data.HELD_OUT) == 4
    assert len(values["train"]) == len(photograph_data.PHOTOGRAPHS) - 4
    assert not values["train"] & values["test"]


@pytest.mark.parametrize("height, width", [(128, 128), (150, 200), (256, 513)])
def test_tiles_cover_an_image_and_stay_inside(height, width):
    seen = np.zeros((height, width), bool)
    for top, left in photograph_data.corners(height, width):
        tile = seen[top : top + photograph_data.TILE, left : left + photograph_data.TILE]
        assert tile.shape == (photograph_data.TILE,) * 2
        tile[:] = True
    assert seen.all()


def test_other_colours_keep_grey_grey_and_lose_no_structure():
    rng = np.random.default_rng(0)
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    image = Image.fromarray(np.stack([[steps] * 3] * 2).transpose(0, 2, 1))
    made = [np.asarray(photograph_data.recoloured(image, rng)) for _ in range(8)]
    assert all((pixels == pixels[..., :1]).all() for pixels in made)
    signs = {tuple(np.unique(np.sign(np.diff(pixels[0, :, 0].astype(int))))) for pixels in made}
    assert signs == {(1,), (-1,)}  # rising, or falling in a negative


def test_every_photograph_gets_the_same_number_of_holes_of_each_width(folder):
    found = photographs.cases(folder / "test")
    kinds = [(name, kind) for name in photograph_data.HELD_OUT for kind in photographs.HOLES]
    assert [(case.photograph, case.holes) for case in found[:: photographs.DRAWS]] == kinds
    assert len(found) == len(kinds) * photographs.DRAWS
    again = photographs.cases(folder / "test")
    assert all((a.hole == b.hole).all() for a, b in zip(found, again, strict=True))
    assert len({case.hole.tobytes() for case in found}) == len(found)


def test_inside_the_hole_known_pixels_do_not_count():
    hole = np.zeros((8, 8), bool)
    hole[:4, :4] = True  # a quarter
    error = np.where(hole[..., None], 0.1, 0.0) * np.ones(3)
    similarity = np.where(hole[..., None], 0.5, 1.0) * np.ones(3)
    found = photographs.averages(error, similarity, hole)
    expected = {"psnr in": 20, "ssim in": 0.5, "l1 in": 0.1}
    expected |= {"psnr": 20 + 10 * np.log10(4), "ssim": 0.875, "l1": 0.025}
    assert found == pytest.approx(expected)


def test_the_generators_cost_the_same():
    costs = [photographs.cost(changes) for changes in photographs.GENERATORS.values()]
    photographs.check_equal(costs)
    with pytest.raises(ValueError, match="5 % apart"):
        photographs.check_equal([costs[0], costs[0] + costs[1]])


def test_the_table_has_the_deviation_of_the_seeds_not_of_the_photographs():
    rows = [
        {"method": "a", "seed": seed, "holes": "thin", "psnr": seed + offset}
        for seed in (1, 2, 3)
        for offset in (-5, 5)
    ]
    rows.append({"method": "b", "seed": None, "holes": "thin", "psnr": 4.0})
    lines = photographs.table(rows, "holes", ("psnr",)).splitlines()
    assert lines[2:] == ["| thin | a | 2.00 ± 1.00 |", "| thin | b | 4.00 |"]
