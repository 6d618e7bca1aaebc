# SPDX-License-Identifier: Apache-2.0
"""Examples a second that one core decodes and varies, and the memory it takes.

Files are made for the purpose: textured JPEG files of 500x375 pixels, about as large as ImageNet's,
the same in TensorFlow Datasets' ArrayRecord, and MP4 files of 300 frames of
340x256 (H.264, a key frame every 250). `per_core` counts processor time, so that other work on the
machine matters little; `wall` is what the whole pipeline delivers, by the clock. torchvision's
loader is measured beside if it is installed. Every row is measured in a process of its own.

Run: python -m benchmarks.input_pipeline [--seconds 10] [--threads 2] [--out FILE.json]
     python -m benchmarks.input_pipeline --damaged    (an epoch over damaged files instead)
"""

import argparse
import dataclasses
import io
import json
import multiprocessing
import os
import resource
import tempfile
import time
import wave
from pathlib import Path

import numpy as np
from PIL import Image

BATCH = 64
KINDS = ("jpeg_folder", "jpeg_folder_rand_augment", "jpeg_test", "array_record", "mp4")


def texture(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """Noise at every scale, as photographs have it."""
    image = np.zeros((height, width, 3))
    for octave in range(1, 8):
        n = 2**octave
        grid = rng.normal(size=(n, n, 3)).astype(np.float32)
        for c in range(3):
            layer = Image.fromarray(grid[..., c]).resize((width, height), Image.Resampling.BICUBIC)
            image[..., c] += np.asarray(layer) * 50 / octave
    image += rng.normal(size=(height, width, 1)) * 14
    return Image.fromarray(np.clip(image + 128, 0, 255).astype(np.uint8))


def make_images(root: Path, count: int = 200) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for c in range(2):
            folder = root / split / f"class{c}"
            folder.mkdir(parents=True)
            for i in range(count // 2):
                texture(rng, 375, 500).save(folder / f"{i}.jpg", quality=90)


def make_videos(root: Path, count: int = 6) -> None:
    import av

    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        folder = root / split / "class0"
        folder.mkdir(parents=True)
        for i in range(count):
            background = np.asarray(texture(rng, 256, 680))
            with av.open(str(folder / f"{i}.mp4"), "w") as container:
                options = {"crf": "23", "g": "250", "preset": "veryfast"}
                stream = container.add_stream("libx264", rate=30, options=options)
                stream.width, stream.height, stream.pix_fmt = 340, 256, "yuv420p"
                for t in range(300):
                    view = np.ascontiguousarray(background[:, t : t + 340])
                    frame = av.VideoFrame.from_ndarray(view, format="rgb24")
                    container.mux(stream.encode(frame))
                container.mux(stream.encode())


def make_records(root: Path, images: Path) -> None:
    import tensorflow_datasets as tfds

    class Textures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "textures"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(num_classes=2),
            }
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {
                "train": self._generate_examples("train"),
                "test": self._generate_examples("val"),
            }

        def _generate_examples(self, split):
            for i, file in enumerate(sorted((images / split).rglob("*.jpg"))):
                yield i, {"image": io.BytesIO(file.read_bytes()), "label": i % 2}

    tfds.disable_progress_bar()
    Textures(data_dir=str(root), file_format="array_record").download_and_prepare()


def settings(kind: str, root: Path, threads: int):
    from train.config import Data

    common = dict(size=(224, 224), threads=threads, prefetch=4)
    if kind == "mp4":
        path = str(root / "videos")
        return Data(name="video_folder", path=path, crop="multi_scale", **common)
    if kind == "array_record":
        return Data(name="tfds:textures", path=str(root / "records"), **common)
    changes = {"rand_augment": 2} if kind == "jpeg_folder_rand_augment" else {}
    path = str(root / "images")
    return Data(name="image_folder_classes", path=path, **common, **changes)


def measure(kind: str, root: str, threads: int, seconds: float) -> dict:
    """Read one example after another, then batches through the pipeline."""
    from train.config import Config
    from train.data import open_source, training_batches

    data = settings(kind, Path(root), threads)
    source = open_source(data.name, "test" if kind == "jpeg_test" else "train", data)
    rng = np.random.default_rng(0)

    def read(i: int) -> None:
        item = source[i % len(source)]
        if source.augment is not None:
            source.augment(item, rng)

    per_core = _rate(read, seconds, time.process_time)
    row = {"what": kind, "per_core": per_core}
    if kind != "jpeg_test":
        size = 4 if kind == "mp4" else BATCH
        batches = training_batches(Config(batch_size=size, data=data), source)
        next(batches)
        row["wall"] = size * _rate(lambda i: next(batches), seconds, time.perf_counter)
        batches.close()
    return row | {"peak_MiB": _peak()}


def measure_torchvision(root: str, seconds: float) -> dict | None:
    """Return the same for torchvision's folder and transforms, on one thread."""
    try:
        import torch
        from torchvision import datasets, transforms
    except ImportError:
        return None
    torch.set_num_threads(1)
    steps = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()]
    steps.append(transforms.PILToTensor())  # bytes, as here
    folder = datasets.ImageFolder(f"{root}/images/train", transforms.Compose(steps))
    rate = _rate(lambda i: folder[i % len(folder)], seconds, time.process_time)
    return {"what": "jpeg_folder, torchvision", "per_core": rate, "peak_MiB": _peak()}


def run_damaged(root: Path) -> dict:
    """Read an epoch of images of which 5 % are cut off and others damaged or unusual."""
    make_images(root / "images")
    files = sorted((root / "images" / "train").rglob("*.jpg"))
    damaged = []
    for file in files[::20]:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        damaged.append(file)
    for file, content in zip(files[1:60:10], [b"", b"a text\n"] * 3, strict=True):
        file.write_bytes(content)
        damaged.append(file)
    for file in files[2:60:10]:
        image = Image.open(file).convert("CMYK")
        image.save(file)
    for file in files[3:60:10]:
        grey = np.asarray(Image.open(file).convert("L")).astype(np.uint16) * 257
        Image.fromarray(grey).save(file, "PNG")
    make_videos(root / "videos", count=3)
    no_frames = root / "videos" / "train" / "class0" / "0.mp4"
    _write_sound(no_frames)
    found = {}
    for kind, batch_size, wanted in (("jpeg_folder", 20, damaged), ("mp4", 1, [no_frames])):
        found[kind] = _epoch(kind, root, batch_size, {str(path) for path in wanted})
        print(kind, found[kind])
    return found


def _epoch(kind: str, root: Path, batch_size: int, damaged: set[str]) -> dict:
    from train.config import Config
    from train.data import open_source, training_batches

    data = dataclasses.replace(settings(kind, root, 1), workers=2)
    source = open_source(data.name, "train", data)
    batches = training_batches(Config(batch_size=batch_size, data=data), source)
    count = sum(len(next(batches)["label"]) for _ in range(len(source) // batch_size))
    batches.close()
    names = source.unreadable.names()
    once = len(names) == len(set(names)) and set(names) == damaged
    return {"examples": count, "damaged": len(damaged), "reported": len(names), "once_each": once}


def _write_sound(path: Path) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(16000))


def _rate(read, seconds: float, clock) -> float:
    for i in range(3):
        read(i)
    count, start, end = 0, clock(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        read(count)
        count += 1
    return count / (clock() - start)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--damaged", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if arguments.damaged:
            rows = run_damaged(root)
            if arguments.out:
                arguments.out.write_text(json.dumps(rows, indent=1))
            return
        make_images(root / "images")
        make_videos(root / "videos")
        make_records(root / "records", root / "images")
        sizes = [p.stat().st_size for p in (root / "images").rglob("*.jpg")]
        print(f"{len(sizes)} JPEG files of {np.mean(sizes) / 1000:.0f} kB on average")
        calls = [(measure, (kind, folder, arguments.threads, arguments.seconds)) for kind in KINDS]
        calls.insert(1, (measure_torchvision, (folder, arguments.seconds)))
        rows = []
        for function, values in calls:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                row = pool.apply(function, values)
            if row is None:
                print("torchvision is not installed")
                continue
            rows.append(row)
            numbers = (f"{k} {v:.1f}" for k, v in row.items() if k != "what")
            print(f"{row['what']:26} {'   '.join(numbers)}", flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
