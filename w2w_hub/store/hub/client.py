"""Call huggingface_hub: retry transient failures, and translate other errors to ours."""

from __future__ import annotations

import errno
import logging
import re
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from ...common.text import an
from ...errors import HubAccessError, HubConflictError, HubError, HubNotFoundError, InvalidInputError, W2WError
from .cache import REPO

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")
Token = str | bool | None  # as in huggingface_hub: None uses the saved token, False none
RETRIES = 4  # after a transient failure
FIRST_WAIT, LONGEST_WAIT = 0.5, 300.0
TRANSIENT = (408, 429, 500, 502, 503, 504)
LOG_IN = "log in with: hf auth login"


@cache
def keep_secrets() -> None:
    """Strip the query from URLs in huggingface_hub's log; those of files are signed."""
    from huggingface_hub.utils import logging as theirs

    theirs.get_logger()  # creates its handlers

    def redact(record: logging.LogRecord) -> bool:
        text = re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\":]+", r"\1", record.getMessage())
        record.msg, record.args = text, ()
        return True

    for handler in logging.getLogger("huggingface_hub").handlers:
        handler.addFilter(redact)


def api(token: Token = None) -> HfApi:
    """Return a client of huggingface_hub."""
    from huggingface_hub import HfApi

    from ...common.version import __version__

    keep_secrets()
    require_sendable(token)

    return HfApi(token=token, library_name="w2w_hub", library_version=__version__)


def require_sendable(token: Token) -> None:
    """Raise for a token that cannot be sent; the HTTP library would show it in its error message."""
    from huggingface_hub import get_token

    if not isinstance(token, (str, bool, type(None))):
        raise InvalidInputError(
            f"a token is a string, True, False or None, not {an(type(token).__name__)}", name="token"
        )
    found = token if isinstance(token, str) else None if token is False else get_token()
    if found is not None and not (found.isascii() and found.isprintable() and " " not in found):
        raise HubAccessError(f"the token contains a space, a line break or another invalid character; {LOG_IN}")


def endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def is_offline() -> bool:
    """Return whether the user has forbidden network access (``HF_HUB_OFFLINE``)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def call(what: str, function: Callable[..., T], *args: Any, retries: int = RETRIES, **options: Any) -> T:
    """Call a function of huggingface_hub about `what` (``org/name``), with retries.

    Raises
    ------
    HubError
        Or a subclass; never an exception from the HTTP library.
    """
    keep_secrets()
    require_sendable(options.get("token"))
    attempt = 0
    while True:
        try:
            return function(*args, **options)
        except W2WError:
            raise
        except Exception as error:
            wait = retry_delay(error, attempt) if attempt < retries else None
            if wait is None:
                raise translate(error, what) from error
            time.sleep(wait)
            attempt += 1


def retry_delay(error: BaseException, attempt: int) -> float | None:
    """Return the seconds to wait before the next attempt; None if another attempt cannot help."""
    response = http_response(error)
    if response is not None:
        if response.status_code not in TRANSIENT:
            return None
        asked = response.headers.get("Retry-After", "")
        return min(float(asked), LONGEST_WAIT) + 0.1 if asked.isdigit() else FIRST_WAIT * 2**attempt
    # retry dropped connections, not refused ones
    return FIRST_WAIT * 2**attempt if is_disconnection(error) and not _is_unconnected(error) else None


def is_transient(error: BaseException) -> bool:
    """Return whether the Hub is unreachable or overloaded, as opposed to refusing the request."""
    response = http_response(error)
    return is_disconnection(error) if response is None else response.status_code in TRANSIENT


def _is_unconnected(error: BaseException) -> bool:
    import httpx2

    return any(isinstance(e, (httpx2.ConnectError, httpx2.ConnectTimeout)) for e in _chain(error))


def http_response(error: BaseException) -> Any:
    """Return the HTTP response of an error or of one that it wraps; None if there was none."""
    found = (getattr(e, "response", None) for e in _chain(error))
    return next((response for response in found if response is not None), None)


def is_disconnection(error: BaseException) -> bool:
    """Return whether a connection failed or was lost, as reported by httpx2, hf_xet or the system."""
    import httpx2
    from huggingface_hub.errors import OfflineModeIsEnabled

    kinds = (httpx2.NetworkError, httpx2.TimeoutException, httpx2.RemoteProtocolError, ConnectionError, TimeoutError)
    chain = list(_chain(error))
    if any(isinstance(e, OfflineModeIsEnabled) for e in chain):
        return False
    # huggingface_hub reports a short body as an OSError with this text and nothing else
    return any(isinstance(e, kinds) or "Consistency check failed" in str(e) for e in chain)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def translate(error: BaseException, what: str) -> W2WError:
    """Return our error for one of huggingface_hub's, without URLs, since signed ones are secrets."""
    from huggingface_hub import errors as theirs

    chain, response = list(_chain(error)), http_response(error)
    named = _sent_token(response)
    private = (
        "is private and not visible with this token; check the name, or use the token of an account that may read it"
        if named
        else f"is private, and there is no token; check the name, or {LOG_IN}"
    )
    access = f"request access at {endpoint()}/{what}" + ("" if named else f", then {LOG_IN}")
    repo_id = what if REPO.fullmatch(what) else None  # copies on other servers are named by URL
    log = f"w2w log {what}"
    known: tuple[tuple[type[Exception], type[HubError], str, str], ...] = (
        (theirs.GatedRepoError, HubAccessError, "gated", f"is gated: {access}"),
        (theirs.RepositoryNotFoundError, HubNotFoundError, "repository",
         f"is not on the Hub ({endpoint()}), or {private}"),
        (theirs.RevisionNotFoundError, HubNotFoundError, "revision", f"has no such revision; see: {log}"),
        (theirs.RemoteEntryNotFoundError, HubNotFoundError, "file", f"lacks a requested file; see: {log}"),
        (theirs.OfflineModeIsEnabled, HubError, "offline", "is not asked for, since HF_HUB_OFFLINE is set; unset it"),
    )  # fmt: skip
    for each in chain:
        for kind, ours, subject, text in known:
            if isinstance(each, kind):
                return ours(f"{what} {text}", what=subject, repo_id=repo_id)
        if isinstance(each, theirs.HFValidationError):
            return InvalidInputError(f"{what!r} is not the name of a Hub repository (org/name)", name=what)
    if response is not None:
        return _of_status(response, what, repo_id)
    if "Invalid metadata in README.md" in str(error):  # a ValueError of huggingface_hub without anything else
        return InvalidInputError(f"{what}: {' '.join(str(error).split())}", repo_id=repo_id, name="README.md")
    if is_disconnection(error):
        return HubError(
            f"{what}: the Hub ({endpoint()}) cannot be reached; check the connection and try again",
            repo_id=repo_id,
            what="connection",
        )
    for each in chain:
        if isinstance(each, OSError) and each.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC):
            return HubError(
                f"{what}: {each.filename or 'the cache'} cannot be used ({each.strerror}); set HF_HOME or "
                "cache_dir= to another place",
                repo_id=repo_id,
                path=each.filename,
            )
    return HubError(f"{what}: {type(error).__name__}: {' '.join(str(error).split())[:200]}", repo_id=repo_id)


def _sent_token(response: Any) -> bool:
    """Return whether a response is to a request with a token; True if there is none."""
    request = getattr(response, "_request", None)  # the property raises where there is none
    return request is None or "authorization" in request.headers


def _of_status(response: Any, what: str, repo_id: str | None) -> W2WError:
    status, says = response.status_code, response.headers.get("X-Error-Message", "")
    more = f" ({says})" if says else ""
    refused = f"the Hub refused the token (is it expired or revoked?); make a new one and {LOG_IN}"
    rights = f"this token may not do that{more}; use one with the right to write there, or ask its owner for it"
    nobody = f"there is no token{more}; {LOG_IN}, or set HF_TOKEN"
    named = _sent_token(response)
    known: dict[int, tuple[type[HubError], str]] = {
        401: (HubAccessError, refused if named else nobody),
        403: (HubAccessError, rights if named else nobody),
        429: (HubError, "the Hub limits the rate of requests (429); wait, then run the same command again"),
    } | dict.fromkeys((409, 412), (HubConflictError, f"it was changed by somebody else at the same time{more}"))
    kind, text = known.get(status, (HubError, f"the Hub answered {status}{more}; try again later"))
    return kind(f"{what}: {text}", repo_id=repo_id, what=str(status))
