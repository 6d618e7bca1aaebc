import itertools

import numpy as np
import pytest

from spectral_flax.inference.clips import clip_indices, uniform_starts
from spectral_flax.inference.video_file import Video
from train import data
from train.config import Config, Data
from train.errors import UserError

from .data_files import frame_level, sound_only
from .data_files import video as encode


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Per split and class a video of 40 frames, one of 3, and one without frames."""
    root = tmp_path_factory.mktemp("videos")
    for split, name in itertools.product(("train", "val"), ("run", "sit")):
        place = root / split / name
        place.mkdir(parents=True)
        encode(place / "0.mp4", 40)
        encode(place / "1.mp4", 3)
    sound_only(root / "val" / "run" / "2.mp4")
    return root


def opened(folder, split="test", **changes):
    settings = dict(name="video_folder", path=str(folder), size=(16, 24), frames=4, stride=8)
    settings = Data(**settings | changes)
    return data.open_source(settings.name, split, settings)


def numbers(clip):
    """Which frame each picture of a clip ``[..., T, H, W, 3]`` is."""
    levels = np.array([frame_level(i) for i in range(40)])
    means = clip.astype(float).mean((-1, -2, -3))
    return abs(means[..., None] - levels).argmin(-1)


# Which frames


@pytest.mark.parametrize("count", [1, 7, 25, 26, 300])
@pytest.mark.parametrize("segments", [1, 3])
@pytest.mark.parametrize("start", [0.0, 0.5, 0.999])
def test_clips_have_the_stride_and_stay_inside(count, segments, start):
    found = clip_indices(count, 4, 8, [start], segments)
    assert found.shape == (1, segments, 4) and found.min() >= 0 and found.max() < count
    whole = found[found[..., -1] < count - 1]
    assert np.all(np.diff(whole) == 8)
    if count <= 25:  # no room to choose: all clips are the first, its end repeats the last frame
        np.testing.assert_array_equal(found[0, 0], np.minimum([0, 8, 16, 24], count - 1))


@pytest.mark.parametrize("segments", [1, 2])
@pytest.mark.parametrize("count", [8, 9, 40])
def test_uniform_frames_come_one_from_each_equal_part(count, segments):
    for start in (0.0, 0.5, 0.999):
        found = clip_indices(count, 4, 8, [start], segments, "uniform")
        assert found.shape == (1, segments, 4)
        part = count / (4 * segments)
        for i, frame in enumerate(found.ravel()):
            assert np.floor(i * part) <= frame < (i + 1) * part
    with pytest.raises(ValueError, match="3 frames, fewer than the 4 segments"):
        clip_indices(3, 4, 8, [0.5], 1, "uniform")


def test_a_video_of_fewer_frames_than_segments_is_named_and_replaced(folder):
    train = opened(folder, "train", sampling="uniform", frames=8, crop="centre")
    rng = np.random.default_rng(0)
    for index in range(len(train)):  # every second one is too short
        found = numbers(train.augment({"index": index}, rng)["image"])
        np.testing.assert_array_equal(np.diff(found), 5)
    assert "3 frames, fewer than the 8 segments" in train.unreadable.last


def test_test_clips_start_at_the_centres_of_equal_parts():
    found = clip_indices(124, 4, 8, uniform_starts(10))[:, 0, 0]
    np.testing.assert_array_equal(found, np.arange(5, 100, 10))  # 100 places to start at


def test_segments_share_the_video_among_them():
    found = clip_indices(100, 1, 1, [0.0, 0.5], segments=4)[..., 0]
    np.testing.assert_array_equal(found, [[0, 25, 50, 75], [12, 37, 62, 87]])


# Decoding


@pytest.mark.parametrize("gop", [1, 5, 12, 100])
@pytest.mark.parametrize("wanted", [[0], [39], [3, 4, 30], [11, 12, 13, 24], list(range(40))])
def test_any_frame_is_found_by_its_number(tmp_path, gop, wanted):
    with Video(str(encode(tmp_path / "v.mp4", 40, gop=gop))) as file:
        assert len(file) == 40
        frames = file.frames(np.array(wanted))
    assert sorted(frames) == wanted
    assert [numbers(np.asarray(frames[i])) for i in wanted] == wanted


def test_frames_far_apart_are_reached_without_decoding_those_between(tmp_path, monkeypatch):
    with Video(str(encode(tmp_path / "v.mp4", 200, gop=10))) as file:
        decoded = []
        decode = type(file.container).decode

        class Counting:
            def __getattr__(self, name):
                return getattr(container, name)

            def decode(self, stream):
                for frame in decode(container, stream):
                    decoded.append(frame.pts)
                    yield frame

        container, file.container = file.container, Counting()
        file.frames(np.array([5, 95, 185]))
    assert len(decoded) <= 3 * 10


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "webm"])
def test_containers_of_every_kind_are_read(tmp_path, suffix):
    path = tmp_path / f"v.{suffix}"
    encode(path, 20, codec="libvpx" if suffix == "webm" else "mpeg4")
    with Video(str(path)) as file:
        assert len(file) == 20
        frames = file.frames(np.array([2, 17]))
    assert [numbers(np.asarray(frames[i])) for i in (2, 17)] == [2, 17]


def test_a_video_cut_short_repeats_the_last_frame_there_is(tmp_path):
    path = encode(tmp_path / "v.mkv", 40, gop=100, noise=True)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with Video(str(path)) as file:
        frames = file.frames(np.arange(len(file)))
        assert 5 < len(file) < 35 and len(frames) == len(file)


# Examples


def test_a_training_clip_starts_anywhere_and_keeps_its_stride(folder):
    source = opened(folder, "train", crop="centre")
    assert source.image_shape == (4, 16, 24, 3) and len(source) == 4
    rng = np.random.default_rng(0)
    starts = set()
    for _ in range(60):
        found = numbers(source.augment({"index": 0}, rng)["image"])
        np.testing.assert_array_equal(found - found[0], [0, 8, 16, 24])
        starts.add(int(found[0]))
    assert starts == set(range(16))
    short = source.augment({"index": 1}, rng)["image"]
    np.testing.assert_array_equal(numbers(short), [0, 2, 2, 2])


def test_segments_are_drawn_each_by_itself(folder):
    source = opened(folder, "train", segments=2, frames=2, stride=1)
    assert source.image_shape == (2, 2, 16, 24, 3)
    rng = np.random.default_rng(0)
    found = np.array([numbers(source.augment({"index": 0}, rng)["image"]) for _ in range(60)])
    assert np.all(np.diff(found) == 1)
    first, second = found[:, 0, 0], found[:, 1, 0]
    assert first.max() < 20 <= second.min() + 1 and len(set(second - first)) > 5


def test_the_views_of_a_test_are_clips_by_crops(folder):
    single = opened(folder)[0]["image"]
    np.testing.assert_array_equal(numbers(single), [8, 16, 24, 32])  # 16 places to start at
    source = opened(folder, views="multi", test_clips=2, size=(16, 16))
    many = source[0]["image"]
    assert source.views == 6 and many.shape == (6, 4, 16, 16, 3)
    np.testing.assert_array_equal(numbers(many)[:, 0], [4, 4, 4, 12, 12, 12])
    assert opened(folder, views="ten_crops", test_clips=2)[0]["image"].shape[0] == 20
    one = opened(folder, views="multi", test_clips=2, test_crops=1, segments=3)[0]["image"]
    assert one.shape == (2, 3, 4, 16, 24, 3)


def test_views_take_different_parts_of_the_frame(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split / "x").mkdir(parents=True)
        encode(tmp_path / split / "x" / "0.mp4", 4, ramp=True)
    source = opened(tmp_path, views="multi", test_clips=1, size=(16, 16), frames=1)
    means = source[0]["image"].mean((1, 2, 3, 4))
    assert means[0] < means[1] - 10 < means[2] - 20


def test_a_video_without_frames_is_skipped_and_named(folder, capfd):
    source = opened(folder)
    (batch,) = data.evaluation_batches(source, 5)
    np.testing.assert_array_equal(batch["valid"], [1, 1, 0, 1, 1])
    assert source.unreadable.names() == [str(folder / "val" / "run" / "2.mp4")]
    assert "no video stream" in capfd.readouterr().err


def test_batches_of_clips_resume_exactly(folder):
    source = opened(folder, "train")
    make = lambda: data.training_batches(Config(batch_size=2, data=Data(prefetch=1)), source)
    stream, resumed = make(), make()
    next(stream)
    resumed.set_state(stream.get_state())
    np.testing.assert_array_equal(next(stream)["image"], next(resumed)["image"])


def test_a_folder_without_videos_is_refused(tmp_path):
    (tmp_path / "train" / "x").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no files that end in"):
        opened(tmp_path, "train")
