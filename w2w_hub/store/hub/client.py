"""Calls of huggingface_hub: what is transient is repeated, and every failure becomes one of our errors."""

from __future__ import annotations

import errno
import logging
import re
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from ...errors import HubAccessError, HubConflictError, HubError, HubNotFoundError, InvalidInputError, W2WError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")
Token = str | bool | None  # as everywhere in huggingface_hub: None is the saved one, False is nobody
PATIENCE = 4  # repetitions of a call that failed for a reason that passes
FIRST_WAIT, LONGEST_WAIT = 0.5, 300.0
TRANSIENT = (408, 429, 500, 502, 503, 504)
LOG_IN = "log in with: hf auth login"


@cache
def keep_secrets() -> None:
    """Have huggingface_hub's log leave out the queries of addresses: those of files are signed."""
    from huggingface_hub.utils import logging as theirs

    theirs.get_logger()  # its handlers are made with its first logger, which may be later than the first call here

    def redact(record: logging.LogRecord) -> bool:
        text = re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\":]+", r"\1", record.getMessage())
        record.msg, record.args = text, ()
        return True

    for handler in logging.getLogger("huggingface_hub").handlers:
        handler.addFilter(redact)


def api(token: Token = None) -> HfApi:
    """The client that everything here uses."""
    from huggingface_hub import HfApi

    from ...common.version import __version__

    keep_secrets()
    require_sendable(token)

    return HfApi(token=token, library_name="w2w_hub", library_version=__version__)


def require_sendable(token: Token) -> None:
    """Refuse a token that is none, or that no header can hold: the HTTP library would put it into its error message."""
    from huggingface_hub import get_token

    if not isinstance(token, (str, bool, type(None))):
        raise InvalidInputError(f"a token is text, True, False or None, not a {type(token).__name__}")
    found = token if isinstance(token, str) else None if token is False else get_token()
    if found is not None and not (found.isascii() and found.isprintable() and " " not in found):
        raise HubAccessError(f"the token has characters that no token has (a space, a line's end); {LOG_IN}")


def endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def is_offline() -> bool:
    """Whether the user forbade the network (``HF_HUB_OFFLINE``)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def call(what: str, function: Callable[..., T], *args: Any, patience: int = PATIENCE, **options: Any) -> T:
    """Call a function of huggingface_hub about `what` (``org/name``), patiently.

    Raises
    ------
    HubError
        Or one of its kinds; never an exception of an HTTP library.
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
            wait = pause(error, attempt) if attempt < patience else None
            if wait is None:
                raise translate(error, what) from error
            time.sleep(wait)
            attempt += 1


def pause(error: BaseException, attempt: int) -> float | None:
    """Seconds to wait before repeating what failed so; None if repeating cannot help."""
    response = answer(error)
    if response is not None:
        if response.status_code not in TRANSIENT:
            return None
        asked = response.headers.get("Retry-After", "")
        return min(float(asked), LONGEST_WAIT) + 0.1 if asked.isdigit() else FIRST_WAIT * 2**attempt
    # where nobody listens nobody will in a few seconds; a connection that broke is made again
    return FIRST_WAIT * 2**attempt if is_disconnection(error) and not _is_unconnected(error) else None


def is_transient(error: BaseException) -> bool:
    """Whether the Hub is away or overloaded, rather than refusing."""
    response = answer(error)
    return is_disconnection(error) if response is None else response.status_code in TRANSIENT


def _is_unconnected(error: BaseException) -> bool:
    import httpx2

    return any(isinstance(e, (httpx2.ConnectError, httpx2.ConnectTimeout)) for e in _chain(error))


def answer(error: BaseException) -> Any:
    """The HTTP response behind an error, however deeply it is wrapped; None if there was none."""
    found = (getattr(e, "response", None) for e in _chain(error))
    return next((response for response in found if response is not None), None)


def is_disconnection(error: BaseException) -> bool:
    """Whether a connection could not be made or broke, as httpx2, hf_xet or the operating system put it."""
    import httpx2

    kinds = (httpx2.NetworkError, httpx2.TimeoutException, httpx2.RemoteProtocolError, ConnectionError, TimeoutError)
    chain = list(_chain(error))
    if any(_is_offline(e) for e in chain):
        return False
    # a short body is an OSError whose text is all that tells
    return any(isinstance(e, kinds) or "Consistency check failed" in str(e) for e in chain)


def _is_offline(error: BaseException) -> bool:
    from huggingface_hub.errors import OfflineModeIsEnabled

    return isinstance(error, OfflineModeIsEnabled)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def translate(error: BaseException, what: str) -> W2WError:
    """Our error for one of huggingface_hub's; it holds no URL, since signed ones are secrets."""
    from huggingface_hub import errors as theirs

    chain = list(_chain(error))
    for kind in chain:
        if isinstance(kind, theirs.GatedRepoError):
            return HubAccessError(f"{what} is gated: ask for access at {endpoint()}/{what}, then {LOG_IN}")
        if isinstance(kind, theirs.RepositoryNotFoundError):
            return HubNotFoundError(
                f"{what} is not on the Hub ({endpoint()}), or is private and not visible with this token; check the "
                f"name, or {LOG_IN}",
                what="repository",
            )
        if isinstance(kind, theirs.RevisionNotFoundError):
            return HubNotFoundError(f"{what} has no such revision; see: w2w log {what}", what="revision")
        if isinstance(kind, theirs.RemoteEntryNotFoundError):
            return HubNotFoundError(f"{what} lacks a file that was asked for", what="file")
        if isinstance(kind, theirs.HFValidationError):
            return InvalidInputError(f"{what!r} is not the name of a Hub repository (org/name)")
        if _is_offline(kind):
            return HubError(f"{what}: the Hub is not asked, HF_HUB_OFFLINE is set")
    response = answer(error)
    if response is not None:
        return _of_status(response.status_code, response.headers.get("X-Error-Message", ""), what)
    if "Invalid metadata in README.md" in str(error):
        return InvalidInputError(f"{what}: {' '.join(str(error).split())}")
    if is_disconnection(error):
        return HubError(f"{what}: the Hub ({endpoint()}) cannot be reached; check the connection and try again")
    for kind in chain:
        if isinstance(kind, OSError) and kind.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC):
            return HubError(
                f"{what}: {kind.filename or 'the cache'} cannot be used ({kind.strerror}); set HF_HOME or "
                "cache_dir= to another place"
            )
    return HubError(f"{what}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")


def _of_status(status: int, says: str, what: str) -> W2WError:
    if status == 401:
        return HubAccessError(f"{what}: the Hub refused the token (expired or revoked, perhaps); {LOG_IN}")
    if status == 403:
        return HubAccessError(f"{what}: this token may not do that{f' ({says})' if says else ''}; {LOG_IN}")
    if status in (409, 412):
        return HubConflictError(f"{what} was changed by somebody else meanwhile{f' ({says})' if says else ''}")
    if status == 429:
        return HubError(f"{what}: the Hub asks to slow down (429); wait a while and run the same command again")
    return HubError(f"{what}: the Hub answered {status}{f' ({says})' if says else ''}; try again later")
