import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from own_models import entry
from PIL import Image

from spectral_flax.models.registry import MODELS
from train.checkpoints.state import make_model, make_state, split
from train.command.line import parse
from train.config import Config, Data, Mesh, Optimizer
from train.errors import UserError
from train.run.mesh import make_mesh, shard_batch, state_sharding
from train.run.optimizers import clip_parts, make_optimizer, scale_parts
from train.run.record import Run
from train.run.step import make_train_step
from train.tasks import make_task, open_data
from train.tasks.inpainting import distortions, losses
from train.tasks.inpainting.data import open_split
from train.tasks.inpainting.masks import EVALUATION, Boxes, Mixed, Strokes, _draw_line, scaled
from train.tasks.inpainting.options import Options


class Generator(nnx.Module):
    """Two convolutions around a batch normalisation: what the task needs to know of LaMa."""

    def __init__(self, *, rngs):
        self.first = nnx.Conv(4, 6, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(6, momentum=0.9, rngs=rngs)
        self.last = nnx.Conv(6, 3, (3, 3), rngs=rngs)

    def __call__(self, x):
        return nnx.sigmoid(self.last(nnx.relu(self.norm(self.first(x)))))


CONFIG = Config(
    task="inpainting",
    model="tiny_generator",
    task_options=dict(discriminator_width=4, discriminator_layers=1),
    data=Data(name="textures", size=(16, 16)),
    mesh=Mesh(devices=1),
)


ADVERSARIAL = (
    "generator_loss",
    "feature_matching_loss",
    "discriminator_loss",
    "gradient_penalty",
)


@pytest.fixture(autouse=True)
def tiny_generator(monkeypatch):
    monkeypatch.setitem(MODELS, "tiny_generator", entry("tiny_generator", Generator))


def parts(**task_options):
    config = dataclasses.replace(CONFIG, task_options=CONFIG.task_options | task_options)
    source = open_data(config, "train")
    task = make_task(config, source)
    batch = {k: np.stack([source[i][k] for i in range(2)]) for k in ("image", "mask")}
    return task, make_model(config, task), batch


def largest(tree) -> float:
    return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


def test_a_step_moves_the_generator_and_then_its_judge_against_what_it_has_become():
    weights = dict(adversarial=10.0, feature_matching=20.0, gradient_penalty=0.001)
    task, model, batch = parts(**weights)
    image, mask = jnp.float32(batch["image"]) / 255, jnp.float32(batch["mask"][..., None])
    given = jnp.concatenate([image * (1 - mask), mask], -1)
    graphs, params, rests = zip(
        *(nnx.split(m, nnx.Param, ...) for m in (model.generator, model.discriminator)), strict=True
    )
    painter, judge = (
        lambda p, g=graphdef, r=rest: nnx.merge(g, p, r, copy=True)
        for graphdef, rest in zip(graphs, rests, strict=True)
    )

    def painting(theirs, phi):
        fake = painter(theirs)(given)
        maps, real = judge(phi).features(fake), judge(phi).features(image)
        fooling = losses.generator_loss(maps[-1])
        matching = losses.feature_matching(maps[:-1], real[:-1])
        return losses.masked_l1(fake, image, mask) + 10 * fooling + 20 * matching

    def judging(phi, theirs):
        slope = jax.grad(lambda image: judge(phi)(image).sum())(image)
        logits = judge(phi)(image), judge(phi)(painter(theirs)(given))
        return losses.discriminator_loss(*logits, mask) + 0.001 * losses.gradient_penalty(slope)

    step_by = lambda rate: lambda p, g: jax.tree.map(lambda p, g: p - rate * g, p, g)
    moved = step_by(0.2)(params[0], jax.jit(jax.grad(painting))(*params))
    of_judge = jax.jit(jax.grad(judging))
    learned, at_once = (step_by(0.1)(params[1], of_judge(params[1], p)) for p in (moved, params[0]))
    statistics = painter(params[0])
    statistics(given)  # of both passes, one after the other
    nnx.update(statistics, moved)
    statistics(given)

    network, leaves, rest = split(model)
    rule = dict(learning_rate=0.2, momentum=0.0, weight_decay=0.0, factors={"discriminator": 0.5})
    rate = optax.constant_schedule(0.2)
    tx = make_optimizer(Optimizer(**rule), rate)
    state, mesh = make_state(CONFIG, leaves, rest, tx), make_mesh(CONFIG.mesh)
    state = jax.tree.map(jnp.copy, state)  # what the step consumes
    state = jax.device_put(state, state_sharding(mesh, state, CONFIG.mesh.fsdp_min_size))
    step = make_train_step(Run(CONFIG, mesh, task, network, tx, rate), state)
    after = network.merge(*step(state, shard_batch(mesh, batch))[0][1:3])

    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)
    jax.tree.map(close, nnx.state(after.generator, nnx.Param), moved)
    jax.tree.map(close, nnx.state(after.discriminator, nnx.Param), learned)
    jax.tree.map(
        close, nnx.state(after.generator, nnx.BatchStat), nnx.state(statistics, nnx.BatchStat)
    )
    for old, new in ((params[0], moved), (at_once, learned)):  # far more than the tolerance
        assert largest(jax.tree.map(jnp.subtract, old, new)) > 1e-3


@pytest.mark.parametrize(
    ("weights", "logged"),
    [
        ({}, {"l1", *ADVERSARIAL}),
        (dict(adversarial=0.0, feature_matching=0.0), {"l1"}),
    ],
)
def test_lama_has_the_losses_of_some_weight(weights, logged):
    config = dataclasses.replace(CONFIG, model="lama", options=dict(blocks=1, width=8))
    config = dataclasses.replace(config, task_options=config.task_options | weights)
    task = make_task(config, open_data(config, "train"))
    graphdef, state = nnx.split(nnx.eval_shape(lambda: make_model(config, task)))
    loss = lambda state, batch: task.loss(nnx.merge(graphdef, state), batch, jax.random.key(0))
    total, scalars = jax.eval_shape(loss, state, task.batch_shape(2))
    assert total.shape == ()
    assert scalars.keys() == logged


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
    np.testing.assert_allclose(jax.jit(losses.ssim)(x, x), 1, atol=1e-4)
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
        jax.jit(losses.ssim)(jnp.float32(a), jnp.float32(b)), np.mean(values), atol=1e-4
    )
    expected = -10 * np.log10(np.mean((a - b) ** 2))
    np.testing.assert_allclose(losses.psnr(jnp.float32(a), jnp.float32(b)), expected, rtol=1e-5)


def test_a_perfect_generator_has_perfect_figures():
    task, _, batch = parts()
    image = batch["image"].astype(np.float32) / 255

    class Perfect:
        generator = staticmethod(lambda x: jnp.asarray(image))

    sums = jax.jit(partial(task.metric_sums, Perfect()))(batch | {"valid": jnp.ones(2)})
    figures = task.metrics(jax.device_get(sums))
    assert figures["psnr"] == pytest.approx(100)
    assert figures["ssim"] == pytest.approx(1, abs=1e-4)


KINDS = [(256, Strokes()), (256, Boxes()), (256, Mixed()), *EVALUATION.values()]


@pytest.mark.parametrize(("side", "kind"), KINDS)
def test_holes_are_as_large_as_they_may_be(side, kind):
    rng = np.random.default_rng(0)
    for _ in range(3):
        mask = kind(side, side, rng)
        assert mask.shape == (side, side)
        assert mask.dtype == bool
        assert 0 < mask.mean() <= getattr(kind, "max_area", 1)


@pytest.mark.parametrize("seed", range(8))
def test_all_segments_of_the_first_line_go_left(seed):
    one = Strokes(min_times=1, max_times=0, max_angle=4, max_width=1)  # below pi
    start = np.random.default_rng(seed)
    start.integers(1, 2)
    x = start.integers(256)
    columns = np.flatnonzero(one(256, 256, np.random.default_rng(seed)).any(0))
    assert columns.max() <= x + 2


def test_lines_are_all_that_is_within_half_a_brush_of_a_segment():
    mask = np.zeros((20, 30), bool)
    _draw_line(mask, (4, 3), (30, 17), 7)
    y, x = np.mgrid[:20, :30]
    points = np.linspace((4, 3), (30, 17), 2000)
    distance = np.min([np.hypot(x - px, y - py) for px, py in points], axis=0)
    np.testing.assert_array_equal(mask, distance <= 3.5)


def test_the_published_evaluation_has_strokes_to_boxes_as_10_to_3():
    shares = {name: kind.box_share for name, (_, kind) in EVALUATION.items()}
    assert shares == {
        name: 0 if name.startswith("thin") else pytest.approx(3 / 13) for name in EVALUATION
    }


@pytest.mark.parametrize("name", EVALUATION)
def test_published_masks_are_chosen_for_the_test_by_name(name):
    side, kind = EVALUATION[name]
    words = ["configs/textures_lama.py", "--task-options.test-masks", name]
    config = parse([*words, "--data.size", *[str(side)] * 2])
    train, test = (open_data(config, part) for part in ("train", "test"))
    assert test.masks == kind
    assert train.masks == scaled(side)
    assert 0 < test[0]["mask"].mean() <= 0.5
    np.testing.assert_array_equal(test[0]["mask"], test[0]["mask"])


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize(
    ("masks", "message"), [("thick", "expected one of thin_256"), ("thin_512", "of 512 pixels")]
)
def test_masks_that_are_unknown_or_larger_than_the_image_are_refused(part, masks, message):
    with pytest.raises(UserError, match=message):
        open_split(part, Data(name="textures", size=(256, 512)), Options(test_masks=masks))


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


def test_masks_scale_with_the_image():
    assert scaled(256) == Mixed()
    assert scaled(64)(64, 64, np.random.default_rng(0)).shape == (64, 64)


def test_photographs_are_cropped_and_enlarged(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part / "deeper").mkdir(parents=True)
        for name, size in (("a.png", (40, 50)), ("deeper/b.png", (9, 30))):
            pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / part / name)
        for hidden in ("._a.png", ".ipynb_checkpoints/a-checkpoint.png", "@eaDir/a.png"):
            (tmp_path / part / hidden).parent.mkdir(exist_ok=True)
            (tmp_path / part / hidden).write_bytes(b"")
    data = Data(name="image_folder", path=str(tmp_path), size=(16, 24))
    train, test = (open_split(part, data, Options()) for part in ("train", "test"))
    assert len(train) == len(test) == 2
    for i in range(2):
        example = train.augment(train[i], np.random.default_rng(i))
        for each in (example, test[i]):
            assert each["image"].shape == (16, 24, 3)
            assert each["mask"].shape == (16, 24)
    larger, published = dataclasses.replace(data, size=(256, 300)), Options(test_masks="thick_256")
    assert open_split("test", larger, published).masks == EVALUATION["thick_256"][1]
    np.testing.assert_array_equal(test[0]["mask"], test[0]["mask"])


def test_sampling_on_the_pixels_returns_them_and_mirrors_beyond():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    y, x = np.mgrid[-4:9, -6:13].astype(float)
    expected = np.pad(pixels, [(4, 4), (6, 6), (0, 0)], mode="reflect")
    np.testing.assert_array_equal(distortions._sampled(pixels, x, y), expected)
    between = distortions._sampled(pixels, np.array([[1.5]]), np.array([[2.0]]))[0, 0]
    np.testing.assert_array_equal(between, np.rint(pixels[2, 1:3].mean(0)))


@pytest.mark.parametrize("shape", [(1, 1), (40, 20), (300, 200)])
def test_distortions_keep_a_constant_image_constant(shape):
    flat = np.full((*shape, 3), (200, 120, 40), np.uint8)
    result = distortions.distorted(flat, (32, 48), np.random.default_rng(0))
    assert result.shape == (32, 48, 3) and result.dtype == np.uint8
    assert (result == result[0, 0]).all()


def test_photographs_are_distorted_on_demand_and_another_way_each_time(tmp_path):
    (tmp_path / "train").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "train" / "a.png")
    data = Data(name="image_folder", path=str(tmp_path), size=(32, 32))
    source = open_split("train", data, Options(distort=True))
    seen = [source.augment(source[0], np.random.default_rng(i))["image"] for i in (1, 1, 2)]
    assert seen[0].shape == (32, 32, 3)
    assert (seen[0] == seen[1]).all() and (seen[0] != seen[2]).any()


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
