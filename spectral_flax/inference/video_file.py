# SPDX-License-Identifier: Apache-2.0
"""Frames of video files by number, counted in a decode from the start."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from spectral_flax.files import in_memory
from spectral_flax.inference.images import pillow

if TYPE_CHECKING:
    from PIL import Image

# Containers that store when each frame is shown. Time stamps of others (AVI, MPEG, FLV, …) are
# guesses of the demuxer, and a seek lands somewhere near.
_TIMED = {"mov", "mp4", "matroska", "webm"}
# Codecs of which each packet of such a container becomes one frame; see `_shown` for two of them.
_ONE_FRAME_A_PACKET = {"h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg", "prores", "ffv1"}
# A display matrix turns by quarters and mirrors: signs of its upper left 2 x 2 numbers.
_TRANSPOSES = {
    (1, 0, 0, 1): None,
    (-1, 0, 0, 1): "FLIP_LEFT_RIGHT",
    (-1, 0, 0, -1): "ROTATE_180",
    (1, 0, 0, -1): "FLIP_TOP_BOTTOM",
    (0, 1, 1, 0): "TRANSPOSE",
    (0, 1, -1, 0): "ROTATE_270",
    (0, -1, -1, 0): "TRANSVERSE",
    (0, -1, 1, 0): "ROTATE_90",
}


def pyav():
    """Return the module ``av``; without PyAV an ImportError says what to install."""
    try:
        import av
    except ImportError as error:
        raise ImportError('videos need PyAV: pip install "spectral-flax[video]"') from error
    return av


class Video:
    """An open video file.

    Where the file says when each frame is shown, a frame is found by a seek to the key frame before
    it, and the numbers of the frames on the way are checked. Elsewhere, and where that check fails,
    the file is decoded from its start.
    """

    def __init__(self, file):
        self.file, self.container = in_memory(file), None
        try:
            self._open()
            self._index()
            self.count = len(self.times or ()) or sum(1 for _ in self._from_start())
            if not self.count:
                raise ValueError("no video frames")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self.container is not None:
            self.container.close()

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __len__(self) -> int:
        return self.count

    def frames(self, indices: np.ndarray) -> "dict[int, Image.Image]":
        """Decode the frames with these numbers, upright.

        The last frame replaces those at the end that the file announces but does not hold.
        """
        wanted = sorted(set(int(i) for i in np.asarray(indices).flat))
        found = self._sought(wanted) if self.times else None
        return found or self._in_order(wanted)

    def _open(self) -> None:
        av = pyav()
        self.close()
        if hasattr(self.file, "seek"):
            self.file.seek(0)
        self.container = av.open(self.file)
        if not self.container.streams.video:
            raise ValueError("no video stream")
        self.stream = self.container.streams.video[0]
        # Examples are read side by side already.
        self.stream.codec_context.thread_count = 1

    def _index(self) -> None:
        """Set the times of all frames in order and the key frames; none if they are uncertain."""
        codec = self.stream.codec_context.codec.canonical_name
        packets = [
            (p.pts, p.is_keyframe, _shown(codec, p))
            for p in self.container.demux(self.stream)
            if p.size and not p.is_discard
        ]
        times = [time for time, _, shown in packets if shown is not False]
        self.times, self.keys = None, []
        if not (
            _TIMED & set(self.container.format.name.split(","))
            and codec in _ONE_FRAME_A_PACKET
            and None not in times
            and len(set(times)) == len(times)
            and packets
            and packets[0][1]  # what precedes the first key frame may not be shown
            and times[:1] == [min(times)]
            and None not in [shown for *_, shown in packets]
        ):
            return
        self.times = sorted(times)
        number = {time: i for i, time in enumerate(self.times)}
        self.keys = sorted(number[time] for time, key, shown in packets if key and shown)

    def _sought(self, wanted: list[int]) -> "dict[int, Image.Image] | None":
        """Return frames after seeks; None if a frame met on the way is not where it should be."""
        number = {time: i for i, time in enumerate(self.times)}
        found, position, decoder = {}, None, None
        for index in wanted:
            key = self.keys[np.searchsorted(self.keys, index, "right") - 1]
            if position is None or key > position:  # a jump spares frames in between
                self.container.seek(self.times[key], stream=self.stream)
                decoder, position = self.container.decode(self.stream), None
            while position != index:
                frame = next(decoder, None)
                here = None if frame is None else number.get(frame.pts)
                expected = range(index + 1) if position is None else (position + 1,)
                if here not in expected or (here == key and not frame.key_frame):
                    return None
                if here >= key and frame.is_corrupt:
                    return None
                position = here
            found[index] = _upright(frame)
        return found

    def _in_order(self, wanted: list[int]) -> "dict[int, Image.Image]":
        found, frame = {}, None
        remaining = iter(wanted)
        index = next(remaining)
        for position, frame in enumerate(self._from_start()):
            while position == index:
                found[index] = _upright(frame)
                index = next(remaining, None)
            if index is None:
                return found
        if frame is None:
            raise ValueError("no frame can be decoded")
        last = _upright(frame)
        return found | {i: last for i in wanted if i not in found}

    def _from_start(self) -> Iterator:
        self._open()  # not every container can be sent back to its first packet
        return self.container.decode(self.stream)


def _shown(codec: str, packet) -> bool | None:
    """Return whether a packet becomes a frame (VP8 has hidden references); None: uncertain."""
    if codec == "vp8":
        return bool(bytes(packet)[0] & 0x10)
    if codec == "mpeg4":  # a stand-in for a frame that is left out, or two frames in one packet
        return True if packet.size > 16 and bytes(packet).count(b"\0\0\1\xb6") == 1 else None
    return True


def _upright(frame) -> "Image.Image":
    """Return a frame as RGB, turned and mirrored as its display matrix says."""
    from av.sidedata.sidedata import Type

    image, matrix = frame.to_image(), frame.side_data.get(Type.DISPLAYMATRIX)
    numbers = (1, 0, 0, 0, 1) if matrix is None else np.frombuffer(matrix, np.int32).tolist()
    upper_left = (*numbers[:2], *numbers[3:5])
    largest = max(map(abs, upper_left))
    if not largest:  # not a matrix at all; players show such frames as they are stored
        return image
    turn = tuple(round(number / largest) for number in upper_left)
    if turn not in _TRANSPOSES:
        raise ValueError(
            f"its frames are shown turned by {frame.rotation} degrees; expected quarters"
        )
    name = _TRANSPOSES[turn]
    method = name and pillow().Transpose[name]
    return image if method is None else image.transpose(method)
