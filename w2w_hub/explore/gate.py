"""Gate: which requests the server answers. Gradio has more addresses than the page needs, and trusts every sender."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from .visitor_files import is_full

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

API = "/gradio_api/"
UPLOAD = f"{API}upload"
# addresses of Gradio that keep what they are sent, fetch from other machines, or serve features that are not used here
CLOSED = (
    "process_recording", "deep_link", "run-history", "runs", "vibe", "undo-vibe", "stream/", "proxy=",
    "component_server", "custom_component", "call/", "dev/",
)  # fmt: skip
OWN_PAGE = ("same-origin", "none")  # values of Sec-Fetch-Site: the page itself, or the address bar


class AppMiddleware(NamedTuple):
    """An entry of FastAPI's `middleware`, without an import of Starlette, which only Gradio requires."""

    cls: type
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Gate:
    """ASGI middleware that refuses what no visitor of the page sends.

    Parameters
    ----------
    app : ASGI application
    files : Path
        The folder of the visitors' files; nothing is uploaded while it is full.
    local : bool
        The server listens on this machine only: it answers only under a name of this machine, so that no web page
        reaches it by pointing its own name here, and only the page itself may change anything.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], files: Path, *, local: bool):
        self.app, self.files, self.local = app, files, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and (refused := self.refusal(scope)) is not None:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await _answer(send, *refused)
            return
        await self.app(scope, receive, send)

    def refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Return the status and the reason with which a request is refused; None for one that is answered."""
        headers = {name.lower(): value.decode("latin-1") for name, value in scope.get("headers", ())}
        path = str(scope["path"])
        if self.local:
            if not is_this_machine(headers.get(b"host", "")):
                return 403, "this server answers as localhost only; for other names start it with --host"
            if scope.get("method") == "POST" and headers.get(b"sec-fetch-site", "none") not in OWN_PAGE:
                return 403, "another page may not change anything here"
        if path.startswith(API) and path[len(API) :].startswith(CLOSED):
            return 404, "there is nothing here"
        if path.rstrip("/") == UPLOAD and is_full(self.files):
            return 507, "there are too many uploads at the moment; try again in an hour"
        return None


def is_this_machine(host: str) -> bool:
    """Return whether a host name, with or without a port, is one of the machine itself."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or name.endswith(".localhost") or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


async def _answer(send: Send, status: int, detail: str) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": detail}).encode()})
