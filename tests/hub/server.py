"""The HTTP side of the loopback Hub: two servers, what was asked of them, and what goes wrong on demand."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote

from .store import Refused, Store

MANGLED = ("cut", "flip", "endless", "trickle", "shifted", "multipart", "whole")
NAME = r"(?P<repo>[^/]+/[^/]+?)"


@dataclass
class Fault:
    """Something that goes wrong `times` times with requests that match, after `skip` that went well.

    `kind`: status (answer `status` at once), cut (half of the body), flip (one byte of the body), lost (done, but
    the connection ends without an answer), drop (the connection ends after half of the request's body), slow
    (answered after `seconds`), hold (waits for `released`, or is abandoned), endless (zeros follow the body for ever),
    trickle (a byte at a time), shifted and multipart (another part than was asked for), whole (all, not the part).
    """

    pattern: str
    kind: str = "status"
    status: int = 500
    times: int = 1
    skip: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    abandoned: bool = False

    def abandon(self) -> None:
        """Let go of what was held without doing it: who asked is dead."""
        self.abandoned, self.times = True, 0
        self.released.set()

    def hits(self, request: str) -> bool:
        if self.times <= 0 or not re.search(self.pattern, request):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        self.reached.set()
        return True


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    status: int
    received: int  # bytes of the request's body
    sent: int  # bytes of the answer's body
    cdn: bool
    authorised: bool


class LoopbackHub(Store):
    """Start with ``with LoopbackHub() as hub``; give clients ``hub.environment(...)``."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, cdn)) for cdn in (False, True)]
        for server in self._servers:
            server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_address[1]}"

    @property
    def cdn_url(self) -> str:
        """By another name than the Hub's: huggingface_hub before 2.2 sends its token to every port of one host."""
        return f"http://localhost:{self._servers[1].server_address[1]}"

    def __enter__(self) -> LoopbackHub:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        for fault in self.faults:
            fault.released.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def fault(self, pattern: str, kind: str = "status", **options: Any) -> Fault:
        """Add a fault for requests like ``GET /api/...``."""
        self.faults.append(Fault(pattern, kind, **options))
        return self.faults[-1]

    def find_fault(self, request: str) -> Fault | None:
        with self.lock:
            return next((fault for fault in self.faults if fault.hits(request)), None)

    @contextmanager
    def counted(self) -> Iterator[list[Request]]:
        """The requests that come while the block runs."""
        start, found = len(self.requests), []
        yield found
        found += self.requests[start:]


Route = tuple[str, re.Pattern[str], Callable[..., Any]]
ROUTES: list[Route] = []


def route(method: str, pattern: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register an answer; `KIND` and `REPO` in the pattern stand for a repository's API path."""
    pattern = pattern.replace("KIND", r"(?P<kind>model|dataset|space)s").replace("REPO", NAME)

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        ROUTES.append((method, re.compile(pattern + "$"), function))
        return function

    return add


def _handler(hub: LoopbackHub, cdn: bool) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or each small answer waits 40 ms for an acknowledgement

        def log_message(self, *_: Any) -> None:
            pass

        def __getattr__(self, name: str) -> Any:
            if name.startswith("do_"):
                return self.serve
            raise AttributeError(name)

        def serve(self) -> None:
            self.path_only, _, query = self.path.partition("?")
            self.query = {key: values[0] for key, values in parse_qs(query).items()}
            authorisation = self.headers.get("Authorization", "")
            self.token = authorisation.removeprefix("Bearer ") or None
            self.received = self.sent = 0
            self.status = 0
            fault = hub.find_fault(f"{self.command} {self.path_only}")
            kind = fault.kind if fault else None
            self.mangle = kind if kind in MANGLED else None
            try:
                if fault and kind == "drop":
                    self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
                    self.close_connection = True
                    return
                self.body = self.read_body()
                if fault and kind == "slow":
                    time.sleep(fault.seconds)
                if fault and kind == "hold":
                    fault.released.wait(60)
                    if fault.abandoned:
                        self.close_connection = True
                        return
                if fault and kind == "status":
                    self.answer(fault.status, {"error": "a fault"}, **fault.headers)
                    return
                self.lose = kind == "lost"
                try:
                    self.dispatch()
                except Refused as error:
                    code = {"X-Error-Code": error.code} if error.code else {}
                    self.answer(error.status, {"error": error.message}, **{"X-Error-Message": error.message}, **code)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                hub.requests.append(
                    Request(self.command, self.path, self.status, self.received, self.sent, cdn, bool(self.token))
                )

        lose = False

        def read_body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                parts = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                body = b"".join(parts)
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.received = len(body)
            return body

        def json(self) -> Any:
            return json.loads(self.body)

        def dispatch(self) -> None:
            for method, pattern, function in ROUTES:
                match = pattern.match(self.path_only)
                if match and method in (self.command, "GET" if self.command == "HEAD" else ""):
                    names = match.groupdict()
                    if "repo" in names and self.redirected(names):
                        return
                    function(hub, self, **{key: unquote(value or "") for key, value in names.items()})
                    return
            self.answer(404, {"error": f"no route for {self.command} {self.path}"})

        def redirected(self, names: dict[str, str]) -> bool:
            key = (names["kind"] or "model", names["repo"].lower())
            if key not in hub.moved:
                return False
            self.answer(307, {}, Location=self.path.replace(names["repo"], hub.moved[key], 1))
            return True

        def answer(self, status: int, value: Any = None, data: bytes | None = None, **headers: str) -> None:
            """Send JSON or bytes; a range of the bytes if one was asked for."""
            if self.lose:
                self.close_connection, self.status = True, -status
                return
            if data is None:
                data = json.dumps({} if value is None else value).encode()
                headers = {"Content-Type": "application/json", **headers}
            elif (wanted := self.headers.get("Range")) and status == 200 and self.mangle != "whole":
                begin, _, end = wanted.removeprefix("bytes=").partition("-")
                first = int(begin) if begin else max(0, len(data) - int(end))
                last = min(int(end), len(data) - 1) if end and begin else len(data) - 1
                if first > last:
                    status, headers, data = 416, {"Content-Range": f"bytes */{len(data)}"}, b""
                else:
                    shift = int(self.mangle == "shifted")
                    stated = f"bytes {first + shift}-{last + shift}/{len(data)}"
                    status, headers = 206, {**headers, "Content-Range": stated}
                    if self.mangle == "multipart":
                        headers["Content-Type"] = "multipart/byteranges; boundary=x"
                    data = data[first : last + 1]
            self.status = status
            self.send_response(status)
            length = {} if self.mangle == "endless" else {"Content-Length": str(len(data))}
            for name, text in {**length, **headers}.items():
                self.send_header(name, text)
            self.end_headers()
            if self.command == "HEAD":
                return
            while self.mangle == "endless":
                self.close_connection = True
                self.sent += self.wfile.write(data)
                data = bytes(1 << 16)
            if self.mangle == "trickle":
                for i in range(len(data)):
                    self.wfile.write(data[i : i + 1])
                    time.sleep(0.02)
                return
            if self.mangle == "flip" and data:
                data = data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
            if self.mangle == "cut":
                data, self.close_connection = data[: len(data) // 2], True
            self.wfile.write(data)
            self.sent = len(data)

    return Handler
