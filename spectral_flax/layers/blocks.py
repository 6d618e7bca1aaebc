# SPDX-License-Identifier: Apache-2.0
"""The table of blocks that can follow any residual block: one row holds all that is said of one."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from flax import nnx

from spectral_flax.layers.attention import (
    DoubleAttention,
    GraphReasoning,
    RecurrentCrissCross,
)
from spectral_flax.layers.bilinear import BilinearAttention, bat, bat3d
from spectral_flax.layers.non_local import (
    CompactNonLocal,
    NonLocal,
    compact_non_local_rbf,
    non_local,
)
from spectral_flax.layers.numerics import DEFAULTS, parameters_of
from spectral_flax.layers.places import (
    Places,
    after_each_run,
    at_the_start_of_each_run,
    before_the_last,
)
from spectral_flax.layers.sizes import Options, grid, grids, map_size, modes, spectrum
from spectral_flax.layers.spectral import SpectralResidual, srl_dct, srl_fft, srl_lo
from spectral_flax.layers.spectral_filters import afno, fno, gfnet
from spectral_flax.messages import closest

Builder = Callable[..., nnx.Module]
"""Builds a block: a function ``make(features, *, rank, rngs, **options)``, or a class."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """A row of the table.

    Attributes:
      make: constructor ``make(features, rank=…, rngs=…, **options)``.
      options_of: the class whose options ``make`` passes on; None: it lists all.
      set_options: those of them that it sets itself.
      title: what a network with the block is said to have.
      paper: source.
      ranks: 2 where there is one for images, 3 where there is one for videos.
      new_is_identity: whether a new block returns its input.
      places: where the paper has it in a residual network, given depths and rank.
      network_options: options of the published networks, given the number of layers and the rank.
      sized: options that follow from the map's size, given the others; these take precedence.
      size_options: options that only ``sized`` reads.
    """

    make: Builder
    options_of: type[nnx.Module] | None = None
    set_options: tuple[str, ...] = ()
    title: str
    paper: str
    ranks: tuple[int, ...] = (2, 3)
    new_is_identity: bool = False
    places: Callable[[Sequence[int], int], Places] = after_each_run
    network_options: Callable[[int, int], dict[str, Any]] = lambda layers, rank: {}
    sized: Callable[[Options, tuple[int, ...]], dict[str, Any]] = lambda options, size: {}
    size_options: tuple[str, ...] = ()

    def for_map(self, options: Options, size: tuple[int, ...]) -> dict[str, Any]:
        """Return the options of a block for maps of ``size``, (T,) H, W."""
        rest = {k: v for k, v in options.items() if k not in self.size_options}
        return self.sized(options, size) | rest


_CGNL = "Yue et al., Compact Generalized Non-local Network, NeurIPS 2018"
_SRL = "Chi et al., Fast Non-Local Neural Networks with Spectral Residual Learning, ACM MM 2019"
_BAT = (
    "Chi et al., Non-Local Neural Networks with Grouped Bilinear Attentional Transforms, CVPR 2020"
)

BLOCKS = {
    "nl": Block(
        make=non_local,
        options_of=NonLocal,
        title="non-local blocks",
        paper="Wang et al., Non-local Neural Networks, CVPR 2018",
        new_is_identity=True,
    ),
    "a2": Block(
        make=DoubleAttention,
        title="double attention blocks",
        paper="Chen et al., A2-Nets: Double Attention Networks, NeurIPS 2018",
        new_is_identity=True,
    ),
    "cgnl": Block(
        make=CompactNonLocal,
        title="a compact generalized non-local block",
        paper=_CGNL,
        new_is_identity=True,
        places=before_the_last,
    ),
    "cgnl_rbf": Block(
        make=compact_non_local_rbf,
        options_of=CompactNonLocal,
        title="a compact generalized non-local block (RBF)",
        paper=_CGNL,
        new_is_identity=True,
        places=before_the_last,
    ),
    "rcca": Block(
        make=RecurrentCrissCross,
        title="recurrent criss-cross attention blocks",
        paper="Huang et al., CCNet: Criss-Cross Attention for Semantic Segmentation, ICCV 2019",
    ),
    "glore": Block(
        make=GraphReasoning,
        title="graph reasoning units",
        paper="Chen et al., Graph-Based Global Reasoning Networks, CVPR 2019",
        new_is_identity=True,
        places=at_the_start_of_each_run,
        network_options=lambda layers, rank: {"normalize": True} if rank == 2 else {},
    ),
    "srl_fft": Block(
        make=srl_fft,
        options_of=SpectralResidual,
        set_options=("pair",),
        title="spectral residual blocks (Fourier)",
        paper=_SRL,
        new_is_identity=True,
        sized=spectrum,
        size_options=("spectrum_relu",),
    ),
    "srl_dct": Block(
        make=srl_dct,
        options_of=SpectralResidual,
        set_options=("pair",),
        title="spectral residual blocks (cosine)",
        paper=f"no paper has it; after {_SRL}",
        new_is_identity=True,
        sized=spectrum,
        size_options=("spectrum_relu",),
    ),
    "srl_lo": Block(
        make=srl_lo,
        options_of=SpectralResidual,
        set_options=("pair", "spectrum_size"),
        title="spectral residual blocks (learned orthogonal)",
        paper=_SRL,
        sized=map_size,
    ),
    "gfnet": Block(
        make=gfnet,
        title="global filters of the spectrum",
        paper="Rao et al., Global Filter Networks for Image Classification, NeurIPS 2021",
        new_is_identity=True,
        sized=map_size,
    ),
    "afno": Block(
        make=afno,
        title="adaptive Fourier mixers",
        paper="Guibas et al., Adaptive Fourier Neural Operators, ICLR 2022",
        new_is_identity=True,
    ),
    "fno": Block(
        make=fno,
        title="Fourier neural operators",
        paper="Li et al., Fourier Neural Operator for Parametric Partial Differential Equations, "
        "ICLR 2021",
        new_is_identity=True,
        sized=modes,
    ),
    "bat": Block(
        make=bat,
        options_of=BilinearAttention,
        title="bilinear attention blocks",
        paper=_BAT,
        network_options=lambda layers, rank: {"dropout": 0.0} if rank == 2 and layers <= 34 else {},
        sized=grid,
    ),
    "bat3d": Block(
        make=bat3d,
        options_of=BilinearAttention,
        title="spatio-temporal bilinear attention blocks",
        paper=_BAT,
        ranks=(3,),
        sized=grids,
    ),
}
"""Blocks by name; `register_block` adds to them."""
PUBLISHED = tuple(BLOCKS)
"""Names of the blocks of this library; users register others."""


def blocks_of_rank(rank: int) -> list[str]:
    """Return the names of the blocks for images (2) or videos (3)."""
    return [name for name, row in BLOCKS.items() if rank in row.ranks]


def register_block(name: str | None = None, **about: Any) -> Callable[[Builder], Builder]:
    """Return a decorator that adds a function, or a class, to `BLOCKS` under ``name`` or its own.

    The function is ``make(features, *, rank, rngs, **options)`` and returns a module that maps
    ``[N, *spatial, features]`` to the same shape. One with a parameter ``size`` gets the H, W of
    its map; ``**numerics: Unpack[layers.Numerics]`` stands for ``rngs``, ``dtype``, ``param_dtype``
    and ``precision``. ``about`` are fields of `Block`, such as ``ranks``; the title is the
    function's docstring, where there is one.

    Raises:
      ValueError: the name is taken, or is no identifier.
      TypeError: what is decorated lacks one of these parameters, or ``about`` has another field.
    """
    if name is not None and not (isinstance(name, str) and name.isidentifier()):
        raise ValueError(f"name={name!r}; expected an identifier, as in @register_block('name')")
    fields = [field.name for field in dataclasses.fields(Block) if field.name != "make"]
    for field in about:
        if field not in fields:
            raise TypeError(f"register_block has no argument {field!r}; {closest(field, fields)}")

    def enter(make: Builder) -> Builder:
        own_name, row = _own_row(make)
        key = own_name if name is None else name
        if key in BLOCKS:
            raise ValueError(f"a block named {key!r} is registered already")
        BLOCKS[key] = dataclasses.replace(row, **about)
        return make

    return enter


def row_of(block: str | Builder) -> tuple[str, Block]:
    """Return name and row of a block: a name of `BLOCKS`, or a function as in `register_block`.

    Raises:
      ValueError: no such name; the message names the closest.
      TypeError: it is neither a name nor such a function.
    """
    if not isinstance(block, str):
        return _own_row(block)
    if block not in BLOCKS:
        raise ValueError(f"no block {block!r}; {closest(block, BLOCKS)}")
    return block, BLOCKS[block]


def _own_row(make: Builder) -> tuple[str, Block]:
    if not callable(make):
        raise TypeError(f"block={make!r}; expected a name, or a function that builds a module")
    name = _name_of(make)
    parameters = parameters_of(make)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    missing = [p for p in ("features", "rank", "rngs") if p not in parameters and not takes_any]
    if missing:
        raise TypeError(
            f"the block {name} has no parameter {', '.join(missing)}; "
            f"expected {name}(features, *, rank, rngs, ...)"
        )
    sized = map_size if "size" in parameters else Block.sized
    return name, Block(make=make, title=_first_line(make) or name, paper="", sized=sized)


def _name_of(make: Builder) -> str:
    if isinstance(make, functools.partial):
        return _name_of(make.func)
    return make.__name__ if inspect.isroutine(make) or inspect.isclass(make) else repr(make)


def _first_line(make: Builder) -> str:
    documented = inspect.isroutine(make) or inspect.isclass(make)
    text = (make.__doc__ if documented else None) or ""
    return text.partition("\n")[0].rstrip(".")


def block(
    name: str | Builder,
    features: int,
    *,
    rank: int = 2,
    size: tuple[int, ...] | None = None,
    rngs: nnx.Rngs,
    **options: Any,
) -> nnx.Module:
    """Build the block ``name`` of `BLOCKS`: ``[N, *spatial, features]`` to the same shape.

    ``name`` may be a function as in `register_block` too. ``rank`` is 2 for images ``[N, H, W, C]``
    and 3 for videos ``[N, T, H, W, C]``. ``size`` is the map's H, W, which a block that learns a
    matrix for each axis ("srl_lo") needs and the others do not look at. ``options`` are those of
    the block.

    Raises:
      ValueError: no such block, or none of this rank; ``size`` is missing; or an option has an
        impossible value.
      TypeError: the block has no such option, or its function returns no module.
    """
    name, row = row_of(name)
    known = _options_of(row)
    for option in options:
        if option not in known:
            raise TypeError(f"block {name!r} has no option {option!r}; {closest(option, known)}")
    if rank not in row.ranks:
        kind = "videos" if row.ranks == (3,) else "images"
        raise ValueError(f"rank={rank!r}; {name} is for {kind} only")
    if "size" in known:
        if size is None:
            raise ValueError(f"size=None; block {name!r} is built for maps of one size, (H, W)")
        options["size"] = tuple(size)
    made = row.make(features, rank=rank, rngs=rngs, **options)
    if not isinstance(made, nnx.Module):
        raise TypeError(f"block {name!r} built a {type(made).__name__}; expected an nnx.Module")
    return made


def block_options(name: str | Builder) -> list[str]:
    """Return the names of the options that a block takes."""
    return _options_of(row_of(name)[1])


def _options_of(row: Block) -> list[str]:
    parameters = parameters_of(row.make)
    passed_on = [p for p in parameters.values() if p.kind is p.VAR_KEYWORD]
    if row.options_of is not None:
        parameters |= parameters_of(row.options_of)
    elif passed_on:  # of a function of one's own, to a module that it builds
        parameters |= dict.fromkeys(DEFAULTS)
    out = {"features", "rank", "rngs", *row.set_options, *(p.name for p in passed_on)}
    return [option for option in parameters if option not in out]
