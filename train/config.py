# SPDX-License-Identifier: Apache-2.0
"""The config of a run: frozen dataclasses with every default.

The text under each field is what ``--help`` prints. Nothing here is computed from anything else:
the loop derives steps and learning rates after the command line has had its say.
"""

import ast
import dataclasses
import operator
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import tyro
from annotated_types import Ge, Interval, Le, Lt

from spectral_flax.checkpoints.earlier import current_options
from spectral_flax.messages import shown
from spectral_flax.models.record import Sampling
from train.fields import BelowOne, Count, Hue, Natural, NonNegative, Path, Positive, Size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The data set and its augmentation."""

    name: str = "mnist5k"
    """Data set of the task, one of those in docs/guides/data.md and dense.md."""
    path: Path | None = None
    """Folder of the data set, if it is neither synthetic nor in the repository."""
    num_classes: Count | None = None
    """Number of classes, checked against the data; None: as many as the data have."""
    size: Size | None = None
    """Height and width of the examples, where a data set leaves them open."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel, of values in [0, 1]; None: the data set's own, or ImageNet's."""
    std: tuple[Positive, ...] | None = None
    """Deviation of each channel; None: the data set's own, or ImageNet's."""
    channels: Literal["rgb", "bgr"] = "rgb"
    """Order of the channels; bgr: for models that were trained on images read by OpenCV."""
    frames: Count = 8
    """Frames of a clip (videos)."""
    sampling: Sampling = "dense"
    """dense: every stride-th frame; uniform: one of each equal part of the video (videos)."""
    stride: Count = 8
    """Frames of the video between two of the clip (videos, dense)."""
    segments: Count = 1
    """Clips spread over the video that make one example (videos)."""
    crop: Literal["random_resized", "multi_scale", "short_side", "centre"] = "random_resized"
    """Crop of a training image or clip. random_resized: any area and shape; multi_scale: one of
    four scales and 13 places; short_side: resized at random, then cropped; centre: as in tests."""
    scale: tuple[Positive, Annotated[Positive, Le(1)]] = (0.08, 1.0)
    """Least and greatest share of the area (crop random_resized)."""
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    """Least and greatest width over height (crop random_resized)."""
    short_side: Size = (256, 320)
    """Least and greatest short side (crop short_side)."""
    flip: bool | None = None
    """Mirror every second training image; None: image and video files only, unless names of
    classes say left or right."""
    colour_jitter: tuple[NonNegative, NonNegative, NonNegative, Hue] = (0.0, 0.0, 0.0, 0.0)
    """Change brightness, contrast, saturation, hue by up to this much, hue at most 0.5 (files)."""
    erase: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """Chance that a rectangle of a training example is replaced by noise (files)."""
    rand_augment: Natural = 0
    """Random operations a training example (RandAugment; files)."""
    magnitude: Annotated[float, Interval(ge=0, le=30)] = 9.0
    """Magnitude of these operations, in [0, 30]."""
    shift: Natural = 2
    """Move each training image by up to this many pixels along each axis (sets in memory)."""
    resize: Count | None = None
    """Short side of test images before they are cropped; None: 256 for crops of 224."""
    test_size: Size | None = None
    """Height and width of test crops; None: as in training."""
    views: Literal["single", "ten_crops", "multi"] = "single"
    """Views of a test example. single: the centre, of one clip; ten_crops: corners, centre and
    their mirror images; multi: test-clips x test-crops of a video."""
    test_clips: Count = 10
    """Clips of a video, spread over it (views multi and ten_crops)."""
    test_crops: Literal[1, 3] = 3
    """Crops of a clip along its longer side (views multi)."""
    threads: Count = 2
    """Threads that read and augment examples, in each worker process if there are any."""
    workers: Natural = 0
    """Processes that read and augment examples; 0: threads of the main process alone."""
    prefetch: Count | None = None
    """Batches kept ready, at most; None: as many as fit into 512 MiB, between 2 and 64."""
    cache_gib: Positive = 200.0
    """GiB of this machine's disk, at most, for copies of ArrayRecord shards from a bucket."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """How parameters follow their gradients."""

    name: Literal["sgd", "adam", "adamw", "lamb", "muon"] = "sgd"
    """sgd and adam add the decay to the gradient; adamw, lamb and muon decay by themselves."""
    learning_rate: Positive = 0.1
    """Peak learning rate at a batch of reference-batch; scales linearly with the batch."""
    reference_batch: Count | None = 256
    """Batch size that learning-rate is meant for; None: use the rate as it is."""
    momentum: BelowOne = 0.9
    """Momentum of sgd and muon, first decay rate of the others."""
    second_momentum: BelowOne = 0.999
    """Second decay rate of adam, adamw and lamb, and of muon where it is adamw."""
    nesterov: bool = False
    """Use Nesterov's momentum (sgd)."""
    weight_decay: NonNegative = 1e-4
    """Weight decay."""
    decay: Literal["all", "kernels"] = "all"
    """What decays: all parameters, or kernels only (no biases, no normalisation)."""
    factors: tyro.conf.Fixed[dict[str, float]] = dataclasses.field(default_factory=dict)
    """Learning rates of parts of the model, by dotted name, relative to that of the rest."""
    layer_decay: Annotated[float, Interval(gt=0, le=1)] = 1.0
    """Learning rate of each residual block relative to that of the next, the stem's to the first
    block's, the last block's to the head's."""
    head_rate: Positive = 1.0
    """Learning rate of the head, relative to the rest."""
    bias_factor: NonNegative = 1.0
    """Learning rate of the biases of convolutions and linear layers, relative to the rest."""
    clip_norm: Positive | None = None
    """Scale the gradient down to this global norm when it is longer; None: never."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the learning rate changes; times are fractions of the run, so any length fits."""

    name: Literal["cosine", "step", "constant"] = "cosine"
    """Shape after the warm-up: half a cosine to zero, drops, or none."""
    warmup: BelowOne = 0.05
    """Fraction of the run over which the rate rises linearly from zero."""
    drop_at: tuple[Annotated[float, Interval(gt=0, lt=1)], ...] = (1 / 3, 2 / 3, 8 / 9)
    """Fractions of the run at which the step schedule drops."""
    drop_factor: Positive = 0.1
    """Factor of each drop."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
    """The devices that share the work. Each gets a part of the batch, or of its images."""

    devices: Count | None = None
    """Number of devices to use; None: all of them, of all processes."""
    fsdp: Count = 1
    """Number of devices that share one copy of parameters and optimiser state; 1: one each."""
    fsdp_min_size: Natural = 2**14
    """Arrays of fewer elements than this are not shared."""
    space: Count = 1
    """Number of devices that share each image, by its rows; 1: each has whole images."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Processes:
    """The processes of a run over several hosts, or several of one host."""

    join: bool = False
    """Wait for the other processes. Clouds' and clusters' schedulers tell where they are."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where no scheduler tells; needs count and index too."""
    count: int | None = None
    """Number of processes."""
    index: int | None = None
    """Number of this process, from 0."""
    log: Literal["first", "all"] = "first"
    """Which processes print; all: each line begins with the number of its process."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Weights to begin from, in place of random ones. A run that goes on has its own."""

    weights: Path | None = None
    """A PyTorch or safetensors file, a folder (of the Hub, Orbax or a run), or a Hub name."""
    entry: str | None = None
    """Which set of weights, where there are several: its place in the file, joined by dots."""
    allow_non_finite: bool = False
    """Begin from weights even if some are NaN or infinite."""
    inflate: str | None = None
    """Model for images that the weights are of, to be inflated to a model for videos."""
    inflate_options: tyro.conf.Fixed[dict[str, Any]] = dataclasses.field(default_factory=dict)
    """Options of that model; set in the config file."""
    skip: tuple[str, ...] = ()
    """Parts of the model, by dotted name or glob, that keep their random values, such as head. A
    head of other classes is one of them without being named."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One training run."""

    model: str | None = "ffc_resnet18"
    """Model to train; spectral-flax list shows them. None: that of the pretrained weights, with
    the options, size and scaling of images that these tell."""
    options: tyro.conf.Fixed[dict[str, Any]] = dataclasses.field(default_factory=dict)
    """Options of the model; on the command line --options.NAME VALUE, for any option it has."""
    task: str = "classification"
    """Task: classification, segmentation, inpainting, pose, or one that a plugin registers. It
    decides loss, metrics and the shape of a batch."""
    task_options: tyro.conf.Fixed[dict[str, Any]] = dataclasses.field(default_factory=dict)
    """Options of the task; on the command line --task-options.NAME VALUE, for any that it has."""
    freeze: tuple[str, ...] = ()
    """Parts of the model, by dotted name or glob, that keep their parameters and statistics, such
    as stem stage1; every part but the head: stem stage?."""
    plugins: tuple[str, ...] = ()
    """Python files, in a config from its own folder, or installed modules, that register models,
    blocks, data sets and tasks of your own; checkpoints remember where they are."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type that the model computes in; parameters and their averages are float32."""
    epochs: Positive = 10.0
    """Passes over the training examples."""
    steps: Annotated[int, Ge(1), Lt(2**31)] | None = None
    """Optimisation steps; takes the place of epochs."""
    batch_size: Count = 128
    """Examples a step, over all devices together."""
    accumulate: Count = 1
    """Parts of a batch to compute one after another, for the memory of a part."""
    remat: bool = False
    """Keep only the inputs of blocks for the backward pass and compute the rest a second time."""
    ema_decay: BelowOne = 0.0
    """Decay of an exponential moving average of the parameters, which is evaluated; 0: none."""
    non_finite: Literal["stop", "skip"] = "stop"
    """What a loss or gradient that is not finite does: stop the run, or undo its step and count."""
    parallel: Literal["pjit", "pmap"] = "pjit"
    """pjit: one program over the whole batch; pmap: one a device, which exchange gradients."""
    sync_batch_norm: bool = True
    """With pmap, normalise by the statistics of the whole batch; else of each device's part."""
    seed: Annotated[int, Interval(ge=0, lt=2**32)] = 0
    """Seed of everything random: initial parameters, order of examples, augmentation, dropout."""
    data: Data = Data()
    """Where examples come from and how they are varied."""
    optimizer: Optimizer = Optimizer()
    """How parameters follow their gradients."""
    schedule: Schedule = Schedule()
    """How the learning rate changes."""
    mesh: Mesh = Mesh()
    """The devices that share the work. Each gets a part of the batch, or of its images."""
    processes: Processes = Processes()
    """The processes of a run over several hosts, or several of one host."""
    pretrained: Pretrained = Pretrained()
    """Weights to begin from, in place of random ones. A run that goes on has its own."""
    workdir: Path | None = None
    """Directory of the run: checkpoints, metrics, curves. None: runs/NAME-OF-THE-CONFIG."""
    log_every: Count = 10
    """Steps between two lines of metrics."""
    eval_every: Count | None = None
    """Steps between two evaluations on the held-out examples; None: at the end only."""
    eval_batch_size: Count = 256
    """Examples a batch in evaluation, over all devices together."""
    save_every: Count = 500
    """Steps between two checkpoints; the last step is always saved."""
    keep: Count = 2
    """Checkpoints kept, counted from the newest."""
    best: str | None = None
    """Metric, such as accuracy, whose best checkpoint is kept too, in best/; None: do not."""
    tensorboard: bool = False
    """Write the metrics for TensorBoard too; needs the package tensorboardX."""
    profile_steps: Natural = 0
    """Steps to trace with JAX's profiler after the first few, into the folder profile."""


IDENTITY = (
    "model",
    "options",
    "task",
    "task_options",
    "batch_size",
    "seed",
    "ema_decay",
    "freeze",
    "data.name",
    "data.num_classes",
    "data.frames",
    "data.stride",
    "data.segments",
    "optimizer.name",
)
"""A saved run goes on only if these are unchanged: others would give its state another meaning."""
SHAPING = (*IDENTITY, "data", "optimizer")
"""What else decides which arrays a state has: a name stands for all fields of its group."""


def differences(old: Config, new: Config, names: Sequence[str] = IDENTITY) -> list[str]:
    """Name the fields, by default those of a run's identity, in which two configs differ."""
    found: dict[str, str] = {}
    for name in names:
        a, b = (operator.attrgetter(name)(config) for config in (old, new))
        if dataclasses.is_dataclass(a):
            fields = [f"{name}.{field.name}" for field in dataclasses.fields(a)]
            found |= {line.partition(":")[0]: line for line in differences(old, new, fields)}
        elif isinstance(a, dict) and isinstance(b, dict):  # one option of many, whole
            for key in dict.fromkeys([*a, *b]):
                if key not in a or key not in b or a[key] != b[key]:
                    pair = [shown(repr(d[key])) if key in d else "not given" for d in (a, b)]
                    found[f"{name}.{key}"] = f"{name}.{key}: {pair[0]} there, {pair[1]} here"
        elif a != b:
            option = f" (--{name.replace('_', '-')})" if "_" in name else ""
            found[name] = f"{name}: {shown(repr(a))} there, {shown(repr(b))} here{option}"
    return list(found.values())


def to_text(config: Config) -> str:
    """Write a config as one Python literal, which keeps tuples and integer keys as they are."""
    return repr(dataclasses.asdict(config))


def from_text(text: str) -> Config:
    """Read what `to_text` wrote."""
    return from_values(ast.literal_eval(text))


def from_values(values: Mapping[str, Any]) -> Config:
    """Return the config of a stored dictionary; fields that it lacks have their defaults."""
    values = _moved(dict(values))
    values["options"] = current_options(values.get("options", {}))
    groups = {
        field.name: type(field.default)
        for field in dataclasses.fields(Config)
        if dataclasses.is_dataclass(field.default)
    }
    given = {name: groups[name](**v) if name in groups else v for name, v in values.items()}
    return Config(**given)


# Fields by the names that earlier runs store.
_RENAMED = {"average": "ema_decay", "start": "pretrained"}
# Options that earlier runs kept elsewhere: group and name, then the task and the name it has there.
_MOVED = {
    ("", "label_smoothing"): ("classification", "label_smoothing"),
    ("", "mixup"): ("classification", "mixup"),
    ("", "cutmix"): ("classification", "cutmix"),
    ("", "views_at_once"): ("classification", "views_at_once"),
    ("data", "boxes"): ("pose", "boxes"),
    ("data", "holes"): ("inpainting", "test_masks"),
    ("data", "distort"): ("inpainting", "distort"),
}


def _moved(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a stored config under the names and in the places of now."""
    values = {_RENAMED.get(name, name): value for name, value in values.items()}
    values = values | {"data": dict(values.get("data", {}))}
    options = dict(values.get("task_options", {}))
    for (group, old), (task, new) in _MOVED.items():
        value = (values[group] if group else values).pop(old, None)
        if value and task == values.get("task", Config.task):
            options[new] = value
    encoder = options.pop("encoder", None) or {}
    options |= {f"encoder_{name}": value for name, value in encoder.items()}
    return values | {"task_options": options}
