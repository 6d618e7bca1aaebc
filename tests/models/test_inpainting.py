import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from collectives import copied, count, split
from flax import nnx
from parity_checks import check_parity
from PIL import Image

import spectral_flax as sf
from spectral_flax.checkpoints.load import CheckpointError, load_torch, save_torch
from spectral_flax.inference.inpainting import inpaint, inpaint_file, inpaint_folder
from spectral_flax.models.inpainting import PatchDiscriminator

SMALL = dict(blocks=1, width=8, ratio=0.75)


@functools.cache
def small(**options):
    model = sf.create_model("lama", **SMALL | options)
    model.eval()
    return model


def parameters(model) -> int:
    return sum(math.prod(v.shape) for v in jax.tree.leaves(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize(
    ("case", "activation"),
    [
        pytest.param("lama_9_blocks", "sigmoid", marks=pytest.mark.full),
        ("lama_9_blocks_odd", None),
    ],
)
def test_the_generator_computes_what_was_published(case, activation):
    build = functools.partial(sf.abstract_model, "lama", output_activation=activation)
    check_parity(case, build)


def test_generators_and_discriminator_have_the_published_numbers_of_parameters():
    assert parameters(sf.abstract_model("lama")) == 27_048_835
    assert parameters(sf.abstract_model("lama_big")) == 50_975_875
    discriminator = nnx.eval_shape(lambda: PatchDiscriminator(rngs=nnx.Rngs(0)))
    assert parameters(discriminator) == 6_962_369


def test_a_training_file_gives_the_generator_and_reports_the_rest():
    state = save_torch(small())
    discriminator = {f"discriminator.{k}": v for k, v in save_torch(_discriminator()).items()}
    extra = {"loss_resnet_pl.impl.conv1.weight": np.zeros((2, 2), np.float32)}
    file = {f"generator.{k}": v for k, v in state.items()} | discriminator | extra
    model = sf.create_model("lama", **SMALL, rngs=nnx.Rngs(1))
    report = load_torch(model, file)
    assert set(report.ignored) == {
        name for name in discriminator | extra if not name.endswith("num_batches_tracked")
    }
    for name, value in save_torch(model).items():
        np.testing.assert_array_equal(value, state[name])
    again = _discriminator(seed=1)
    load_torch(again, file)
    ours = save_torch(again)
    assert all(np.array_equal(ours[k.partition(".")[2]], v) for k, v in discriminator.items())


def test_published_names_of_the_discriminator():
    names = save_torch(_discriminator()).keys()
    assert {"model0.0.weight", "model1.1.running_var", "model5.0.bias"} <= names


def test_a_checkpoint_of_another_number_of_blocks_is_refused_and_changes_nothing():
    model = sf.create_model("lama", **SMALL | dict(blocks=2))
    before = jax.tree.map(np.array, nnx.state(model))
    with pytest.raises(CheckpointError, match=r"model\.6"):
        load_torch(model, save_torch(small()))
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(model))


def test_a_generator_file_does_not_fit_a_resnet():
    with pytest.raises(CheckpointError, match="does not fit this ResNet"):
        load_torch(sf.create_model("resnet18", width=4), save_torch(small()))


def test_ratio_0_has_no_spectral_transform():
    model = sf.abstract_model("lama", **SMALL | dict(ratio=0))
    assert not any(
        "global_to_global" in map(str, path) for path, _ in nnx.to_flat_state(nnx.state(model))
    )


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", None])
def test_the_output_activation_is_the_last_thing_done(activation):
    x = jax.random.normal(jax.random.key(0), (1, 16, 8, 4))
    raw = jax.jit(small(output_activation=None).__call__)(x)
    expected = {"sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh, None: lambda y: y}[activation](raw)
    y = jax.jit(small(output_activation=activation).__call__)(x)
    np.testing.assert_allclose(y, expected, atol=1e-6)


def test_features_are_named_and_halve_and_double():
    maps = jax.eval_shape(small().features, jnp.zeros((1, 16, 24, 4)))
    shapes = {name: y.shape[1:] for name, y in maps.items()}
    assert shapes == {
        "stem": (16, 24, 8),
        "down1": (8, 12, 16),
        "down2": (4, 6, 32),
        "down3": (2, 3, 64),
        "blocks": (2, 3, 64),
        "up1": (4, 6, 32),
        "up2": (8, 12, 16),
        "up3": (16, 24, 8),
    }


def test_bfloat16_stays_bfloat16():
    model = small(dtype=jnp.bfloat16)
    maps = jax.eval_shape(model.features, jnp.zeros((1, 16, 16, 4)))
    assert {y.dtype for y in maps.values()} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_a_batch_over_devices_needs_no_gather(mesh, network):
    model, channels = (small(), 4) if network == "generator" else (_discriminator(), 3)
    graphdef, params, rest = nnx.split(nnx.view(model, use_running_average=False), nnx.Param, ...)
    x = split(mesh, jnp.ones((8, 32, 32, channels)))

    def loss(params, rest, x):
        return (nnx.merge(graphdef, params, rest, copy=True)(x) ** 2).sum()

    assert count(jax.grad(loss), copied(mesh, params), copied(mesh, rest), x) == 0


def test_the_discriminator_returns_every_layer():
    discriminator = nnx.view(_discriminator(), use_running_average=True)
    maps = jax.eval_shape(discriminator.features, jnp.zeros((1, 32, 32, 3)))
    assert [y.shape[1] for y in maps] == [17, 9, 5, 3, 4, 5]
    assert maps[-1].shape == (1, 5, 5, 1)


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (16, 24), (53, 42)], ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float16])
def test_any_size_comes_back_with_known_pixels_untouched(size, dtype):
    rng = np.random.default_rng(0)
    image = (rng.integers(0, 256, (*size, 3)) / (1 if dtype == np.uint8 else 255)).astype(dtype)
    mask = rng.random(size) < 0.5
    result = inpaint(small(), image, mask)
    assert result.shape == image.shape
    assert result.dtype == image.dtype
    np.testing.assert_array_equal(result[~mask], image[~mask])
    assert np.isfinite(result.astype(np.float64)).all()


def test_padding_to_larger_multiples_keeps_the_size():
    result = inpaint(small(), np.zeros((7, 9, 3), np.uint8), np.ones((7, 9)), multiple=32)
    assert result.shape == (7, 9, 3)


def test_an_empty_mask_returns_the_image():
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    result = inpaint(small(), image, np.zeros((5, 6), bool))
    np.testing.assert_array_equal(result, image)
    assert result is not image


def test_a_full_mask_does_not_depend_on_the_image():
    mask = np.ones((8, 8))
    a, b = (inpaint(small(), np.full((8, 8, 3), v, np.uint8), mask) for v in (0, 200))
    np.testing.assert_array_equal(a, b)


def test_missing_pixels_do_not_depend_on_what_the_image_holds_there():
    rng = np.random.default_rng(0)
    image, mask = rng.random((9, 16, 3), np.float32), rng.random((9, 16)) < 0.3
    other = np.where(mask[..., None], 1 - image, image)
    np.testing.assert_array_equal(inpaint(small(), image, mask), inpaint(small(), other, mask))


def test_a_batch_is_its_images_one_by_one():
    rng = np.random.default_rng(0)
    images, masks = rng.random((2, 8, 16, 3), np.float32), rng.random((2, 8, 16)) < 0.5
    together = inpaint(small(), images, masks)
    alone = [inpaint(small(), *pair) for pair in zip(images, masks, strict=True)]
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-5)


def test_the_model_stays_in_its_mode_and_keeps_its_statistics():
    model = sf.create_model("lama", **SMALL)
    before = jax.tree.map(np.array, nnx.state(model))
    inpaint(model, np.zeros((8, 8, 3), np.uint8), np.ones((8, 8)))
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(model))
    assert model.stem.norm.use_running_average is False


@pytest.mark.parametrize(
    ("image", "mask", "error", "message"),
    [
        (np.zeros((8, 8), np.uint8), np.ones((8, 8)), ValueError, r"expected \[H, W, 3\]"),
        (np.zeros((8, 8, 4), np.uint8), np.ones((8, 8)), ValueError, r"expected \[H, W, 3\]"),
        (np.zeros((0, 8, 3), np.uint8), np.ones((0, 8)), ValueError, r"expected \[H, W, 3\]"),
        (np.zeros((8, 8, 3), np.uint8), np.ones((8, 9)), ValueError, r"expected \(8, 8\)"),
        (np.zeros((8, 8, 3), np.uint16), np.ones((8, 8)), TypeError, "uint16"),
        (np.full((8, 8, 3), 2.0), np.ones((8, 8)), ValueError, r"outside \[0, 1\]"),
        (np.full((8, 8, 3), np.nan), np.ones((8, 8)), ValueError, r"outside \[0, 1\]"),
    ],
)
def test_bad_images_and_masks_are_named(image, mask, error, message):
    with pytest.raises(error, match=message):
        inpaint(small(), image, mask)


def test_a_model_that_is_no_generator_is_refused():
    with pytest.raises(ValueError, match="ResNet is no inpainting generator"):
        model = sf.create_model("resnet18", width=4, in_features=4)
        inpaint(model, np.zeros((8, 8, 3), np.uint8), np.ones((8, 8)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(output_activation="relu"), "output_activation='relu'"),
        (dict(blocks=-1), "blocks=-1"),
        (dict(ratio=1.5), "ratio"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        sf.create_model("lama", **SMALL | options)


@pytest.mark.parametrize("shape", [(1, 12, 8, 4), (1, 8, 8, 3), (8, 8, 4), (1, 0, 8, 4)], ids=str)
def test_maps_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match="multiples of 8"):
        small()(jnp.zeros(shape))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_files_of_all_colour_modes(tmp_path, mode):
    rng = np.random.default_rng(0)
    channels = 4 if mode == "RGBA" else 3
    picture = Image.fromarray(rng.integers(0, 256, (9, 7, channels), np.uint8)).convert(mode)
    picture.save(tmp_path / "image.png")
    hole = np.zeros((9, 7), np.uint8)
    hole[2:5, 1:4] = 3  # anything but black
    Image.fromarray(hole).save(tmp_path / "mask.png")
    inpaint_file(small(), tmp_path / "image.png", tmp_path / "mask.png", tmp_path / "out.png")
    result = Image.open(tmp_path / "out.png")
    assert result.size == picture.size
    before = picture.convert(result.mode)
    assert result.mode == ("RGB" if mode == "P" else mode)
    np.testing.assert_array_equal(np.asarray(result)[hole == 0], np.asarray(before)[hole == 0])
    if mode == "RGBA":
        np.testing.assert_array_equal(np.asarray(result)[..., 3], np.asarray(before)[..., 3])


def test_files_that_do_not_fit_are_named(tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(tmp_path / "wide.png")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(8, 8, 4)).save(tmp_path / "clear.png")
    (tmp_path / "text.png").write_text("no image")
    out = tmp_path / "out.png"
    for mask, message in (
        ("wide.png", "9x8"),
        ("deep.png", "more than 8 bits"),
        ("text.png", "can not be read as a mask"),
        ("clear.png", "transparent"),
    ):
        with pytest.raises(ValueError, match=message):
            inpaint_file(small(), tmp_path / "image.png", tmp_path / mask, out)
    assert not out.exists()


def test_a_folder_is_filled_in_or_the_lonely_files_are_named(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for stem in ("a", "b"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "images" / f"{stem}.png")
        Image.fromarray(np.full((8, 8), 255, np.uint8)).save(tmp_path / "masks" / f"{stem}.png")
    folders = tmp_path / "images", tmp_path / "masks", tmp_path / "out"
    assert [path.name for path in inpaint_folder(small(), *folders)] == ["a.png", "b.png"]
    (tmp_path / "masks" / "a.png").unlink()
    with pytest.raises(ValueError, match=r"without a partner: .*a\.png"):
        list(inpaint_folder(small(), *folders))


@functools.cache
def _discriminator(seed: int = 0):
    return PatchDiscriminator(width=8, layers=4, rngs=nnx.Rngs(seed))
