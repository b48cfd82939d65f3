"""The report of a sweep as a page that renews itself while the sweep runs, served on this machine, from the tables alone."""

from __future__ import annotations

import contextvars
import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from orca_core.errors import ConfigError, Fault, OrcaError
from sweeper.results.workspace import Workspace
from sweeper.running.driver import driver_of
from sweeper.show.report.html import Live, to_html
from sweeper.show.report.making import make_report
from sweeper.show.results import describe_reasons

LEAST_PAUSE_S = 2.0
"""Shortest time between the end of one page and the start of the next, in seconds."""

PAUSE_SHARE = 3.0
"""The pause in relation to the time that the page took: a watched sweep keeps most of the machine."""

STATUS_EVERY_S = 5.0
"""How long what is said of the driver is kept, in seconds."""


class WatchedPage:
    """The latest page about a sweep, made anew when the tables have changed.

    Args:
        workspace: Where the results are.
        name: Name of the sweep.
        clock: Seconds that never run backwards.

    Raises:
        ConfigError: If the sweep is unknown.
    """

    def __init__(self, workspace: Workspace, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        workspace.results.check_sweep(name)
        self._workspace, self._name, self._clock = workspace, name, clock
        self._context = contextvars.copy_context()  # requests are answered in threads, which do not inherit the workbench
        self._lock = threading.Lock()
        self._version, self._page, self._next_at = "", "", 0.0
        self._status, self._status_at = "", -STATUS_EVERY_S

    def page(self) -> str:
        """The page as it was made last; the first call makes it.

        Raises:
            StoreError: If the tables cannot be read.
        """
        with self._lock:
            if not self._page:
                self._renew()
            return self._page

    def state(self) -> dict[str, str]:
        """Version of the latest page, which is made now if it is time, and what is said of the driver.

        Raises:
            StoreError: If the tables cannot be read.
        """
        with self._lock:
            if self._clock() >= self._next_at:
                self._renew()
            return {"version": self._version, "live": self._tell()}

    def _renew(self) -> None:
        version = self._workspace.results.fingerprint(self._name)
        if version == self._version:
            return
        began = self._clock()
        self._page = self._context.copy().run(self._make, version)
        self._version = version
        ended = self._clock()
        self._next_at = ended + max(LEAST_PAUSE_S, PAUSE_SHARE * (ended - began))

    def _make(self, version: str) -> str:
        return to_html(make_report(self._workspace, self._name), live=Live(version, self._tell()))

    def _tell(self) -> str:
        """Who runs the sweep, and what keeps it from going on, as of a few seconds ago at most."""
        if self._clock() - self._status_at >= STATUS_EVERY_S:
            driver = driver_of(self._workspace.results, self._name)
            lines = ["Nothing runs the sweep now." if driver is None else f"The sweep is run by {driver}."]
            lines += describe_reasons(driver.facts) if driver is not None else []
            self._status = "\n".join([*lines, f"Read at {datetime.now(UTC):%H:%M:%S} UTC."])
            self._status_at = self._clock()
        return self._status


def make_server(page: WatchedPage, host: str, port: int) -> ThreadingHTTPServer:
    """A server of the page: `/` has it, `/version` says whether it has changed.

    Args:
        page: The page.
        host: Address to listen at.
        port: Port to listen at; 0 = any that is free.

    Raises:
        ConfigError: If the port is taken, or the address is none of this machine.
    """
    handler = type("Handler", (_Handler,), {"page": page})
    try:
        server = ThreadingHTTPServer((host, port), handler)
    except OSError as error:
        remedy = "Give another one by --port; --port 0 takes any that is free."
        raise ConfigError([Fault("--port", f"must be free on {host} ({error.strerror})", port, remedy)]) from None
    except OverflowError:
        raise ConfigError([Fault("--port", "must be a number from 0 to 65535", port)]) from None
    server.daemon_threads = True
    return server


_LOCAL = ("127.0.0.1", "localhost", "::1")


class _Handler(BaseHTTPRequestHandler):
    page: WatchedPage
    server: ThreadingHTTPServer

    def do_GET(self) -> None:
        if not self._is_meant():
            self._send(HTTPStatus.FORBIDDEN, "text/plain", "This page is served to this machine alone.\n")
            return
        try:
            if self.path == "/":
                self._send(HTTPStatus.OK, "text/html", self.page.page())
            elif self.path == "/version":
                self._send(HTTPStatus.OK, "application/json", json.dumps(self.page.state()))
            else:
                self._send(HTTPStatus.NOT_FOUND, "text/plain", "There is only the page /.\n")
        except OrcaError as error:
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", f"{error}\n")

    def do_HEAD(self) -> None:
        self.do_GET()

    def _is_meant(self) -> bool:
        """Whether the request names this server. A page of another site that has its own name point here is refused."""
        bound = str(self.server.server_address[0])
        name = self.headers.get("Host", "").rpartition(":")[0].strip("[]")
        return bound not in _LOCAL or name in _LOCAL

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        content = text.encode()
        self.send_response(status)
        for header, value in (
            ("Content-Type", f"{kind}; charset=utf-8"),
            ("Content-Length", str(len(content))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
        ):
            self.send_header(header, value)
        self.end_headers()
        try:
            self.wfile.write(content if self.command != "HEAD" else b"")
        except OSError:  # the browser has gone
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal is not for requests."""
