"""An S3 server on this machine that can be made slow, broken or unreachable: moto's server behind a proxy that counts and spoils requests.

    with FaultyS3() as s3:
        s3.make_bucket("bucket")
        with s3.answering("slow-down", share=0.1):
            subprocess.run(["sweeper", "run", "quickstart", "--results", s3.uri("bucket/results")], env=os.environ | s3.environment)
        print(s3.count("PUT"), s3.open_uploads("bucket"))

Nothing is checked that S3 checks by credentials: any key is accepted, unless the answer is `denied`, `expired` or `unknown-key`.
"""

from __future__ import annotations

import http.client
import logging
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ANSWERS = {
    "error": (500, "InternalError", "We encountered an internal error. Please try again."),
    "unavailable": (503, "ServiceUnavailable", "Reduce your request rate."),
    "slow-down": (503, "SlowDown", "Please reduce your request rate."),
    "denied": (403, "AccessDenied", "Access Denied"),
    "unknown-key": (403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."),
    "expired": (400, "ExpiredToken", "The provided token has expired."),
}
"""Fault -> HTTP status, S3's code and message."""

FAULTS = (*ANSWERS, "reset", "reset-after", "half")
"""All faults. `reset` closes the connection without an answer, `reset-after` after the server has done what it was asked to, `half` in the
middle of the answer."""

TRANSIENT = ("error", "unavailable", "slow-down", "reset", "reset-after", "half")
"""Faults that pass."""


@dataclass(frozen=True)
class Request:
    """A request that came in.

    Args:
        method, path: As sent; the path has its query.
        fault: What was done to it; empty if nothing.
        sent, received: Bytes of the bodies, as the client sees it.
    """

    method: str
    path: str
    fault: str
    sent: int
    received: int


class FaultyS3:
    """The server and the proxy before it. A context manager; both run in threads of this process.

    Args:
        delay_s: Seconds by which every request is delayed.
        seed: Of the choice of faults.

    Attributes:
        requests: All requests so far.
        delay_s: May be changed at any time.
    """

    def __init__(self, delay_s: float = 0.0, seed: int = 0) -> None:
        self.delay_s = delay_s
        self.requests: list[Request] = []
        self._choose: Callable[[str, str], str] = lambda method, path: ""
        self._random, self._lock = random.Random(seed), threading.Lock()
        self._running = threading.Event()
        self._running.set()
        self._proxy: ThreadingHTTPServer | None = None
        self._port = 0

    def __enter__(self) -> FaultyS3:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._moto.start()
        _, self.moto_port = self._moto.get_host_and_port()
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.disconnect()
        self._moto.stop()

    def connect(self) -> None:
        """Listen, on the same port as before."""
        handler = type("Handler", (_Handler,), {"s3": self})
        self._proxy = _Server(("127.0.0.1", self._port), handler)
        self._port = self._proxy.server_address[1]
        threading.Thread(target=self._proxy.serve_forever, args=(0.05,), daemon=True).start()

    def disconnect(self) -> None:
        """Refuse connections, as a machine does that is up while its server is not."""
        if self._proxy is not None:
            self._proxy.shutdown()
            self._proxy.server_close()
            self._proxy = None

    @property
    def endpoint(self) -> str:
        """Host and port of the proxy."""
        return f"127.0.0.1:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables for a process that uses this server without naming it in its URIs."""
        return {"AWS_ENDPOINT_URL": f"http://{self.endpoint}", **CREDENTIALS}

    def uri(self, path: str) -> str:
        """URI of a path that begins with a bucket."""
        return f"s3://{path}?endpoint_override={self.endpoint}&scheme=http&region=us-east-1"

    def make_bucket(self, name: str) -> None:
        """Make a bucket."""
        status, body = self._ask("PUT", f"/{name}")
        if status != 200:
            raise RuntimeError(body.decode())

    def open_uploads(self, bucket: str) -> int:
        """Number of multipart uploads that were begun and neither completed nor aborted."""
        return len(re.findall(rb"<Upload>", self._ask("GET", f"/{bucket}?uploads")[1]))

    def keys(self, bucket: str) -> list[str]:
        """The keys of at most a thousand objects."""
        return [key.decode() for key in re.findall(rb"<Key>(.*?)</Key>", self._ask("GET", f"/{bucket}?list-type=2")[1])]

    def count(self, method: str = "", path: str = "", since: int = 0) -> int:
        """Number of requests of a method, or of all, whose path contains a text; from number `since` on."""
        return sum(request.method.startswith(method) and path in request.path for request in self.requests[since:])

    @contextmanager
    def answering(self, *faults: str, share: float = 1.0, where: Callable[[str, str], bool] = lambda method, path: True) -> Iterator[None]:
        """Within: a share of the requests, chosen at random, meets one of these faults.

        Args:
            faults: Of `FAULTS`.
            share: Of the requests, 0 to 1.
            where: Whether a request (method, path) may be chosen.
        """

        def choose(method: str, path: str) -> str:
            with self._lock:
                return self._random.choice(faults) if where(method, path) and self._random.random() < share else ""

        before, self._choose = self._choose, choose
        try:
            yield
        finally:
            self._choose = before

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within: take requests, but answer none of them until the end."""
        self._running.clear()
        try:
            yield
        finally:
            self._running.set()

    def _ask(self, method: str, path: str) -> tuple[int, bytes]:
        """Ask the server itself."""
        connection = http.client.HTTPConnection("127.0.0.1", self.moto_port)
        key = f"AWS4-HMAC-SHA256 Credential={CREDENTIALS['AWS_ACCESS_KEY_ID']}/20200101/us-east-1/s3/aws4_request"
        connection.request(method, path, headers={"Authorization": key})
        with connection.getresponse() as answer:
            return answer.status, answer.read()


CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
"""Variables with which any process may use the server."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(self, *args: Any) -> None:
        self._connections: set[socket.socket] = set()
        super().__init__(*args)

    def process_request(self, request: Any, address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        for connection in list(self._connections):
            _reset(connection)

    def handle_error(self, request: Any, address: Any) -> None:
        """Say nothing: connections are broken on purpose."""


class _Handler(BaseHTTPRequestHandler):
    s3: FaultyS3
    protocol_version = "HTTP/1.1"
    timeout = 60

    def log_message(self, *args: Any) -> None:
        """Log nothing; `FaultyS3.requests` has it all."""

    def do_GET(self) -> None:
        body = self._read_body()
        self.s3._running.wait()
        time.sleep(self.s3.delay_s)
        fault = self.s3._choose(self.command, self.path)
        if fault in ANSWERS:
            status, code, message = ANSWERS[fault]
            content = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'.encode()
            self._answer(fault, len(body), status, [("Content-Type", "application/xml")], content)
            return
        if fault == "reset":
            self._note(fault, len(body), 0)
            self._break()
            return
        status, headers, content = self._forward(body)
        if fault == "reset-after":
            self._note(fault, len(body), 0)
            self._break()
            return
        self._answer(fault, len(body), status, headers, content)

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET  # noqa: N815

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("transfer-encoding", "expect", "connection")}
        connection = http.client.HTTPConnection("127.0.0.1", self.s3.moto_port, timeout=60)
        try:
            connection.request(self.command, self.path, body or None, headers | {"Content-Length": str(len(body))})
            with connection.getresponse() as answer:
                return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(self, fault: str, sent: int, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        half = fault == "half" and len(content) > 1
        self._note(fault, sent, len(content))
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding") and (name.lower() != "content-length" or self.command == "HEAD"):
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if half else content)
        if half:
            self.wfile.flush()
            self._break(reset=False)

    def _note(self, fault: str, sent: int, received: int) -> None:
        with self.s3._lock:
            self.s3.requests.append(Request(self.command, self.path, fault, sent, received))

    def _break(self, reset: bool = True) -> None:
        self.close_connection = True
        if reset:
            _reset(self.connection)


def _reset(connection: socket.socket) -> None:
    """Close a connection with a reset instead of an orderly end."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
        connection.close()
