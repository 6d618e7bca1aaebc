"""Small data sets on disk, whole and damaged, for tests of their readers."""

import numpy as np
from PIL import Image


def picture(seed=0, height=40, width=60):
    """Smooth noise: compresses like a photograph and differs everywhere."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(40, 220, (6, 8, 3), np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def image_folder(root, *, classes=("ant", "bee"), train=6, test=3, **size):
    """Write ``root/{train,val}/CLASS/N.jpg``."""
    for split, count in (("train", train), ("val", test)):
        for c, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                picture(100 * c + 10 * i + (split == "val"), **size).save(folder / f"{i}.jpg")
    return root


def damage(folder):
    """Put files that cannot be read into ``folder``; return their paths."""
    whole = next(folder.glob("*.jpg")).read_bytes()
    broken = {
        "truncated.jpg": whole[: len(whole) // 2],
        "header_only.jpg": whole[:30],
        "empty.jpg": b"",
        "text.jpg": b"a text named .jpg\n" * 50,
        "half.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    }
    for name, content in broken.items():
        (folder / name).write_bytes(content)
    return {str(folder / name) for name in broken}


def video(path, frames=40, *, gop=12, codec="mpeg4", noise=False, ramp=False):
    """Encode a video whose frame ``i`` is grey of level ``frame_level(i)``.

    ``noise`` makes it larger, ``ramp`` makes it brighter to the right.
    """
    import av

    height, width = 48, 64
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.gop_size, stream.bit_rate = gop, 4_000_000
        for i in range(frames):
            pixels = np.full((height, width, 3), frame_level(i))
            if noise:
                pixels = rng.integers(0, 256, pixels.shape)
            if ramp:
                pixels = pixels + 2 * np.arange(width)[:, None]
            frame = av.VideoFrame.from_ndarray(pixels.astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def frame_level(i):
    return 20 + 5 * i


def sound_only(path):
    """Encode a file that has a video's name and no frames."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def tfds_set(root, *, train=6, test=3):
    """Write an image classification set of TensorFlow Datasets, labelled 0, 1, 2, 0, ..."""
    import io

    import tensorflow_datasets as tfds

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "tiny"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            label = tfds.features.ClassLabel(num_classes=3)
            features = {"image": tfds.features.Image(), "label": label}
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
                disable_shuffling=True,
            )

        def _split_generators(self, manager):
            return {
                "train": self._generate_examples(train, 0),
                "test": self._generate_examples(test, 50),
            }

        def _generate_examples(self, count, seed):
            for i in range(count):
                file = io.BytesIO()
                picture(seed + i).save(file, "JPEG")
                file.seek(0)
                yield i, {"image": file, "label": i % 3}

    Tiny(data_dir=str(root), file_format="array_record").download_and_prepare()
    return root
