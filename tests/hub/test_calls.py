"""What is repeated, how long it is waited for, and which of our errors each failure becomes."""

from __future__ import annotations

import errno
import logging
from typing import Any

import httpx2
import pytest
from huggingface_hub import errors as theirs

from w2w_hub.errors import (
    CorruptFileError,
    HubAccessError,
    HubConflictError,
    HubError,
    HubNotFoundError,
    InvalidInputError,
    W2WError,
)
from w2w_hub.store.hub.client import (
    FIRST_WAIT,
    LONGEST_WAIT,
    PATIENCE,
    answer,
    call,
    is_disconnection,
    is_transient,
    pause,
    require_sendable,
    translate,
)

REQUEST = httpx2.Request("GET", "https://example.org/?Signature=secret")


def answered(status: int, **headers: str) -> Exception:
    response = httpx2.Response(status, headers={k.replace("_", "-"): v for k, v in headers.items()}, request=REQUEST)
    return theirs.HfHubHTTPError("no", response=response)


def caused(error: BaseException, by: BaseException) -> BaseException:
    error.__cause__ = by
    return error


BROKEN = [
    httpx2.ReadError("x"), httpx2.ReadTimeout("x"), httpx2.RemoteProtocolError("x"), ConnectionResetError("x"),
    TimeoutError("x"), OSError("Consistency check failed: file should be of size 3 but has size 2"),
]  # fmt: skip
UNCONNECTED = [httpx2.ConnectError("x"), httpx2.ConnectTimeout("x")]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 412, 416, 429, 500, 501, 502, 503, 504])
def test_an_overloaded_hub_is_asked_again_later_and_a_refusal_is_final(status: int) -> None:
    passes = status in (408, 429, 500, 502, 503, 504)
    for error in (answered(status), caused(RuntimeError("wrapped"), answered(status))):
        assert is_transient(error) == passes
        waits = [pause(error, attempt) for attempt in range(4)]
        assert waits == ([FIRST_WAIT * 2**attempt for attempt in range(4)] if passes else [None] * 4)


def test_a_hub_that_names_a_time_is_asked_after_it_and_not_after_an_hour() -> None:
    for asked in (0, 1, 7, int(LONGEST_WAIT)):
        wait = pause(answered(429, Retry_After=str(asked)), 3)
        assert wait is not None
        assert asked < wait < asked + 1
    longest = pause(answered(503, Retry_After="99999"), 0)
    assert longest is not None
    assert LONGEST_WAIT <= longest < LONGEST_WAIT + 1
    assert pause(answered(429, Retry_After="Fri, 31 Dec 1999 23:59:59 GMT"), 1) == FIRST_WAIT * 2
    assert pause(answered(404, Retry_After="1"), 0) is None


def test_a_connection_that_broke_is_made_again_and_one_that_nobody_takes_is_not() -> None:
    for error in BROKEN:
        for shown in (error, caused(RuntimeError("wrapped"), error)):
            assert is_transient(shown)
            assert pause(shown, 2) == FIRST_WAIT * 4
            assert type(translate(shown, "org/x")) is HubError
    for error in UNCONNECTED:
        assert is_transient(error)
        assert is_disconnection(error)
        assert pause(error, 0) is None
    for final in (ValueError("x"), OSError(errno.ENOSPC, "full"), theirs.OfflineModeIsEnabled("offline")):
        assert not is_transient(final)
        assert pause(final, 0) is None
    offline = caused(theirs.OfflineModeIsEnabled("offline"), ConnectionError("x"))
    assert not is_disconnection(offline)


def test_what_an_error_hides_by_from_none_is_not_its_cause() -> None:
    shown, hidden = ValueError("while that was handled"), ValueError("unrelated")
    for error in (shown, hidden):
        error.__context__ = answered(503)
    hidden.__suppress_context__ = True
    assert answer(hidden) is None
    assert not is_transient(hidden)
    assert answer(shown).status_code == 503
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert answer(first) is None  # and it ends


def test_a_call_is_repeated_as_often_as_it_has_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)

    def fail(times: int, error: Exception, **options: Any) -> tuple[Any, int]:
        tried = 0
        waits.clear()

        def function(value: int, *, other: int) -> int:
            nonlocal tried
            tried += 1
            if tried <= times:
                raise error
            return value + other

        try:
            return call("org/x", function, 1, other=2, **options), tried
        except W2WError as told:
            return told, tried

    assert fail(0, answered(503)) == (3, 1)
    assert fail(PATIENCE, answered(503)) == (3, PATIENCE + 1)
    assert waits == [FIRST_WAIT * 2**attempt for attempt in range(PATIENCE)]
    told, tried = fail(99, answered(503))
    assert (type(told), tried, len(waits)) == (HubError, PATIENCE + 1, PATIENCE)
    assert told.__cause__ is not None
    assert fail(99, answered(503), patience=0)[1] == 1
    assert fail(1, answered(503), patience=1) == (3, 2)
    assert fail(99, answered(404))[1] == 1
    ours = CorruptFileError("ours")
    assert fail(99, ours) == (ours, 1)


KINDS = [
    (answered(401), HubAccessError), (answered(403), HubAccessError), (answered(409), HubConflictError),
    (answered(412), HubConflictError), (answered(429), HubError), (answered(500), HubError), (answered(416), HubError),
    (theirs.GatedRepoError("x", response=answered(403).response), HubAccessError),  # type: ignore[attr-defined]
    (theirs.HFValidationError("x"), InvalidInputError), (theirs.OfflineModeIsEnabled("x"), HubError),
    (ValueError("Invalid metadata in README.md.\n- x"), InvalidInputError),
    (OSError(errno.EACCES, "denied", "/there"), HubError), (OSError(errno.ENOSPC, "full", "/there"), HubError),
    (RuntimeError("anything\nelse"), HubError),
]  # fmt: skip


@pytest.mark.parametrize(("error", "kind"), KINDS)
def test_every_failure_is_one_line_of_our_own_with_its_subject_and_no_address(error: Exception, kind: type) -> None:
    for shown in (error, caused(RuntimeError("wrapped"), error)) if "Invalid" not in str(error) else (error,):
        told = translate(shown, "org/x")
        assert type(told) is kind
        assert "org/x" in str(told)
        assert "\n" not in str(told)
        assert "secret" not in str(told)
    if isinstance(error, OSError) and error.filename:
        assert "/there" in str(told)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("RepositoryNotFoundError", "repository"),
        ("RevisionNotFoundError", "revision"),
        ("RemoteEntryNotFoundError", "file"),
    ],
)
def test_what_is_not_there_is_told_apart(kind: str, what: str) -> None:
    told = translate(getattr(theirs, kind)("x", response=answered(404).response), "org/x")  # type: ignore[attr-defined]
    assert isinstance(told, HubNotFoundError)
    assert told.what == what


def test_what_the_hub_says_of_a_refusal_is_told() -> None:
    for status in (403, 409, 500):
        assert "quota of org" in str(translate(answered(status, X_Error_Message="quota of org"), "org/x"))


def test_a_token_that_no_header_can_hold_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_saved secret")
    for token in ("hf_a b", "hf_a\x01b", "hf_é"):
        with pytest.raises(HubAccessError) as refused:
            require_sendable(token)
        assert token not in str(refused.value)
        with pytest.raises(HubAccessError):
            call("org/x", lambda token: token, token=token)
    for saved in (None, True):
        with pytest.raises(HubAccessError):
            require_sendable(saved)
    require_sendable(False)  # nobody's: the saved one is not looked at
    require_sendable("hf_abc")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    require_sendable(None)
    for wrong in (3, b"hf_abc", ["hf_abc"]):
        with pytest.raises(InvalidInputError):
            require_sendable(wrong)  # type: ignore[arg-type]


def test_the_clients_log_leaves_out_what_signs_an_address() -> None:
    call("org/x", lambda: None)
    shown = []
    for handler in logging.getLogger("huggingface_hub").handlers:
        record = logging.LogRecord(
            "huggingface_hub", 30, "x", 1, "Retry %s for %d", ("https://cdn.org/f?Signature=secret", 3), None
        )
        if handler.filters and handler.filter(record):
            shown.append(record.getMessage())
    assert shown
    assert set(shown) == {"Retry https://cdn.org/f for 3"}
