# SPDX-License-Identifier: Apache-2.0
"""Optimisers and learning-rate schedules, by optax."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from spectral_flax.checkpoints.parts import covers
from train.config import Config, Optimizer, Schedule
from train.errors import UserError


def peak_learning_rate(config: Config) -> float:
    """Return the learning rate after warm-up, scaled with the batch."""
    rate, reference = config.optimizer.learning_rate, config.optimizer.reference_batch
    return rate if reference is None else rate * config.batch_size / reference


def make_schedule(schedule: Schedule, peak: float, steps: int) -> optax.Schedule:
    """Return the learning rate as a function of the step, counted from 0, of a run of ``steps``.

    The warm-up counts inside the run and the cosine is not shifted by it, as in Goyal et al.,
    "Accurate, large minibatch SGD", 2017, and the recipes built on it; the first step of the
    warm-up already learns.
    """
    warmup = round(schedule.warmup * steps)
    drops = jnp.asarray([t * steps for t in schedule.drop_at], jnp.float32)

    def learning_rate(step):
        step = jnp.asarray(step, jnp.float32)
        match schedule.name:
            case "cosine":
                rate = peak * 0.5 * (1 + jnp.cos(jnp.pi * step / steps))
            case "step":
                rate = peak * jnp.float32(schedule.drop_factor) ** jnp.sum(step >= drops)
            case "constant":
                rate = jnp.float32(peak)
        return jnp.where(step < warmup, peak * (step + 1) / max(warmup, 1), rate)

    return learning_rate


def make_optimizer(
    optimizer: Optimizer,
    learning_rate: optax.Schedule,
    players: Sequence[str] = (),
    frozen: Collection[str] = (),
) -> optax.GradientTransformation:
    """Return the gradient transformation that ``optimizer`` describes.

    Each of the ``players`` of an adversarial model is clipped by itself, so that its step does not
    depend on the gradients of the others. The ``frozen`` parameters, by name, do not change and
    have no state.
    """
    tx = _of_all(optimizer, learning_rate, players)
    if not frozen:
        return tx
    label = lambda params: {name: "frozen" if name in frozen else "trained" for name in params}
    return optax.partition({"frozen": optax.set_to_zero(), "trained": tx}, label)


def _of_all(
    optimizer: Optimizer, learning_rate: optax.Schedule, players: Sequence[str]
) -> optax.GradientTransformation:
    o = optimizer
    decayed = optax.add_decayed_weights(
        o.weight_decay, mask=kernels if o.decay == "kernels" else None
    )
    adam = optax.scale_by_adam(o.momentum, o.second_momentum)
    rules = {
        "sgd": lambda: [decayed, optax.trace(o.momentum, nesterov=o.nesterov)],
        "adam": lambda: [decayed, adam],
        "adamw": lambda: [adam, decayed],
        "lamb": lambda: [adam, decayed, optax.scale_by_trust_ratio()],
        "muon": lambda: [_muon(o)],
    }[o.name]()
    if o.clip_norm is not None:
        rules.insert(0, clip_parts(o.clip_norm, tuple(dict.fromkeys((*players, *o.factors)))))
    if o.factors:
        rules.append(scale_parts(o.factors))
    if o.layer_decay != 1 or o.head_rate != 1:
        rules.append(optax.stateless(lambda updates, _: _scale_layers(updates, o)))
    if o.bias_factor != 1:
        rules.append(optax.stateless(lambda updates, _: _scale_biases(updates, o.bias_factor)))
    return optax.chain(*rules, optax.scale_by_learning_rate(learning_rate))


def _muon(o: Optimizer) -> optax.GradientTransformation:
    """Return Muon for kernels, as matrices from all inputs of a window to outputs; AdamW elsewhere.

    Jordan et al., "Muon", 2024; updates are scaled to the size of AdamW's, so that one learning
    rate serves both: Liu et al., "Muon is scalable for LLM training", 2025.
    """

    def matrices(params):
        dimensions = optax.contrib.MuonDimensionNumbers
        return {
            # optax asks this again of the part it gives to Muon: what is masked there has no shape
            name: dimensions(tuple(range(ndim - 1)), ndim - 1) if ndim > 1 else None
            for name, ndim in ((name, getattr(a, "ndim", 0)) for name, a in params.items())
        }

    return optax.contrib.muon(
        learning_rate=-1.0,  # turned back: the schedule and the sign follow, as for the others
        beta=o.momentum,
        weight_decay=o.weight_decay,
        adam_b1=o.momentum,
        adam_b2=o.second_momentum,
        adam_weight_decay=o.weight_decay if o.decay == "all" else 0.0,
        muon_weight_dimension_numbers=matrices,
        consistent_rms=0.2,
    )


def _scale_biases(updates: Mapping[str, jax.Array], factor: float) -> dict[str, jax.Array]:
    """Multiply the updates of biases, but not of those that stand beside a scale, in norms."""

    def is_bias(name: str) -> bool:
        return name.endswith(".bias") and f"{name.removesuffix('bias')}scale" not in updates

    return {n: update * factor if is_bias(n) else update for n, update in updates.items()}


_LAYER = re.compile(r"(?:.*\.)?(?P<part>stem|stage(?P<stage>\d+)\.(?P<block>\d+)|head)\..*")


def layer_rates(names: Iterable[str], decay: float, head_rate: float = 1.0) -> dict[str, float]:
    """Return the learning rate of each parameter of a residual network relative to the schedule's.

    The stem is the first layer, each block of the stages the next, and what follows them the last:
    layer i of n has ``decay ** (n - 1 - i)``. Clark et al., "ELECTRA", ICLR 2020; Bao et al.,
    "BEiT", ICLR 2022. That of the head is multiplied by ``head_rate``.

    Raises:
      UserError: the model has no stages, or no head.
    """
    matches = {name: _LAYER.fullmatch(name) for name in names}
    place = lambda m: (int(m["stage"]), int(m["block"])) if m["stage"] else (0, 0)
    found = {match["part"]: place(match) for match in matches.values() if match}
    places = sorted(found[part] for part in found if part != "head")
    if decay != 1 and not any(part.startswith("stage") for part in found):
        raise UserError(
            f"--optimizer.layer-decay {decay}: the model has no stages; 1 leaves all rates alone"
        )
    if head_rate != 1 and "head" not in found:
        raise UserError(f"--optimizer.head-rate {head_rate}: the model has no head")
    rates = {}
    for name, match in matches.items():
        part = match["part"] if match else "head"
        depth = len(places) if part == "head" else places.index(found[part])
        is_head = match is not None and part == "head"
        rates[name] = decay ** (len(places) - depth) * (head_rate if is_head else 1)
    return rates


def _scale_layers(updates: Mapping[str, jax.Array], o: Optimizer) -> dict[str, jax.Array]:
    is_masked = lambda update: isinstance(update, optax.MaskedNode)  # frozen
    rates = layer_rates(updates, o.layer_decay, o.head_rate)
    return {n: u if is_masked(u) else u * rates[n] for n, u in updates.items()}


def part_of(name: str, parts: Iterable[str]) -> str:
    """Return the part that holds the dotted ``name``, the innermost of several; "" if none does."""
    return max((part for part in parts if covers(part, name)), key=len, default="")


def clip_parts(norm: float, parts: Sequence[str]) -> optax.GradientTransformation:
    """Clip the gradient of each of the parts by itself, and that of all others together."""
    return _by_part({part: optax.clip_by_global_norm(norm) for part in (*parts, "")})


def scale_parts(factors: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiply the updates of the parts of a model, given by the dotted names of modules."""
    scaled = {part: optax.scale(factor) for part, factor in factors.items()}
    return _by_part(scaled | {"": optax.identity()})


def _by_part(rules: Mapping[str, optax.GradientTransformation]) -> optax.GradientTransformation:
    def parts(params: Mapping[str, jax.Array]) -> dict[str, str]:
        names = [part for part in rules if part]
        unknown = [part for part in names if not any(part_of(n, [part]) for n in params)]
        if unknown:
            raise UserError(f"--optimizer.factors names {unknown}; the model has no such part")
        return {name: part_of(name, names) for name in params}

    return optax.partition(rules, parts)


def kernels(params):
    """Mark the kernels: arrays of rank 2 and more, which leaves out biases and norms."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
