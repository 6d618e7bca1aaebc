# SPDX-License-Identifier: Apache-2.0
"""Checks of a built site: names without documentation, links to nowhere, parts from elsewhere.

Run: mkdocs build --site-dir SITE && python -m docs.check SITE
"""

import html.parser
import pathlib
import sys
import urllib.parse
import zlib

import griffe

ROOT = pathlib.Path(__file__).parent.parent
# Packages whose ``__all__`` is public, and modules of which every name without _ is.
PACKAGES = [
    "spectral_flax",
    "spectral_flax.functional",
    "spectral_flax.kernels",
    "spectral_flax.layers",
    "spectral_flax.models",
    "train.data",
]
MODULES = [
    *(f"spectral_flax.functional.{name}" for name in ("keypoints", "pairs")),
    *(f"spectral_flax.analysis.{name}" for name in ("attention", "receptive_field", "spectra")),
    *(f"spectral_flax.analysis.{name}" for name in ("paths", "figures", "panels", "profile")),
    "spectral_flax.inference.preparation",
    *("train.config", "train.task", "train.tasks", "train.run.loop"),
]
LOADED = ("href", "src", "poster")  # attributes that hold an address
FETCHED = ("link", "script", "img", "iframe", "source", "video")  # tags whose address is fetched


def public_names() -> dict[str, griffe.Object]:
    """Return what is public, by its dotted name."""
    loader = griffe.GriffeLoader(search_paths=[ROOT])
    for package in ("spectral_flax", "train"):
        loader.load(package)
    loader.resolve_aliases(external=False)
    names = {}
    for path in PACKAGES:
        package = loader.modules_collection[path]
        names |= {f"{path}.{name}": package[name] for name in map(str, package.exports)}
    for path in MODULES:
        module = loader.modules_collection[path]
        own = {f"{path}.{name}": it for name, it in module.members.items() if not it.is_alias}
        names |= {name: it for name, it in own.items() if not it.name.startswith("_")}
    return names


def undocumented(site: pathlib.Path) -> list[str]:
    """Return the public names that are not in the reference, or of which nothing is said."""
    inventory = site.joinpath("objects.inv").read_bytes().split(b"\n", 4)[4]
    listed = {line.split()[0] for line in zlib.decompress(inventory).decode().splitlines()}
    faults = []
    for name, it in public_names().items():
        if it.is_module:
            continue
        if not it.has_docstring:
            faults.append(f"{name} has no docstring")
        elif name not in listed:
            faults.append(f"{name} is not in the reference")
    return faults


class Page(html.parser.HTMLParser):
    """The anchors of a page, and its addresses with their tags."""

    def __init__(self, text: str):
        super().__init__()
        self.anchors: set[str] = set()
        self.addresses: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        about = dict(attrs)
        self.anchors |= {about[key] for key in ("id", "name") if about.get(key)}
        self.addresses += [(tag, about[key]) for key in LOADED if about.get(key)]


def broken_links(site: pathlib.Path) -> list[str]:
    """Return links within the site to a file or an anchor that is not there, and parts from afar.

    A page may link to other sites, and may not load anything from them.
    """
    pages = {path: Page(path.read_text("utf-8")) for path in sorted(site.rglob("*.html"))}
    faults = []
    for path, page in pages.items():
        if path.name == "404.html":  # its addresses are those of the published site
            continue
        for tag, address in page.addresses:
            parts = urllib.parse.urlsplit(address)
            if parts.scheme or parts.netloc:
                if tag in FETCHED and parts.scheme != "data":
                    faults.append(f"{path.relative_to(site)} loads {address}")
                continue
            target = path
            if parts.path:
                target = (path.parent / urllib.parse.unquote(parts.path)).resolve()
                target = target / "index.html" if target.is_dir() else target
            anchor = urllib.parse.unquote(parts.fragment)
            known = pages[target].anchors if target in pages else None
            if not target.exists() or (anchor and known is not None and anchor not in known):
                faults.append(f"{path.relative_to(site)} links to {address}")
    return faults


def main(site: pathlib.Path) -> int:
    """Print all faults and how many there are; return the exit code."""
    faults = {"undocumented names": undocumented(site), "broken links": broken_links(site)}
    for kind, found in faults.items():
        print(f"{kind}: {len(found)}", *found, sep="\n  ")
    return any(faults.values())


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]).resolve()))
