import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from spectral_flax.inference.video_file import Video

HEIGHT, WIDTH, COUNT = 48, 64, 48
BITS = [(24 * (b // 4), 16 * (b % 4)) for b in range(8)]


def frame_of(number):
    """A picture of 8 blocks, dark or bright, which are the bits of its number."""
    pixels = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    for bit, (y, x) in enumerate(BITS):
        pixels[y : y + 24, x : x + 16] = 220 if number >> bit & 1 else 30
    return pixels


def number_of(pixels):
    blocks = [pixels[y + 6 : y + 18, x + 4 : x + 12].mean() > 125 for y, x in BITS]
    return sum(int(bright) << bit for bit, bright in enumerate(blocks))


def encode(path, codec, *, time=lambda i: i, base=None, rate=25, b_frames=None, **options):
    with av.open(str(path), "w") as container:
        options = {name.replace("_", "-"): value for name, value in options.items()}
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.gop_size, stream.bit_rate = 12, 2_000_000
        if b_frames is not None:
            stream.max_b_frames = b_frames
        if base is not None:
            stream.codec_context.time_base = base
        for i in range(COUNT):
            frame = av.VideoFrame.from_ndarray(frame_of(i), format="rgb24")
            frame.pts, frame.time_base = time(i), base or Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def recut(path, to):
    """Copy a video from its second key frame on, as players cut without encoding again."""
    with av.open(str(path)) as source, av.open(str(to), "w") as target:
        stream = source.streams.video[0]
        copy, keys = target.add_stream_from_template(stream), 0
        for packet in source.demux(stream):
            keys += packet.size > 0 and packet.is_keyframe
            if packet.size and keys > 1:
                packet.stream = copy
                target.mux(packet)
    return to


def decoded(path):
    """What a plain decode from the start gives, in its order."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return [np.asarray(f.to_image()) for f in container.decode(container.streams.video[0])]


def assert_frames_are_those_of_a_plain_decode(path):
    plain = decoded(path)
    with Video(str(path)) as video:
        assert len(video) == len(plain)
        rng = np.random.default_rng(0)
        count = len(plain)
        patterns = [np.arange(count), *([i] for i in range(0, count, 5)), [count - 1], [0]]
        patterns += [rng.integers(0, count, 4) for _ in range(12)]
        for pattern in patterns:
            found = video.frames(np.asarray(pattern))
            assert sorted(found) == sorted(set(pattern))
            for index, image in found.items():
                np.testing.assert_array_equal(image, plain[index])
    return [number_of(pixels) for pixels in plain]


X264 = dict(codec="libx264", b_frames=3)
MILLI = Fraction(1, 1000)
LONG = dict(auto_alt_ref="1", lag_in_frames="16", cpu_used="8")
VIDEOS = {
    **{f"h264.{kind}": X264 for kind in ("avi", "mp4", "mkv", "mov", "mpg", "ts", "flv")},
    **{f"mpeg2.{kind}": dict(codec="mpeg2video", b_frames=2) for kind in ("mpg", "avi", "mp4")},
    **{f"mpeg4.{kind}": dict(codec="mpeg4", b_frames=2) for kind in ("avi", "mp4", "mkv")},
    "vp8.webm": dict(codec="libvpx", **LONG),
    "vp9.webm": dict(codec="libvpx-vp9", **LONG),
    "mjpeg.avi": dict(codec="mjpeg"),
    "open_groups.mp4": X264 | dict(x264_params="open-gop=1:keyint=12:scenecut=0"),
    "open_groups.avi": X264 | dict(x264_params="open-gop=1:keyint=12:scenecut=0"),
    "gradual_refresh.mp4": dict(
        codec="libx264", x264_params="intra-refresh=1:keyint=12:scenecut=0"
    ),
    "variable_rate.mp4": X264 | dict(time=lambda i: i * i + i, base=MILLI),
    "variable_rate.mkv": X264 | dict(time=lambda i: i * i + 7 * i, base=MILLI),
    "late_start.mp4": X264 | dict(time=lambda i: i + 500),
    "late_start.mkv": X264 | dict(time=lambda i: i + 500),
    "equal_times.mkv": X264 | dict(rate=5000),
}


@pytest.mark.parametrize("name", VIDEOS)
def test_every_frame_is_that_of_a_plain_decode_in_whatever_order_frames_are_read(tmp_path, name):
    path = encode(tmp_path / name, **VIDEOS[name])
    assert assert_frames_are_those_of_a_plain_decode(path) == list(range(COUNT))


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv"])
def test_a_video_cut_without_encoding_again_shows_what_a_plain_decode_shows(tmp_path, name):
    options = X264 | dict(x264_params="open-gop=1:keyint=12:scenecut=0")
    path = recut(encode(tmp_path / "whole.mp4", **options), tmp_path / name)
    assert_frames_are_those_of_a_plain_decode(path)


def test_frames_that_an_edit_list_hides_are_not_counted(tmp_path):
    path = encode(tmp_path / "v.mp4", **X264, time=lambda i: i - 10)
    assert assert_frames_are_those_of_a_plain_decode(path)[0] == 10


def test_a_seek_that_lands_behind_the_frame_is_made_good_from_the_start(tmp_path, monkeypatch):
    path = encode(tmp_path / "v.mp4", **X264)
    plain = decoded(path)
    with Video(str(path)) as video:

        class Late:
            def __getattr__(self, name):
                return getattr(container, name)

            def seek(self, time, **options):
                container.seek(video.times[-1], **options)

        container, video.container = video.container, Late()
        np.testing.assert_array_equal(video.frames(np.array([14]))[14], plain[14])


ONE = 1 << 16
# The upper left numbers of a display matrix, and what Pillow calls the change.
MATRICES = {
    "as stored": ((1, 0, 0, 1), lambda x: x),
    "mirrored": ((-1, 0, 0, 1), lambda x: x[:, ::-1]),
    "half a turn": ((-1, 0, 0, -1), lambda x: x[::-1, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda x: x[::-1]),
    "transposed": ((0, 1, 1, 0), lambda x: x.swapaxes(0, 1)),
    "clockwise": ((0, 1, -1, 0), lambda x: np.rot90(x, -1)),
    "transversed": ((0, -1, -1, 0), lambda x: np.rot90(x, 2).swapaxes(0, 1)),
    "anticlockwise": ((0, -1, 1, 0), lambda x: np.rot90(x)),
}


def put_matrix(path, turn):
    """Write a display matrix into the header of the first track of an MP4 file."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (ONE * n for n in turn)
    content[start : start + 36] = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4").tobytes()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", MATRICES)
def test_frames_are_turned_as_the_file_says(tmp_path, name):
    turn, change = MATRICES[name]
    path = encode(tmp_path / "v.mp4", **X264)
    plain = decoded(path)
    with Video(str(put_matrix(path, turn))) as video:
        found = video.frames(np.array([0, 30]))
    for index, image in found.items():
        np.testing.assert_array_equal(image, change(plain[index]))


def test_frames_turned_by_no_quarter_are_refused(tmp_path):
    path = put_matrix(encode(tmp_path / "v.mp4", **X264), (0.7, 0.7, -0.7, 0.7))
    with Video(str(path)) as video, pytest.raises(ValueError, match="45 degrees"):
        video.frames(np.array([0]))


def test_without_pyav_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r'pip install "spectral-flax\[video\]"'):
        Video("clip.mp4")
