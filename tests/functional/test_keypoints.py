import jax
import jax.numpy as jnp
import numpy as np
import pytest
from collectives import count, split

from spectral_flax.functional import keypoints
from spectral_flax.functional.keypoints import COCO_FLIP_PAIRS, COCO_SIGMAS

gaussian_heatmaps = jax.jit(keypoints.gaussian_heatmaps, static_argnames=("size", "sigma"))
decode_heatmaps = jax.jit(keypoints.decode_heatmaps)
flip_heatmaps = jax.jit(keypoints.flip_heatmaps, static_argnames=("pairs", "shift"))
object_keypoint_similarity = jax.jit(keypoints.object_keypoint_similarity)
oks_nms = jax.jit(keypoints.oks_nms)

SIZES = [(64, 48), (13, 7), (4, 5), (1, 1), (1, 6)]


# The published rules, written out joint by joint.


def drawn(joints, visible, size, sigma):
    height, width = size
    heatmaps, weights = np.zeros((height, width, len(joints))), np.zeros(len(joints))
    for j, (x, y) in enumerate(joints):
        cx, cy, r = int(x + 0.5), int(y + 0.5), 3 * sigma
        if cx - r >= width or cy - r >= height or cx + r + 1 < 0 or cy + r + 1 < 0:
            continue
        weights[j] = visible[j] > 0.5
        if weights[j]:
            for row in range(max(0, cy - r), min(height, cy + r + 1)):
                for column in range(max(0, cx - r), min(width, cx + r + 1)):
                    squared = (row - cy) ** 2 + (column - cx) ** 2
                    heatmaps[row, column, j] = np.exp(-squared / (2 * sigma**2))
    return heatmaps, weights


def found(heatmap):
    height, width = heatmap.shape
    score = heatmap.max()
    y, x = divmod(int(heatmap.argmax()), width)
    if score <= 0:
        return (0, 0), score
    place = np.array([x, y], float)
    if 1 < x < width - 1 and 1 < y < height - 1:
        difference = [
            heatmap[y, x + 1] - heatmap[y, x - 1],
            heatmap[y + 1, x] - heatmap[y - 1, x],
        ]
        place += np.sign(difference) * 0.25
    return place, score


def similarity(a, b, area_a, area_b):
    variance = (2 * np.array(COCO_SIGMAS)) ** 2
    squared = ((a - b) ** 2).sum(-1)
    return np.exp(-squared / variance / ((area_a + area_b) / 2 + np.spacing(1)) / 2).mean()


def kept(poses, scores, areas, threshold):
    waiting, keep = list(np.argsort(-scores, kind="stable")), []
    while waiting:
        best = waiting.pop(0)
        keep.append(best)
        waiting = [
            i
            for i in waiting
            if similarity(poses[best], poses[i], areas[best], areas[i]) <= threshold
        ]
    return sorted(keep)


@pytest.mark.parametrize("sigma", [1, 2, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_heatmaps_follow_the_published_rule(size, sigma):
    rng = np.random.default_rng(sigma)
    joints = rng.uniform(-12, np.array(size[::-1]) + 12, (40, 2))
    visible = rng.integers(0, 3, 40)
    heatmaps, weights = drawn(joints, visible, size, sigma)
    with jax.enable_x64(True):
        ours = gaussian_heatmaps(jnp.asarray(joints), jnp.asarray(visible), size=size, sigma=sigma)
    np.testing.assert_allclose(ours[0], heatmaps, atol=1e-12)
    np.testing.assert_array_equal(ours[1], weights)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_decoding_follows_the_published_rule(size):
    heatmaps = np.random.default_rng(0).standard_normal((3, *size, 17)).astype(np.float32)
    heatmaps[0, ..., 0] = -1  # nothing found
    heatmaps[0, ..., 1] = 0.5  # the first of equals
    places, scores = decode_heatmaps(jnp.asarray(heatmaps))
    for i in np.ndindex(3, 17):
        place, score = found(heatmaps[i[0], ..., i[1]])
        np.testing.assert_array_equal(places[i], place)
        assert scores[i] == score


def test_a_drawn_joint_is_found_within_a_pixel():
    joints = np.random.default_rng(0).uniform(8, 40, (5, 17, 2)).astype(np.float32)
    heatmaps, _ = gaussian_heatmaps(jnp.asarray(joints), jnp.ones((5, 17)), size=(64, 48), sigma=2)
    places, scores = decode_heatmaps(heatmaps)
    assert np.abs(places - joints).max() <= 0.5 + 1e-6  # drawn on whole pixels
    np.testing.assert_allclose(scores, 1, atol=1e-6)


def test_flipping_twice_is_the_identity():
    heatmaps = jax.random.normal(jax.random.key(0), (2, 5, 6, 17))
    twice = flip_heatmaps(flip_heatmaps(heatmaps, shift=False), shift=False)
    np.testing.assert_array_equal(twice, heatmaps)


def test_flipping_mirrors_and_exchanges_joints():
    heatmaps = np.random.default_rng(0).standard_normal((2, 5, 6, 17)).astype(np.float32)
    expected = heatmaps[:, :, ::-1].copy()
    for a, b in COCO_FLIP_PAIRS:
        expected[..., [a, b]] = expected[..., [b, a]]
    np.testing.assert_array_equal(flip_heatmaps(jnp.asarray(heatmaps), shift=False), expected)
    shifted = expected.copy()
    shifted[:, :, 1:] = expected[:, :, :-1]
    np.testing.assert_array_equal(flip_heatmaps(jnp.asarray(heatmaps)), shifted)


@pytest.mark.parametrize("people", [0, 1, 2, 30])
@pytest.mark.parametrize("threshold", [0.3, 0.9])
def test_suppression_follows_the_published_rule(people, threshold):
    rng = np.random.default_rng(people)
    centres = rng.uniform(0, 300, (5, 17, 2))
    poses = centres[rng.integers(0, 5, people)] + rng.normal(0, 8, (people, 17, 2))
    scores, areas = rng.random(people).round(1), rng.uniform(2e3, 9e4, people)
    with jax.enable_x64(True):
        keep = oks_nms(*map(jnp.asarray, (poses, scores, areas)), threshold)
    assert list(np.flatnonzero(keep)) == kept(poses, scores, areas, threshold)


def test_similarity_follows_the_published_rule():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 90, (2, 8, 17, 2))
    areas = rng.uniform(1e3, 9e3, (2, 8))
    with jax.enable_x64(True):
        ours = object_keypoint_similarity(*map(jnp.asarray, (a, b, *areas)))
    expected = [similarity(*each) for each in zip(a, b, *areas, strict=True)]
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_a_pose_is_like_itself_and_symmetric():
    a, b = jax.random.normal(jax.random.key(0), (2, 17, 2)) * 20
    one, two = jnp.float32(900), jnp.float32(1600)
    assert object_keypoint_similarity(a, a, one, one) == 1
    np.testing.assert_allclose(
        object_keypoint_similarity(a, b, one, two), object_keypoint_similarity(b, a, two, one)
    )


def test_decoding_and_drawing_work_in_bfloat16():
    heatmaps = jax.random.normal(jax.random.key(0), (1, 8, 8, 17), jnp.bfloat16)
    places, scores = decode_heatmaps(heatmaps)
    assert places.dtype == scores.dtype == jnp.float32
    drawn, _ = gaussian_heatmaps(
        jnp.ones((1, 17, 2), jnp.bfloat16), jnp.ones((1, 17)), size=(8, 8), sigma=1
    )
    assert drawn.dtype == jnp.bfloat16


def test_a_batch_over_devices_needs_no_gather(mesh):
    def there_and_back(joints):
        heatmaps, _ = gaussian_heatmaps(joints, jnp.ones(joints.shape[:-1]), size=(16, 12), sigma=2)
        return decode_heatmaps(flip_heatmaps(heatmaps))

    assert count(there_and_back, split(mesh, jnp.ones((8, 17, 2)))) == 0


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"expected \[\.\.\., J, 2\]"):
        gaussian_heatmaps(jnp.zeros((17, 3)), jnp.zeros(17), size=(4, 4), sigma=2)
    with pytest.raises(ValueError, match=r"numbers of 5 joints"):
        flip_heatmaps(jnp.zeros((4, 4, 5)))
    with pytest.raises(ValueError, match="a sigma each"):
        object_keypoint_similarity(*jnp.zeros((2, 5, 2)), jnp.zeros(()), jnp.zeros(()))


def test_heatmaps_of_16_bits_are_as_fine_as_their_joints():
    joints, visible = jnp.asarray([[290.0, 3.0]], jnp.bfloat16), jnp.ones(1)
    heatmaps, weights = gaussian_heatmaps(joints, visible, size=(5, 300), sigma=1)
    exact, _ = drawn(np.asarray(joints, np.float64), [1], (5, 300), 1)
    assert heatmaps.dtype == weights.dtype == jnp.bfloat16
    np.testing.assert_allclose(heatmaps.astype(np.float32), exact, atol=1 / 256)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.float16])
def test_scores_of_any_type_are_taken_from_the_highest(dtype):
    poses = np.zeros((3, 17, 2), np.float32)
    keep = oks_nms(poses, np.asarray([0, 7, 3], dtype), np.ones(3, np.float32))
    assert list(keep) == [False, True, False]


def test_what_are_no_poses_is_named():
    poses, numbers, maps = np.zeros((3, 17, 2)), np.ones(3), np.zeros((3, 17))
    for args in (
        (poses, np.ones(4), numbers),
        (poses, numbers, np.ones(1)),
        (poses, np.ones(()), numbers),
        (poses[:2], numbers, numbers),
    ):
        with pytest.raises(ValueError, match="keypoints, scores, areas have shapes"):
            keypoints.oks_nms(*args)
    with pytest.raises(TypeError, match="scores has dtype complex64; expected real numbers"):
        keypoints.oks_nms(poses, numbers * 1j, numbers)
    with pytest.raises(TypeError, match="b has dtype complex64; expected real numbers"):
        keypoints.object_keypoint_similarity(poses, poses * 1j, numbers, numbers)
    with pytest.raises(ValueError, match="joints, visible have shapes"):
        keypoints.gaussian_heatmaps(np.ones(()), np.ones(()), size=(4, 4), sigma=1)
    with pytest.raises(ValueError, match="sigma=0; expected a positive number"):
        keypoints.gaussian_heatmaps(poses, maps, size=(4, 4), sigma=0)
    with pytest.raises(ValueError, match="heatmaps have shape"):
        keypoints.flip_heatmaps(maps)
