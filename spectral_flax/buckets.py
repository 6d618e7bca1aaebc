# SPDX-License-Identifier: Apache-2.0
"""Objects in buckets (``gs://BUCKET/NAME``): their paths, copies, listings and conditions.

A path in a bucket is an `etils.epath.Path`, which gcsfs reads and writes (the extra ``cloud``). It
has the methods of `pathlib.Path`; what a file system does and a bucket does not is done here, and
by the functions of `files` that take both. A bucket has no folders: names that share a beginning.
"""

import calendar
import contextlib
import errno
import importlib.util
import json
import logging
import os
import pathlib
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from spectral_flax.messages import shown

if TYPE_CHECKING:
    from etils import epath

    Path = pathlib.Path | epath.Path

T = TypeVar("T")
SCHEME = "gs"
PATIENCE = 300  # seconds for which a reader asks again
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(/+)([^/]*)")
_ELSEWHERE = {
    "http": "download the file first",
    "https": "download the file first",
    "s3": "Orbax writes no checkpoints to s3:// addresses: mount the bucket, and give its folder",
}
_INSTALL = 'buckets need the package gcsfs: pip install "spectral-flax[cloud]"'
_LOG_IN = (
    "no valid credentials: gcloud auth application-default login, or "
    "GOOGLE_APPLICATION_CREDENTIALS=KEY.json"
)


def is_address(text: str) -> bool:
    """Return whether a path has a scheme, whatever it is: ``gs://``, ``https://``, ``gs:/``."""
    return _ADDRESS.match(text) is not None


def address_fault(text: str) -> str | None:
    """Return why an address is not that of a bucket that can be used here, or None if it is."""
    scheme, slashes, bucket = _ADDRESS.match(text).groups()
    if scheme != SCHEME:
        why = _ELSEWHERE.get(scheme, "mount the other place as a folder, or copy it")
        return f"expected a local path or gs://BUCKET/NAME; {why}"
    if slashes != "//" or not bucket:
        return "expected two slashes and a bucket: gs://BUCKET/NAME"
    missing = [name for name in ("etils", "gcsfs") if importlib.util.find_spec(name) is None]
    return _INSTALL if missing else None


def bucket_path(text: str) -> "epath.Path":
    """Return the path of an address that has no fault."""
    import aiohttp
    import fsspec
    from etils import epath

    settings = fsspec.config.conf.setdefault("gcs", {})
    # Others write to the same bucket: TensorStore in this process, the other processes.
    settings["use_listings_cache"] = False
    # Without it a connection that was lost without a word is waited for for ever.
    settings["requests_timeout"] = aiohttp.ClientTimeout(sock_connect=30, sock_read=60)
    log = logging.getLogger("gcsfs")
    log.addFilter(repeats)
    log.setLevel(logging.DEBUG)  # at which it tells of them
    return epath.Path(text.rstrip("/"))


def is_remote(path: os.PathLike[str]) -> bool:
    """Return whether a path is in a bucket."""
    return str(path).startswith(f"{SCHEME}://")


def check_bucket(path: "epath.Path") -> None:
    """Raise an OSError that says what to do if there is no such bucket, or it may not be read."""
    bucket, name = _names(path)
    try:
        with answers(path):
            _system().call("GET", "b/{}/o", bucket, prefix=name, maxResults=1)
    except FileNotFoundError as error:
        make = f"gcloud storage buckets create gs://{bucket}"
        raise FileNotFoundError(f"there is no bucket {bucket!r}: {make}") from error


def move(path: "epath.Path", target: "epath.Path") -> None:
    """Give an object, or all below a name, another name: by copies, not in one piece."""
    with answers(path):
        _system().mv(str(path), str(target), recursive=True)


class NoAnswerError(OSError):
    """A bucket did not answer, or failed, however often it was asked."""


def read_bytes(path: "epath.Path") -> bytes:
    """Return the content of an object, read by one request; as `fetch` waits for an answer."""
    return _patient(path, lambda: _system().cat_file(str(path)))


def write_bytes(path: "epath.Path", data: bytes) -> None:
    """Write an object, which appears whole or not at all."""
    with answers(path):
        _system().pipe_file(str(path), data)


@contextlib.contextmanager
def local_copy(path: "Path") -> Iterator[pathlib.Path]:
    """Yield a local file of this content: itself, or a copy that goes with the block."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder, path.name)
        fetch(path, copy)
        yield copy


def fetch(path: "epath.Path", target: pathlib.Path) -> None:
    """Copy an object to a local file.

    A bucket that does not answer is asked again, for `PATIENCE` seconds, before that is an error.
    """
    _patient(path, lambda: _system().get_file(str(path), str(target)))


def fetch_folder(folder: "epath.Path", target: pathlib.Path, names: Iterable[str]) -> None:
    """Copy the objects ``names`` below a name to a folder."""
    pairs = [(f"{folder}/{name}", str(target / name)) for name in names]
    for _, copy in pairs:
        pathlib.Path(copy).parent.mkdir(parents=True, exist_ok=True)
    sources, copies = map(list, zip(*pairs, strict=True))
    _patient(folder, lambda: _system().get(sources, copies))


def _patient(path: "epath.Path", call: Callable[[], T]) -> T:
    start, pause = time.monotonic(), 1
    while True:
        try:
            with answers(path):
                return call()
        except NoAnswerError as error:  # gcsfs has asked six times, over half a minute
            if time.monotonic() - start > PATIENCE:
                raise
            repeats.add(str(error))
        time.sleep(pause)
        pause = min(2 * pause, 30)


def send(source: pathlib.Path, path: "epath.Path") -> None:
    """Copy a local file to an object, or a folder to objects below a name."""
    with answers(path):
        if source.is_file():
            _system().put_file(str(source), str(path))
        else:
            _system().put(f"{source}/", f"{path}/", recursive=True)


class Listed(NamedTuple):
    """What a bucket tells of an object; ``md5`` in base 64, None of one put together of others."""

    size: int
    md5: str | None


def listed(folder: "epath.Path", *, depth: int | None = None) -> dict[str, Listed]:
    """Return the objects below ``folder`` by their names in it, sorted; None: at any depth."""
    start = len(str(folder)) - len("gs://") + 1
    found = _patient(folder, lambda: _system().find(str(folder), maxdepth=depth, detail=True))
    objects = {name: about for name, about in found.items() if about["type"] == "file"}
    return {
        name[start:]: Listed(about["size"], about.get("md5Hash"))
        for name, about in sorted(objects.items())
        if not name.endswith("/")
    }


def folders_in(folder: "epath.Path") -> list[str]:
    """Return the names below ``folder`` that others lie below of, one level deep, sorted."""
    found = _patient(folder, lambda: _system().ls(str(folder), detail=True))
    names = (about["name"].rstrip("/") for about in found if about["type"] == "directory")
    return sorted(name.rpartition("/")[2] for name in names)


class Version(NamedTuple):
    """One content of an object; ``age`` in seconds, by the bucket's own clock."""

    data: bytes
    generation: str
    age: float


def read_version(path: "epath.Path") -> Version | None:
    """Return what an object holds and the generation of that; None if there is none."""
    with answers(path), contextlib.suppress(FileNotFoundError):
        headers, text = _system().call("GET", "b/{}/o/{}", *_names(path))
        about = json.loads(text)
        generation = about["generation"]
        _, data = _system().call("GET", "b/{}/o/{}", *_names(path), alt="media")
        there = parsedate_to_datetime(headers["Date"]).timestamp()
        updated = time.strptime(about["updated"][:19], "%Y-%m-%dT%H:%M:%S")
        return Version(data, generation, there - calendar.timegm(updated))
    return None


def replace_version(path: "epath.Path", data: bytes, generation: str = "0") -> str | None:
    """Write an object if it is of ``generation`` ("0": if there is none); return its new one.

    None: it is of another generation, and left.
    """
    bucket, name = _names(path)
    place = _system().base.removesuffix("/storage/v1/") + "/upload/storage/v1/b/{}/o"
    mark = os.urandom(8).hex().encode()
    parts = json.dumps({"name": name}).encode(), data
    body = b"".join(
        b"--%s\r\nContent-Type: application/json\r\n\r\n%s\r\n" % (mark, p) for p in parts
    )
    how = dict(
        data=body + b"--%s--" % mark,
        headers={"Content-Type": f"multipart/related; boundary={mark.decode()}"},
        uploadType="multipart",
        ifGenerationMatch=generation,
    )
    with answers(path), contextlib.suppress(FileExistsError):
        return _system().call("POST", place, bucket, json_out=True, **how)["generation"]
    return None


def remove_version(path: "epath.Path", generation: str) -> None:
    """Remove an object if it is still of this generation."""
    with answers(path), contextlib.suppress(FileExistsError, FileNotFoundError):
        _system().call("DELETE", "b/{}/o/{}", *_names(path), ifGenerationMatch=generation)


@contextlib.contextmanager
def answers(path: Any) -> Iterator[None]:
    """Turn an error of the bucket's client into an OSError that says what to do."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, "there is no such object", str(path)) from error
    except TimeoutError as error:
        raise NoAnswerError(f"{path}: the bucket does not answer in time") from error
    except OSError as error:
        if str(error).startswith("Forbidden"):
            told = f"{path}: these credentials do not allow it; an account needs the role "
            told += "storage.objectUser on the bucket, and storage.objectViewer to read only"
            raise PermissionError(told) from error
        raise
    except Exception as error:  # of gcsfs and of what carries its requests
        code = int(error.code or 0) if type(error).__name__ == "HttpError" else 0
        lines = str(error).strip().splitlines()
        told = lines[0] if lines else type(error).__name__
        if code == 401:
            raise PermissionError(f"{path}: {_LOG_IN}") from error
        raise NoAnswerError(f"{path}: the bucket does not answer ({shown(told)})") from error


class Repeats(logging.Filter):
    """Counts requests that gcsfs repeats after a passing error, which it tells its log only.

    What it gives up is told by the error that it raises, not by its log.
    """

    count = 0

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if "retrying after exception" in text:
            self.add(text.partition("exception: ")[2])
        if text.startswith("Could not determine bucket type") or " exception: " in text:
            return False
        return record.levelno >= logging.WARNING

    def add(self, why: str) -> None:
        """Count one; the first, the tenth, the hundredth and so on are said."""
        self.count += 1
        if str(self.count).strip("0") == "1":
            told = f"requests to buckets repeated: {self.count}, the last after: {shown(why)}"
            print(told, file=sys.stderr, flush=True)


repeats = Repeats()


def _system():
    import fsspec

    return fsspec.filesystem("gcs", finalize_on_close=True)  # the one that epath has


def _names(path: "epath.Path") -> tuple[str, str]:
    bucket, _, name = str(path).removeprefix("gs://").partition("/")
    return bucket, name
