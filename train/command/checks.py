# SPDX-License-Identifier: Apache-2.0
"""Whether the values of a config make sense, each by itself."""

import ast
import dataclasses
from typing import Any

from spectral_flax.messages import shown
from train.command.field_types import conformed
from train.config import Config, Data
from train.errors import UserError
from train.processes.paths import local_path


def check(config: Config) -> Config:
    """Return ``config``, lists as tuples and ``~`` expanded, if its values make sense.

    Raises a UserError that names all faults.
    """
    config, faults = conformed(config)
    config, wrong = _with_paths(config)
    c, o, s = config, config.optimizer, config.schedule
    rules = [
        ("batch-size", c.batch_size, c.batch_size >= 1, "at least 1"),
        ("eval-batch-size", c.eval_batch_size, c.eval_batch_size >= 1, "at least 1"),
        ("steps", c.steps, c.steps is None or c.steps >= 1, "at least 1"),
        ("steps", c.steps, c.steps is None or c.steps < 2**31, "below 2**31"),
        ("epochs", c.epochs, c.epochs > 0, "positive"),
        ("seed", c.seed, 0 <= c.seed < 2**32, "a natural number below 2**32"),
        ("label-smoothing", c.label_smoothing, 0 <= c.label_smoothing < 1, "in [0, 1)"),
        ("mixup", c.mixup, c.mixup >= 0, "at least 0"),
        ("cutmix", c.cutmix, c.cutmix >= 0, "at least 0"),
        ("accumulate", c.accumulate, c.accumulate >= 1, "at least 1"),
        ("average", c.average, 0 <= c.average < 1, "in [0, 1)"),
        ("log-every", c.log_every, c.log_every >= 1, "at least 1"),
        ("eval-every", c.eval_every, c.eval_every is None or c.eval_every >= 1, "at least 1"),
        ("save-every", c.save_every, c.save_every >= 1, "at least 1"),
        ("keep", c.keep, c.keep >= 1, "at least 1"),
        (
            "views-at-once",
            c.views_at_once,
            c.views_at_once is None or c.views_at_once >= 1,
            "at least 1",
        ),
        ("profile-steps", c.profile_steps, c.profile_steps >= 0, "at least 0"),
        ("data.shift", c.data.shift, c.data.shift >= 0, "at least 0"),
        ("data.threads", c.data.threads, c.data.threads >= 1, "at least 1"),
        ("data.workers", c.data.workers, c.data.workers >= 0, "at least 0"),
        (
            "data.prefetch",
            c.data.prefetch,
            c.data.prefetch is None or c.data.prefetch >= 1,
            "at least 1",
        ),
        *_data_rules(c.data),
        ("optimizer.learning-rate", o.learning_rate, o.learning_rate > 0, "positive"),
        (
            "optimizer.reference-batch",
            o.reference_batch,
            o.reference_batch is None or o.reference_batch >= 1,
            "at least 1",
        ),
        ("optimizer.momentum", o.momentum, 0 <= o.momentum < 1, "in [0, 1)"),
        (
            "optimizer.second-momentum",
            o.second_momentum,
            0 <= o.second_momentum < 1,
            "in [0, 1)",
        ),
        ("optimizer.weight-decay", o.weight_decay, o.weight_decay >= 0, "at least 0"),
        ("optimizer.bias-factor", o.bias_factor, o.bias_factor >= 0, "at least 0"),
        (
            "optimizer.clip-norm",
            o.clip_norm,
            o.clip_norm is None or o.clip_norm > 0,
            "positive",
        ),
        ("schedule.warmup", s.warmup, 0 <= s.warmup < 1, "in [0, 1)"),
        ("schedule.drop-at", s.drop_at, all(0 < t < 1 for t in s.drop_at), "inside (0, 1)"),
        ("schedule.drop-factor", s.drop_factor, s.drop_factor > 0, "positive"),
        (
            "mesh.devices",
            c.mesh.devices,
            c.mesh.devices is None or c.mesh.devices >= 1,
            "at least 1",
        ),
        ("mesh.fsdp", c.mesh.fsdp, c.mesh.fsdp >= 1, "at least 1"),
        ("mesh.fsdp-min-size", c.mesh.fsdp_min_size, c.mesh.fsdp_min_size >= 0, "at least 0"),
        (
            "parallel",
            c.parallel,
            c.parallel == "pjit" or c.mesh.fsdp == 1,
            "pjit: parameters are shared (--mesh.fsdp) in the global view only",
        ),
        (
            "start.inflate",
            c.start.inflate,
            c.start.weights is not None or c.start.inflate is None,
            "None without --start.weights",
        ),
        *(
            (f"{name}options", value, _is_literal(value), "Python literals only")
            for name, value in (
                ("", c.options),
                ("task-", c.task_options),
                ("start.inflate-", c.start.inflate_options),
            )
        ),
    ]
    faults += wrong
    faults += [
        f"--{name} is {shown(repr(value))}; expected {expected}"
        for name, value, good, expected in rules
        if not good
    ]
    if faults:
        raise UserError("\n".join(faults))
    return config


def _data_rules(data: Data) -> list[tuple[str, Any, bool, str]]:
    positive = (
        *("num_classes", "size", "frames", "stride", "segments", "short_side"),
        *("resize", "test_size", "test_clips", "std"),
    )
    rules = []
    for name in positive:
        value = getattr(data, name)
        values = value if isinstance(value, tuple) else (value,)
        good = value is None or all(v > 0 for v in values)
        rules.append((f"data.{name.replace('_', '-')}", value, good, "positive"))
    for name in ("scale", "ratio", "short_side"):
        value = getattr(data, name)
        good = 0 < value[0] <= value[1]
        rules.append((f"data.{name.replace('_', '-')}", value, good, "least, greatest"))
    jitter = data.colour_jitter
    good = all(s >= 0 for s in jitter) and jitter[3] <= 0.5
    return [
        *rules,
        ("data.scale", data.scale, data.scale[1] <= 1, "at most 1"),
        ("data.colour-jitter", jitter, good, "at least 0, the last at most 0.5"),
        ("data.rand-augment", data.rand_augment, data.rand_augment >= 0, "at least 0"),
        ("data.magnitude", data.magnitude, 0 <= data.magnitude <= 30, "in [0, 30]"),
    ]


def _with_paths(config: Config) -> tuple[Config, list[str]]:
    """Return the config with its local paths, and what is wrong with them."""
    changes, faults = {}, []
    groups = {"": (config, ("workdir",)), "data": (config.data, ("path", "boxes"))}
    groups["start"] = (config.start, ("weights",))
    for group, (values, names) in groups.items():
        found = {}
        for name in names:
            title = f"--{group}.{name}" if group else f"--{name}"
            path = getattr(values, name)
            try:
                found[name] = path if path is None else local_path(title, path)
            except UserError as error:
                faults.append(str(error))
        changes |= {group: dataclasses.replace(values, **found)} if group else found
    return dataclasses.replace(config, **changes), faults


def _is_literal(value: Any) -> bool:
    try:
        return ast.literal_eval(repr(value)) == value
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
