import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.tasks.classification.mixing import cutmix, mix, mixup

SHAPE = (6, 2, 5, 7, 3)


def batch(shape):
    """Images whose every pixel is the number of their example, so that parts can be counted."""
    images = jnp.broadcast_to(
        jnp.reshape(jnp.arange(shape[0], dtype=jnp.float32), (-1, *(1,) * (len(shape) - 1))), shape
    )
    return images, jnp.eye(shape[0])


def partner(i):
    return i ^ 1


@pytest.mark.parametrize("change", [mixup, cutmix])
def test_targets_are_mixed_as_the_images_are(change):
    images, targets = batch(SHAPE)
    draw = jax.jit(lambda key: change(images, targets, key, 1.0))
    for seed in range(8):
        mixed, shares = draw(jax.random.key(seed))
        for i, (image, share) in enumerate(zip(mixed, shares, strict=True)):
            np.testing.assert_allclose(share[i] + share[partner(i)], 1, rtol=1e-6)
            want = share[i] * i + share[partner(i)] * partner(i)
            np.testing.assert_allclose(image.mean(), want, rtol=1e-5)


def test_cutmix_pastes_one_rectangle_into_all_frames():
    images, targets = batch(SHAPE)
    draw = jax.jit(lambda key: cutmix(images, targets, key, 1.0)[0])
    for seed in range(8):
        mixed = draw(jax.random.key(seed))
        pasted = np.asarray(mixed[0] == partner(0))
        assert np.all(pasted | (np.asarray(mixed[0]) == 0))
        frames = pasted.reshape(-1, *SHAPE[-3:])
        assert np.all(frames == frames[:1])
        rows, columns = frames[0, ..., 0].any(1), frames[0, ..., 0].any(0)
        np.testing.assert_array_equal(frames[0, ..., 0], rows[:, None] & columns[None])
        for line in (rows, columns):
            assert np.count_nonzero(np.diff(np.r_[0, line, 0])) in (0, 2)


@pytest.mark.parametrize("change", [mixup, cutmix])
def test_weights_follow_the_beta_distribution(change):
    images, targets = batch((2, 32, 32, 1))
    draw = jax.jit(jax.vmap(lambda key: change(images, targets, key, 0.5)[1][0, 0]))
    own = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))
    if change is mixup:  # Beta(a, a): mean 1/2, variance 1 / (8a + 4)
        np.testing.assert_allclose(own.mean(), 0.5, atol=0.02)
        np.testing.assert_allclose(own.var(), 1 / 8, atol=0.01)
    else:  # rectangles lose what is beyond the border
        assert own.mean() > 0.52 and own.min() < 0.02 and own.max() == 1


def test_mix_uses_either_when_both_are_wanted_and_none_when_neither_is():
    images, targets = batch((2, 8, 8, 1))
    both = jax.jit(lambda key: mix(images, targets, key, mixup_alpha=1.0, cutmix_alpha=1.0)[0])
    drawn = [np.asarray(both(jax.random.key(seed))[0]) for seed in range(20)]
    pasted = [len(np.unique(image)) == 2 for image in drawn]
    averaged = [len(np.unique(image)) == 1 and 0 < image.mean() < 1 for image in drawn]
    assert any(pasted) and any(averaged)
    assert mix(images, targets, jax.random.key(0)) == (images, targets)


@pytest.mark.parametrize("change", [mixup, cutmix])
def test_mixing_keeps_the_dtype_and_stays_on_the_device(change, mesh):
    by_batch = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    images, targets = batch((16, 4, 4, 1))
    images, targets = jax.device_put((images.astype(jnp.bfloat16), targets), by_batch)
    step = jax.jit(lambda x, y, key: change(x, y, key, 0.8), out_shardings=by_batch)
    program = step.lower(images, targets, jax.random.key(0)).compile().as_text()
    assert not any(word in program for word in ("all-gather", "permute(", "all-to-all"))
    mixed, shares = step(images, targets, jax.random.key(0))
    assert mixed.dtype == jnp.bfloat16 and shares.dtype == jnp.float32


@pytest.mark.parametrize(
    ("images", "alpha", "message"),
    [
        (jnp.zeros((3, 2, 2, 1)), 1.0, "batch of 3"),
        (jnp.zeros((2, 2, 2, 1), jnp.uint8), 1.0, "images are uint8"),
        (jnp.zeros((2, 2, 2, 1)), 0.0, "alpha is 0"),
    ],
)
@pytest.mark.parametrize("change", [mixup, cutmix])
def test_what_cannot_be_mixed_is_refused(change, images, alpha, message):
    with pytest.raises(ValueError, match=message):
        change(images, jnp.eye(len(images)), jax.random.key(0), alpha)
