import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from train.config import Config, Data, Optimizer
from train.data import open_source
from train.errors import UserError
from train.inpainting import losses
from train.inpainting.masks import EVALUATION, Boxes, Mixed, Strokes, scaled
from train.optimizers import clip_parts, scale_parts
from train.state import make_model
from train.tasks import make_task

CONFIG = Config(
    task="inpainting",
    model="lama",
    options=dict(blocks=1, width=8),
    task_options=dict(discriminator_width=8, discriminator_layers=1),
    data=Data(name="textures", size=(16, 16)),
)


def parts(**task_options):
    config = dataclasses.replace(CONFIG, task_options=CONFIG.task_options | task_options)
    source = open_source("textures", "train", config.data)
    task = make_task(config, source)
    batch = {k: np.stack([source[i][k] for i in range(2)]) for k in ("image", "mask")}
    return task, make_model(config, task), batch


def gradients(task, model, batch):
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params):
        return task.loss(nnx.merge(graphdef, params, rest, copy=True), batch, jax.random.key(0))[0]

    return jax.jit(jax.grad(loss))(params)


def largest(tree) -> float:
    return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


def test_each_adversary_learns_from_its_own_losses_only():
    plain = gradients(*parts(adversarial=0.0, feature_matching=0.0))
    assert largest(plain["discriminator"]) == 0
    no_loss = dict(l1_known=0.0, adversarial=1e-30, feature_matching=0.0)
    judge_only = gradients(*parts(**no_loss))
    assert largest(judge_only["discriminator"]) > 0
    assert largest(judge_only["generator"]) < 1e-20
    # More weight on what moves the generator leaves the discriminator where it was.
    a, b = (gradients(*parts(adversarial=w))["discriminator"] for w in (1.0, 50.0))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a, b)


def test_the_discriminator_sees_the_known_part_of_an_image_as_real():
    real, fake = jax.random.normal(jax.random.key(0), (2, 2, 3, 3, 1))
    known, missing = jnp.zeros((2, 12, 12, 1)), jnp.ones((2, 12, 12, 1))
    softplus = jax.nn.softplus
    as_real = softplus(-real).mean() + softplus(-fake).mean()
    as_fake = softplus(-real).mean() + softplus(fake).mean()
    np.testing.assert_allclose(losses.discriminator_loss(real, fake, known), as_real, rtol=1e-6)
    np.testing.assert_allclose(losses.discriminator_loss(real, fake, missing), as_fake, rtol=1e-6)


def test_losses_vanish_where_nothing_differs():
    x = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))
    mask = jnp.ones((2, 16, 16, 1))
    assert losses.masked_l1(x, x + 1, mask) == 0  # the missing part has no weight
    np.testing.assert_allclose(losses.masked_l1(x, x + 1, 0 * mask), 10, rtol=1e-6)
    assert losses.perceptual([x, x], [x, x]) == 0
    np.testing.assert_allclose(losses.feature_matching([x, x], [x + 1, x]), 0.5, rtol=1e-6)
    np.testing.assert_allclose(losses.ssim(x, x), 1, atol=1e-4)
    np.testing.assert_allclose(losses.psnr(x, x), 100)


def test_psnr_and_ssim_are_those_of_the_definition():
    a, b = np.random.default_rng(0).random((2, 1, 13, 12, 1))
    bell = np.exp(-((np.arange(11) - 5.0) ** 2) / 4.5)
    window = np.outer(bell, bell) / bell.sum() ** 2
    values = []
    for i, j in np.ndindex(3, 2):
        p, q = (v[0, i : i + 11, j : j + 11, 0] for v in (a, b))
        mp, mq = (window * p).sum(), (window * q).sum()
        vp, vq = (window * p * p).sum() - mp**2, (window * q * q).sum() - mq**2
        cov = (window * p * q).sum() - mp * mq
        top = (2 * mp * mq + 1e-4) * (2 * cov + 9e-4)
        values.append(top / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    np.testing.assert_allclose(
        losses.ssim(jnp.float32(a), jnp.float32(b)), np.mean(values), atol=1e-4
    )
    expected = -10 * np.log10(np.mean((a - b) ** 2))
    np.testing.assert_allclose(losses.psnr(jnp.float32(a), jnp.float32(b)), expected, rtol=1e-5)


def test_a_perfect_generator_has_perfect_figures():
    task, _, batch = parts()
    image = batch["image"].astype(np.float32) / 255

    class Perfect:
        generator = staticmethod(lambda x: jnp.asarray(image))

    sums = task.metrics(Perfect(), batch | {"valid": jnp.ones(2)})
    figures = task.summary(jax.device_get(sums))
    assert figures["psnr"] == pytest.approx(100)
    assert figures["ssim"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("kind", [Strokes(), Boxes(), Mixed(), *EVALUATION.values()])
def test_holes_are_as_large_as_they_may_be(kind):
    rng = np.random.default_rng(0)
    for _ in range(3):
        mask = kind(256, 256, rng)
        assert mask.shape == (256, 256)
        assert mask.dtype == bool
        assert 0 < mask.mean() <= getattr(kind, "max_area", 1)


def test_boxes_keep_their_distance_and_size():
    mask = Boxes(max_times=1)(256, 256, np.random.default_rng(0))
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert mask[np.ix_(rows, columns)].all()
    for side in (rows, columns):
        assert 30 <= len(side) <= 150
        assert side[0] >= 10
        assert side[-1] < 246
    with pytest.raises(ValueError, match="do not fit into 40x40"):
        Boxes()(40, 40, np.random.default_rng(0))


def test_holes_scale_with_the_image():
    assert scaled(256) == Mixed()
    assert scaled(64)(64, 64, np.random.default_rng(0)).shape == (64, 64)


def test_photographs_are_cropped_and_enlarged(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split / "deeper").mkdir(parents=True)
        for name, size in (("a.png", (40, 50)), ("deeper/b.png", (9, 30))):
            pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / split / name)
    data = Data(name="image_folder", path=str(tmp_path), size=(16, 24))
    train, test = (open_source(data.name, split, data) for split in ("train", "test"))
    for i in range(2):
        example = train.augment(train[i], np.random.default_rng(i))
        for each in (example, test[i]):
            assert each["image"].shape == (16, 24, 3)
            assert each["mask"].shape == (16, 24)
    np.testing.assert_array_equal(test[0]["mask"], test[0]["mask"])


def test_parts_of_a_model_have_their_own_rate_and_clipping():
    gradient = {"generator.a": jnp.array([3.0, 4.0]), "discriminator.b": jnp.array([0.3])}
    clip = clip_parts(1.0, ("discriminator",))
    clipped = clip.update(gradient, clip.init(gradient))[0]
    np.testing.assert_allclose(clipped["generator.a"], [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(clipped["discriminator.b"], [0.3])
    scale = scale_parts({"discriminator": 0.1})
    moved = scale.update(gradient, scale.init(gradient))[0]
    np.testing.assert_allclose(moved["discriminator.b"], [0.03], rtol=1e-6)
    np.testing.assert_array_equal(moved["generator.a"], gradient["generator.a"])
    with pytest.raises(UserError, match="critic"):
        scale_parts({"critic": 0.1}).update(gradient, scale.init(gradient))


def test_a_perceptual_loss_needs_an_encoder():
    with pytest.raises(UserError, match="encoder"):
        parts(perceptual=30.0)


def test_factors_are_part_of_the_optimiser():
    assert Optimizer(factors={"discriminator": 0.1}).factors["discriminator"] == 0.1
