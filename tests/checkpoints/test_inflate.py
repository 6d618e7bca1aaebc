"""Weights of image models in video models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import spectral_flax as sf
from spectral_flax.checkpoints.load import CheckpointError

SMALL = dict(depths=(1, 1, 1), width=8, num_classes=5)


def pair(image="resnet18", video="i3d_resnet18", image_options=(), **video_options):
    return (
        sf.create_model(image, rngs=nnx.Rngs(1), **(SMALL | dict(image_options))),
        sf.create_model(video, rngs=nnx.Rngs(2), **(SMALL | video_options)),
    )


def arrays(model):
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    return [(path, np.asarray(v[...])) for path, v in nnx.to_flat_state(state)]


def test_a_clip_that_does_not_change_gives_the_image_result_away_from_its_ends():
    image, video = pair()
    report = sf.inflate(image, video)
    assert not report.skipped and not report.unused
    assert "stem.conv.kernel" in report.inflated and "stem.norm.mean" in report.copied
    image.eval(), video.eval()
    x = jax.random.normal(jax.random.key(0), (1, 16, 16, 3))
    still = jnp.broadcast_to(x[:, None], (1, 7, 16, 16, 3))
    stem = video.stem(still)
    np.testing.assert_allclose(stem[:, 2:5], np.stack([image.stem(x)] * 3, 1), rtol=1e-4, atol=1e-5)


def test_copies_of_a_kernel_sum_to_it():
    image, video = pair()
    sf.inflate(image, video)
    kernel = video.stem.conv.kernel[...]
    assert kernel.shape[0] == 5
    np.testing.assert_allclose(kernel.sum(0), image.stem.conv.kernel[...], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("image", "video", "options"),
    [
        ("ffc_resnet18", "ffc_i3d_resnet18", dict(ratio=0.5, lfu=False)),
        ("resnet18_nl", "c2d_resnet18_nl", {}),
        ("resnet18_srl_fft", "c2d_resnet18_srl_fft", {}),
    ],
)
def test_every_family_is_inflated(image, video, options):
    models = pair(image, video, image_options=options, **options)
    report = sf.inflate(*models)
    assert len(report.copied) + len(report.inflated) == len(arrays(models[1]))


def test_a_head_of_another_size_is_left_alone_only_if_asked():
    image, video = pair(num_classes=7)
    before = arrays(video)
    with pytest.raises(
        CheckpointError, match=r"head.kernel is \[32, 5\]; the video needs \[32, 7\]"
    ):
        sf.inflate(image, video)
    for (path, was), (_, now) in zip(before, arrays(video), strict=True):
        np.testing.assert_array_equal(was, now, err_msg=str(path))
    head = np.asarray(video.head.kernel[...])
    report = sf.inflate(image, video, skip=("head",))
    assert report.skipped == ("head.bias", "head.kernel")
    assert "left as they were: head.bias, head.kernel" in str(report)
    np.testing.assert_array_equal(video.head.kernel[...], head)


def test_parts_of_bilinear_blocks_that_differ_are_skipped_by_a_glob():
    image, video = pair("resnet18_bat", "c2d_resnet18_bat3d")
    with pytest.raises(CheckpointError, match=r"missing in the image model: .*frames"):
        sf.inflate(image, video)
    report = sf.inflate(image, video, skip=("stage?.*.transform",))
    assert all(".transform." in path for path in report.skipped)


def test_weights_without_a_place_are_faults_unless_skipped():
    image, video = pair("resnet18_nl", "c2d_resnet18")
    with pytest.raises(CheckpointError, match="no place in the video model: stage"):
        sf.inflate(image, video)
    report = sf.inflate(image, video, skip=("inserted",))
    assert report.unused and not report.skipped


def test_the_dtype_of_the_video_model_stays():
    image, video = pair(param_dtype=jnp.bfloat16)
    sf.inflate(image, video)
    assert video.stem.conv.kernel[...].dtype == jnp.bfloat16
    assert video.stem.norm.mean[...].dtype == jnp.float32


def test_skipping_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match="skip='haed'"):
        sf.inflate(*pair(), skip=("haed",))
