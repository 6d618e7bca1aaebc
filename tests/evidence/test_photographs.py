"""The comparison on photographs: what is held out, the holes, the averages, the equal cost."""

import numpy as np
import pytest
from PIL import Image

from evidence import photograph_data, photographs


def test_no_column_that_is_tested_on_is_trained_on():
    columns = np.broadcast_to(np.arange(201, dtype=np.uint8), (128, 201))
    left, right = map(np.unique, photograph_data.halves(Image.fromarray(columns)))
    assert sorted([*left, *right]) == list(range(201))


@pytest.mark.parametrize("height, width", [(128, 128), (150, 200), (256, 513)])
def test_tiles_cover_an_image_and_stay_inside(height, width):
    seen = np.zeros((height, width), bool)
    for top, left in photograph_data.corners(height, width):
        tile = seen[top : top + photograph_data.TILE, left : left + photograph_data.TILE]
        assert tile.shape == (photograph_data.TILE,) * 2
        tile[:] = True
    assert seen.all()


def test_the_same_holes_of_each_width_each_time(tmp_path):
    path = tmp_path / "wall.png"
    Image.new("RGB", (128, 256)).save(path)
    found = photographs.cases(path)
    kinds = [("wall", kind) for kind in photographs.HOLES]
    assert [(case.photograph, case.holes) for case in found[:: photographs.DRAWS]] == kinds
    assert len(found) == len(kinds) * photographs.DRAWS
    again = photographs.cases(path)
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
        {"method": "a", "seed": seed, "photograph": "wall", "holes": "thin", "psnr": seed + offset}
        for seed in (1, 2, 3)
        for offset in (-5, 5)
    ]
    rows.append(rows[0] | {"method": "b", "seed": None, "psnr": 4.0})
    lines = photographs.table(rows, ("psnr",)).splitlines()
    assert lines[2:] == ["| wall | thin | a | 2.00 ± 1.00 |", "| wall | thin | b | 4.00 |"]
