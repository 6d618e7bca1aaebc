# SPDX-License-Identifier: Apache-2.0
"""Files from the web, kept: resumed where they stopped, checked by their hash."""

import contextlib
import fcntl
import hashlib
import http.client
import logging
import os
import pathlib
import sys
import time
import urllib.error
import urllib.request

from spectral_flax.files import cache_folder
from spectral_flax.messages import reason

log = logging.getLogger(__name__)
TRIES, TIMEOUT, PIECE = 4, 20, 1 << 20
OFFLINE = "HF_HUB_OFFLINE"


def is_offline() -> bool:
    """Return whether the environment forbids to ask the network."""
    return os.environ.get(OFFLINE, "").upper() in ("1", "ON", "YES", "TRUE")


def download(url: str, filename: str, sha256: str = "") -> pathlib.Path:
    """Return the file of ``url`` in the cache; it is downloaded if it is not there.

    A part that an interrupted download left is gone on with. ``sha256`` is the hash, or its
    beginning, of the whole file.

    Raises:
      FileNotFoundError: the server has no such file.
      OSError: offline, or the server does not answer; the message says what to fetch by hand and
        where to put it.
      ValueError: the file is another than ``sha256`` says. It is removed.
    """
    path = cache_folder() / filename
    if path.is_file():
        return path
    remedy = f"download {url} and put it there as {path}"
    if is_offline():
        raise OSError(f"{filename} is not in {path.parent}, and {OFFLINE} is set; {remedy}")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with _alone(part):
        if path.is_file():  # another process had it meanwhile
            return path
        _complete(url, part, remedy)
        _check(part, url, sha256)
        os.replace(part, path)
    return path


@contextlib.contextmanager
def _alone(part: pathlib.Path):
    """Wait until no other process downloads the same file."""
    with open(part, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with contextlib.suppress(FileNotFoundError):
                if not part.stat().st_size:
                    part.unlink()


def _complete(url: str, part: pathlib.Path, remedy: str) -> None:
    """Download what is missing, trying again where that may help."""
    for attempt in range(1, TRIES + 1):
        try:
            _continue(url, part)
            return
        except urllib.error.HTTPError as error:
            if error.code == 416:  # nothing follows what is there
                if str(error.headers.get("Content-Range")).endswith(f"/{part.stat().st_size}"):
                    return
                os.truncate(part, 0)
            elif error.code < 500 and error.code != 429:
                kind = FileNotFoundError if error.code in (404, 410) else OSError
                raise kind(f"{url} can not be downloaded: {reason(error)}") from error
            failure: Exception = error
        except (OSError, http.client.HTTPException) as error:
            failure = error
        if attempt == TRIES:
            told = f"{url} can not be downloaded: {reason(failure)}; {remedy}"
            raise OSError(told) from failure
        time.sleep(2 ** (attempt - 1) * _pause())


def _pause() -> float:
    return 1.0


def _continue(url: str, part: pathlib.Path) -> None:
    """Download what is missing of a file.

    Raises:
      OSError: the connection ends before the file does.
    """
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "spectral_flax"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        if answer.status != 206:  # the server sends all of it
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        with open(part, "ab" if have else "wb") as file, _progress(part.stem, total) as tell:
            while piece := answer.read(PIECE):
                file.write(piece)
                have += len(piece)
                tell(have)
    if total is not None and have < total:
        raise OSError(f"the connection ended after {have} of {total} bytes")


@contextlib.contextmanager
def _progress(name: str, total: int | None):
    """Yield a function that shows how many bytes there are, on a terminal."""
    shows, shown = sys.stderr.isatty(), 0.0

    def tell(have: int) -> None:
        nonlocal shown
        if not shows or (time.monotonic() - shown < 0.2 and have != total):
            return
        shown = time.monotonic()
        of = f" of {total / 1e6:.0f}" if total else ""
        print(f"\r{name}: {have / 1e6:.0f}{of} MB ", end="", file=sys.stderr, flush=True)

    yield tell
    if shows:
        print(file=sys.stderr)


def _check(part: pathlib.Path, url: str, sha256: str) -> None:
    if not sha256:
        return
    with open(part, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(sha256.lower()):
        part.unlink()
        raise ValueError(
            f"{url} is not the expected file: its SHA-256 begins {found[: len(sha256)]}, expected "
            f"{sha256}; it was removed"
        )
