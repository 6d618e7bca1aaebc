"""Images inpainted whole, by rows over devices and in crops: plans, seams, what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import spectral_flax as sf
from spectral_flax.inference import refinement
from spectral_flax.inference.generator import Generator
from spectral_flax.inference.holes import Holes
from spectral_flax.inference.inpainting_plan import make_plan
from spectral_flax.layers.modes import evaluation_mode


class Mean(nnx.Module):
    """A generator that sees 16 pixels far: the mean of what is known there."""

    def __call__(self, x):
        known = jnp.concatenate([x[..., :3], 1 - x[..., 3:]], -1)
        for window in ((1, 33, 1, 1), (1, 1, 33, 1)):
            known = lax.reduce_window(known, 0.0, lax.add, window, (1,) * 4, "SAME")
        return known[..., :3] / jnp.maximum(known[..., 3:], 1)


class Linear:
    """A stand-in for a generator that takes a KiB for a pixel."""

    def memory(self, shape, devices=1):
        return 1024 * np.prod(shape) // devices

    def refinement_memory(self, size):
        return 4 * self.memory((1, *size))


def holes(size=(1000, 1000)):
    """Three holes: two near each other, one far from them."""
    missing = np.zeros(size, bool)
    missing[40:60, 40:70] = missing[80:90, 50:65] = missing[-50:-20, -70:-5] = True
    return missing


SIZE = (256, 1400)
LONG = slice(100, 130), slice(300, 900)


def near_holes():
    """A hole near a long one, which the border of its crop cuts across."""
    missing = np.zeros(SIZE, bool)
    missing[40:60, 100:120] = missing[LONG] = True
    return missing


@functools.cache
def picture():
    """A smooth image, and its holes filled in each mode; crops have 1100 columns at most."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    waves = np.stack([np.sin(rows / 90), np.cos(columns / 70), np.sin((rows + columns) / 80)], -1)
    image = np.rint(127 + 120 * waves).astype(np.uint8)
    fill = functools.partial(sf.inpaint, Mean(), image, near_holes())
    filled = {mode: fill(mode=mode) for mode in ("whole", "rows")}
    most = Generator(Mean()).memory((1, 256, 1100))
    return image, filled | dict(crops=fill(mode="crops", max_memory=most))


def crops_of(missing, fits=lambda size: True):
    found = Holes(missing)
    return found, found.crops(fits)


@pytest.mark.parametrize("mode", ["whole", "rows", "crops"])
def test_known_pixels_are_kept_and_unknown_ones_filled_in_every_mode(mode):
    image, filled = picture()
    missing = near_holes()
    np.testing.assert_array_equal(filled[mode][~missing], image[~missing])
    error = np.abs(filled[mode][missing].astype(int) - image[missing])
    assert error.max() < 60 and error.mean() < 15  # what was there is not seen, yet near


@pytest.mark.parametrize("mode", ["rows", "crops"])
def test_a_network_that_sees_no_farther_than_the_context_fills_in_the_same(mode):
    _, filled = picture()
    difference = np.abs(filled[mode].astype(int) - filled["whole"])
    assert difference.max() <= 1  # of 255, where sums are rounded otherwise


def test_crops_leave_no_border():
    edge = crops_of(near_holes(), lambda size: size[1] <= 1100)[1][0]
    assert edge.box == (0, 0, 256, 512)
    steps = np.abs(np.diff(picture()[1]["crops"][LONG].astype(float), axis=1)).mean((0, 2))
    border = edge.box[3] - LONG[1].start - 1  # the step into the first column outside
    assert steps[border] < 1.2 * max(steps[border - 8], steps[border + 8])


@pytest.mark.parametrize("seed", range(2))
def test_each_hole_is_whole_in_one_crop(seed):
    rng = np.random.default_rng(seed)
    missing = np.zeros(rng.integers(200, 1500, 2), bool)
    for row, column in rng.integers(0, missing.shape, (12, 2)):
        missing[row : row + rng.integers(1, 60), column : column + rng.integers(1, 60)] = True
    found, crops = crops_of(missing)
    times = np.zeros(missing.shape, int)
    for crop in crops:
        times[crop.window] += found.inside(crop)
    assert set(np.unique(times[missing])) == {1}
    for crop in crops:
        assert found.inside(crop).shape == crop.shape
        assert min(crop.box) >= 0 and all(np.array(crop.box[2:]) <= missing.shape)


def test_holes_far_apart_have_crops_of_their_own_and_near_ones_share():
    missing = holes((3000, 2000))
    assert [crop.holes for crop in crops_of(missing)[1]] == [(1, 2), (3,)]
    assert [crop.box for crop in crops_of(missing)[1]] == [
        (0, 0, 512, 512),
        (2488, 1488, 3000, 2000),
    ]


def test_a_hole_has_a_quarter_of_its_side_around_it_and_less_where_memory_is_short():
    missing = np.zeros((3000, 3000), bool)
    missing[1000:2000, 1000:2000] = True
    assert crops_of(missing)[1][0].shape == (1536, 1536)
    assert crops_of(missing, lambda size: size[0] <= 1200)[1][0].shape == (1152, 1152)
    with pytest.raises(ValueError, match=r"1000 x 1000 pixels at row 1000, column 1000 .* 1152"):
        crops_of(missing, lambda size: size[0] <= 1100)


@pytest.mark.parametrize(
    ("limit", "devices", "mode"),
    [
        (None, 1, "whole"),
        (2**30, 8, "whole"),
        (2**29, 1, "crops"),
        (2**29, 8, "crops"),  # eight devices that are one processor have no more memory
        (2**28, 1, "crops"),
    ],
)
def test_the_first_mode_that_fits_is_chosen(limit, devices, mode):
    missing = holes()
    plan = make_plan(Linear(), missing, limit=limit, devices=jax.devices()[:devices])
    assert plan.mode == mode and plan.memory <= (limit or 2**30)
    assert str(plan).startswith(mode) and "1000 x 1000 pixels" in str(plan)


class Accelerator:
    platform = "gpu"


def test_several_devices_with_memory_of_their_own_share_an_image():
    plan = make_plan(Linear(), holes(), limit=2**29, devices=[Accelerator()] * 4)
    assert (plan.mode, plan.devices) == ("rows", 4)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (dict(mode="whole", limit=2**29), "whole takes about 977 MiB"),
        (dict(mode="rows", devices=[Accelerator()]), "several devices"),
        (dict(mode="rows", devices=[Accelerator()] * 200), "200 devices would share 125 rows"),
        (dict(limit=2**20), r"with 1 MiB of memory: whole takes .* 256 x 256, takes about 64 MiB"),
    ],
)
def test_what_can_not_be_is_refused_with_the_sizes(options, told):
    with pytest.raises(ValueError, match=f"1000 x 1000 pixels can not .*{told}"):
        make_plan(Linear(), holes(), **options)


def test_half_a_gigapixel_without_memory_is_refused_before_it_is_looked_at():
    missing = np.broadcast_to(np.True_, (20000, 25000))
    with pytest.raises(ValueError, match=r"20000 x 25000 pixels can not .* the least crop"):
        make_plan(Linear(), missing, limit=2**23)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (dict(mode="tiles"), "mode='tiles' is unknown; .*crops"),
        (dict(max_memory="much"), "'much' is not a size of memory such as 8GiB"),
        (dict(max_memory=0), "not a size of memory"),
        (dict(max_memory="-1GiB"), "not a size of memory"),
        (dict(max_memory="1MiB"), "8 x 9 pixels can not be inpainted with 1 MiB"),
    ],
)
def test_bad_options_are_named(options, told):
    model = sf.abstract_model("lama", blocks=0, width=64)
    with pytest.raises(ValueError, match=told):
        sf.inpaint(model, np.zeros((8, 9, 3), np.uint8), np.ones((8, 9)), **options)


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        (dict(multiple="8"), ValueError, "multiple='8'; expected a multiple of 8"),
        (dict(multiple=8.0), ValueError, "multiple=8.0; expected"),
        (dict(mask=np.full((8, 9), "a")), TypeError, "mask has dtype <U1; expected truth values"),
    ],
)
def test_arguments_of_other_types_are_named(changes, error, told):
    arguments = dict(image=np.zeros((8, 9, 3), np.uint8), mask=np.ones((8, 9))) | changes
    with pytest.raises(error, match=told):
        sf.inpaint(Mean(), **arguments)


def test_a_batch_may_hold_an_image_without_a_hole():
    image, _ = picture()
    masks = np.stack([near_holes(), np.zeros(SIZE, bool)])
    result = sf.inpaint(Mean(), np.stack([image] * 2), masks, mode="crops")
    assert not np.array_equal(result[0], image) and np.array_equal(result[1], image)


def test_the_plan_of_a_batch_is_told():
    image, _ = picture()
    told, batch = [], (np.stack([image] * 2), np.stack([near_holes()] * 2))
    sf.inpaint(Mean(), *batch, mode="whole", report=told.append)
    assert len(told) == 1 and told[0].startswith("whole: 2 images of 256 x 1400 pixels, about")


def test_a_batch_that_does_not_fit_is_done_image_by_image():
    image, filled = picture()
    images, masks = np.stack([image] * 2), np.stack([near_holes()] * 2)
    told, most = [], Generator(Mean()).memory((1, *SIZE))
    result = sf.inpaint(Mean(), images, masks, max_memory=most, report=told.append)
    assert [line.partition(":")[0] for line in told] == ["whole"] * 2
    np.testing.assert_array_equal(result, [filled["whole"]] * 2)


# Refinement


@functools.cache
def lama():
    return evaluation_mode(sf.create_model("lama", blocks=1, width=8))


@pytest.mark.parametrize(
    ("size", "finest", "scales"),
    [
        ((300, 900), 0, [0]),
        ((1024, 1024), 0, [1, 0]),
        ((2048, 3000), 0, [2, 1, 0]),
        ((9000, 9000), 0, [2, 1, 0]),
        ((2048, 2048), 1, [2, 1]),
        ((300, 300), 2, [2]),
    ],
)
def test_scales_begin_where_the_network_was_tested_and_are_three_at_most(size, finest, scales):
    assert refinement.scales_of(size, finest) == scales


def test_refinement_brings_a_result_nearer_to_the_smaller_one(monkeypatch):
    monkeypatch.setattr(refinement, "SIDE", 32)
    monkeypatch.setattr(refinement, "RATE", 0.1)  # the network is not trained
    image, missing = np.random.default_rng(0).random((64, 64, 3), np.float32), np.zeros((64, 64))
    missing[4:60, 4:60] = 1
    missing = missing > 0
    smaller = [np.asarray(refinement.halved(image)), refinement.touched(missing)]
    coarse = refinement.refined(lama(), *smaller)
    inside = slice(10, 22), slice(10, 22)  # more than half the erosion from the border of the hole
    differences = []
    for iterations in (1, 15):
        monkeypatch.setattr(refinement, "ITERATIONS", iterations)
        result = refinement.halved(refinement.refined(lama(), image, missing))
        differences.append(np.abs(result - coarse)[inside].mean())
    assert differences[1] < 0.9 * differences[0]


def test_a_refined_image_keeps_known_pixels_and_is_enlarged_where_memory_is_short():
    image = np.random.default_rng(0).integers(0, 256, (72, 100, 3), np.uint8)
    missing = np.zeros((72, 100), bool)
    missing[20:60, 30:70] = True
    generator, told = Generator(lama()), []
    most = generator.refinement_memory((36, 50))
    filled = sf.inpaint(lama(), image, missing, mode="refine", max_memory=most, report=told.append)
    assert "1/2 of the size" in told[0]
    np.testing.assert_array_equal(filled[~missing], image[~missing])
    assert (filled[missing] != image[missing]).mean() > 0.9


def test_only_a_lama_is_refined():
    with pytest.raises(ValueError, match="Mean is no LaMa"):
        make_plan(Generator(Mean()), holes(), mode="refine")
