# SPDX-License-Identifier: Apache-2.0
"""The tables of the documentation that follow from the code: `python -m docs.tables` writes them.

Each stands between two comments of its name, ``<!-- costs -->`` and ``<!-- /costs -->``.
"""

import pathlib
import sys
from collections.abc import Callable, Iterable

from flax import nnx

import spectral_flax as sf
from spectral_flax.analysis.profile import Cost, profile
from spectral_flax.analysis.published import TABLES
from spectral_flax.checkpoints.public.table import PublicWeights, rows_of, table
from spectral_flax.layers.blocks import PUBLISHED
from spectral_flax.models.registry import MODELS

ROOT = pathlib.Path(__file__).parent.parent
README_MODELS = [
    "resnet18",
    "resnet50",
    "resnet101",
    "resnext50_32x4d",
    "ffc_resnet18",
    "ffc_resnet50",
    "ffc_resnet101",
    "resnet50_nl",
    "resnet50_bat",
    "resnet50_srl_fft",
    "octave_resnet50",
    "gfnet_tiny",
    "c2d_resnet50",
    "c2d_resnet50_bat3d",
    "i3d_resnet50_nl",
    "ffc_c2d_resnet50",
    "tsm_resnet50",
    "s3d",
    "pose_resnet50_srl_fft",
    "lama_big",
]
FAMILIES = {
    "resnet": "ResNets of images",
    "resnext": "ResNeXts of images",
    "gfnet": "Global filter networks",
    "octave": "Octave convolutions, images and videos",
    "inception": "Inception networks, images and videos",
    "pose_resnet": "Poses",
    "unet": "Segmentation: U-Net",
    "deeplabv3": "Segmentation: DeepLabV3",
    "ccnet": "Segmentation: CCNet",
    "lama": "Inpainting: LaMa",
    "c2d": "Videos: C2D",
    "i3d": "Videos: I3D",
    "tsm": "Videos: TSM and TSN",
    "r3d": "Videos: R(2+1)D, R3D, MC3",
    "artnet": "Videos: ARTNet",
    "glore": "Videos: GloRe",
    "fno": "Partial differential equations: FNO",
}


def markdown(head: str, rows: Iterable[str]) -> str:
    """Return a table of rows ``a | b``; a title that ends in ``)`` or ``:`` is over numbers."""
    titles = head.split(" | ")
    lines = [" | ".join(title.rstrip(":") for title in titles)]
    lines += [" | ".join("---:" if title[-1] in "):" else "---" for title in titles), *rows]
    return "".join(f"| {line} |\n" for line in lines)


def cost_of(name: str) -> Cost:
    """Return the cost of a model on one input of its card's size."""
    model = sf.abstract_model(name)
    channels = getattr(model, "in_features", 3)
    return profile(model, (1, *sf.card(name).input_size, channels)).total


def model_row(name: str, *more: str) -> str:
    """Return the line of one model: its cost on one input of its card's size."""
    card, total = sf.card(name), cost_of(name)
    size = "x".join(map(str, card.input_size))
    cost = f"{total.parameters / 1e6:.2f} | {total.multiply_adds / 1e9:.2f}"
    return " | ".join([f"`{name}`", size, cost, *more, card.published])


def readme_models() -> str:
    """Return the table of a few models."""
    head = "model | input | parameters (M) | multiply-adds (G) | published"
    return markdown(head, map(model_row, README_MODELS))


def printed_cost(name: str) -> str:
    """Return what the paper of a model prints of its cost, or nothing."""
    options = MODELS[name].options
    found = []
    for kind, (_, rows) in TABLES.items():
        for row in (row for row in rows if row.model == name):
            own = {key: value for key, value in row.options.items() if key != "num_classes"}
            same = all(options[key].default == value for key, value in own.items())
            if same and row.shape[1:-1] == sf.card(name).input_size:
                unit = "Gi" if kind == "pose" else "G"
                parts = [f"{row.gflops} {unit}", f"{row.parameters} M" if row.parameters else ""]
                found.append(("adds " if row.base else "") + ", ".join(filter(None, parts)))
    return min(found, key=lambda text: text.startswith("adds"), default="")


def shown_models() -> list[str]:
    """Return the names that papers or public files have: the others follow from these."""
    return [name for name in MODELS if sf.card(name).published or rows_of(name) or name == "fno2d"]


def zoo_row(name: str) -> str:
    """Return the line of a model on the page of all."""
    return model_row(name, printed_cost(name), str(len(rows_of(name)) or ""))


def prepared(card: sf.Card) -> str:
    """Return how a model's input is prepared, in words."""
    numbers = lambda values: ", ".join(f"{value:.4g}" for value in values)
    fit = {"crop": f"crop of the short side at {card.resize}", "stretch": "stretched"}
    told = [card.channel_order, fit.get(card.fit, "any size"), f"mean {numbers(card.mean)}"]
    return ", ".join([*told, f"deviation {numbers(card.std)}"])


def models() -> str:
    """Return a section for each family: what is known of it, and its models."""
    head = "model | input | parameters (M) | multiply-adds (G) | as printed | files: | published"
    sections = []
    for family, title in FAMILIES.items():
        names = [name for name in shown_models() if MODELS[name].family == family]
        cards = [sf.card(name) for name in names]
        count = sum(model.family == family for model in MODELS.values())
        facts = {
            "Papers": [card.paper for card in cards],
            "Code": [f"<https://github.com/{card.code}>" for card in cards if card.code],
            "Licence of the code": [card.licence for card in cards],
            "Input": map(prepared, cards),
            "Notes": [card.note for card in cards],
        }
        lines = []
        for kind, values in facts.items():
            told = list(dict.fromkeys(filter(None, values)))
            lines += [f"- {kind}: {'; '.join(told)}"] if told else []
        task = MODELS[names[0]].task or "regression"
        listed = f'{count} names: `spectral-flax list "*" --family {family}`'
        sections += [f"### {title} {{ #{family} }}", f"Task: {task}. {listed}."]
        sections += [markdown(head, map(zoo_row, names)).rstrip()]
        sections += ["<details markdown>\n<summary>Card</summary>", "\n".join(lines), "</details>"]
    links = " · ".join(f"[{title}](#{family})" for family, title in FAMILIES.items())
    return "\n\n".join(["", links, *sections, "", ""]).replace("\n\n\n", "\n\n")


def block_cost(name: str) -> Cost:
    """Return the cost of a block on 28 x 28 positions of 256 channels (of 4 frames, for bat3d)."""
    row = sf.layers.BLOCKS[name]
    rank, size = row.ranks[0], (4, 28, 28)[-row.ranks[0] :]
    options = row.for_map({}, size)
    build = lambda: sf.layers.block(name, 256, rank=rank, rngs=nnx.Rngs(0), **options)
    return profile(nnx.eval_shape(build), (1, *size, 256)).total


def cost_row(name: str) -> str:
    """Return the line of a block: where its work is."""
    total = block_cost(name)
    kinds = (total.weights, total.attention, total.transforms)
    counts = " | ".join(f"{count / 1e6:.1f}" for count in kinds)
    return f"`{name}` | {total.parameters / 1e3:.1f} | {counts}"


def costs() -> str:
    """Return the table of blocks."""
    head = "block | parameters (k) | weights (M) | products of activations (M) | transforms (M)"
    return markdown(head, map(cost_row, PUBLISHED))


def _file_row(row: PublicWeights) -> str:
    address = f"https://huggingface.co/{row.hub}" if row.hub else row.url or row.page
    way = "Hub" if row.hub else "fetched" if row.url else "by hand"
    needs = [f"{k}={v!r}" for k, v in row.options.items()]
    needs += [f"{k} {v}" for k, v in row.preprocessing.items()]
    figure = f"{row.of} {row.metric}" if row.metric else ""
    name = f"`{row.name}`" + (" (default)" if row.default else "")
    return f"{name} | `{row.model}` | [{way}]({address}) | {', '.join(needs)} | {figure}"


def weights() -> str:
    """Return a section for each project that published weights, with its files."""
    projects = dict.fromkeys(name.partition("/")[0] for name in table())
    sections = [" · ".join(f"[{project}](#{project})" for project in projects)]
    for project in projects:
        rows = [row for row in table().values() if row.name.partition("/")[0] == project]
        licences = "; ".join(dict.fromkeys(row.licence or "none found" for row in rows))
        protocols = "; ".join(dict.fromkeys(f"{r.of}: {r.protocol}" for r in rows if r.metric))
        about = [f"Source: <{rows[0].source}>.", f"Licence: {licences}."]
        about += [f"Figures are the project's. {protocols}."] if protocols else []
        head = "name | model | where | options, and where the preparation differs | figure"
        sections += [
            f"### {project} {{ #{project} }}",
            " ".join(about),
            markdown(head, map(_file_row, rows)),
        ]
    return "\n\n".join(["", *(section.rstrip() for section in sections), "", ""])[1:-1]


WRITTEN: dict[tuple[str, str], Callable[[], str]] = {
    ("README.md", "models"): readme_models,
    ("docs/operators.md", "costs"): costs,
    ("docs/models.md", "families"): models,
    ("docs/weights.md", "files"): weights,
}


def split(path: str, name: str) -> tuple[str, str, str]:
    """Return a page up to a table, the table, and what follows."""
    before, start, rest = (ROOT / path).read_text().partition(f"<!-- {name} -->\n")
    table, end, after = rest.partition(f"<!-- /{name} -->\n")
    return before + start, table, end + after


if __name__ == "__main__":
    for (path, name), text in WRITTEN.items():
        if sys.argv[1:] in ([], [name]):
            before, _, after = split(path, name)
            (ROOT / path).write_text(before + text() + after)
