"""Match module names against the keys of an untrusted ``rank_pattern`` or ``alpha_pattern``, in bounded time.

PEFT tries each key in turn as ``re.match(rf"(.*\\.)?({key})$", module)``. Nearly all keys are plain module names, which
are looked up. The others are matched by RE2, in time linear in the name, if they mean the same in RE2 and Python's
`re`; other keys are an error and never reach a backtracking engine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from ..common.limits import (
    MAX_PATTERN_CHARS,
    MAX_PATTERN_MEMORY,
    MAX_PATTERN_NAMES,
    MAX_PATTERN_WORK,
    MAX_PATTERNS,
    MAX_PATTERNS_CHARS,
)
from ..errors import CorruptFileError, UnsupportedFormatError
from ..store.paths import short

_LITERAL = re.compile(r"\^?(?:[A-Za-z0-9_-]|\\?\.|\\-)*\$?")
# escapes with the same meaning in Python's re and RE2, so not \Z, \B, \1, \x41, \p{L} or \Q
_ESCAPES = frozenset(r"dDwWsSbAnt" + r".^$*+?{}[]|()\-/")
# syntax that differs between the two or that RE2 lacks: repeats without a lower bound, named classes, and groups other
# than plain, named and case-insensitive ones (look-around, flags, comments, conditions, atomic groups)
_OTHER_DIALECT = re.compile(r"\{,|\[[:.=]|\(\?(?!:|P<[A-Za-z_]|i:)")
# prefixes of RE2's messages for syntax that it lacks, as opposed to invalid regular expressions
_LACKING = ("invalid perl operator", "invalid escape", "invalid repetition", "pattern too large", "bad repetition")


class PatternTable:
    """Values by module name or regular expression; the first key that matches wins.

    Parameters
    ----------
    values : mapping of str to number
        Keys as in PEFT's configuration.
    where : str
        The file and field, for messages.

    Raises
    ------
    UnsupportedFormatError
        If the patterns exceed the limits, or RE2 cannot match one.
    CorruptFileError
        If a key is not a regular expression.
    """

    def __init__(self, values: Mapping[str, Any], where: str):
        self._values = list(values.values())
        self._where = where
        self._work = 0
        self._names: dict[int, dict[tuple[int, ...], dict[tuple[str, bool], int]]] = {}
        expressions: dict[int, str] = {}
        if len(values) > MAX_PATTERN_NAMES:
            raise UnsupportedFormatError(f"{where} has {len(values):,} keys, the limit is {MAX_PATTERN_NAMES:,}")
        for i, key in enumerate(values):
            if len(key) > MAX_PATTERN_CHARS:
                raise UnsupportedFormatError(
                    f"{where}: the key {short(key)} has {len(key):,} characters, the limit is {MAX_PATTERN_CHARS:,}"
                )
            if not key.isascii():
                raise UnsupportedFormatError(f"{where}: the key {short(key)} is not ASCII; name the modules")
            if _LITERAL.fullmatch(key):
                self._add_name(key, i)
            else:
                expressions[i] = key
        total = sum(map(len, expressions.values()))
        if len(expressions) > MAX_PATTERNS or total > MAX_PATTERNS_CHARS:
            raise UnsupportedFormatError(
                f"{where} has {len(expressions):,} regular expressions of {total:,} characters, the limits are "
                f"{MAX_PATTERNS} and {MAX_PATTERNS_CHARS:,}; name the modules"
            )
        for key in expressions.values():
            self._require_same_meaning(key)
        self._compiled = [(i, self._compile(key)) for i, key in expressions.items()]

    def value(self, module: str, default: Any) -> Any:
        """Return the value of the first key that matches a module's path, or `default`."""
        best = self._named(module)
        for i, (expression, size) in self._compiled:
            if best is not None and i > best:
                break
            if len(module) > MAX_PATTERN_CHARS or not (module.isascii() and module.isprintable()):
                raise UnsupportedFormatError(
                    f"{self._where} has regular expressions, which cannot match {short(module)}; list module names"
                )
            self._spend(size * (len(module) + 1))
            if expression.match(module) is not None:
                return self._values[i]
        return default if best is None else self._values[best]

    # ------------------------------------------------------------- plain names
    def _add_name(self, key: str, number: int) -> None:
        anchored = key.startswith("^")
        text: list[str] = []
        wild: list[int] = []
        escaped = False
        for char in key.removeprefix("^").removesuffix("$"):
            if char == "\\":
                escaped = True
                continue
            if char == "." and not escaped:  # matches any character
                wild.append(len(text))
            text.append(char)
            escaped = False
        shapes = self._names.setdefault(len(text), {}).setdefault(tuple(wild), {})
        shapes.setdefault(("".join(text), anchored), number)

    def _named(self, module: str) -> int | None:
        """Return the index of the first plain name that equals the path or its end after a dot."""
        best: int | None = None
        starts = [0, *(i + 1 for i, char in enumerate(module) if char == ".")]
        for start in starts:
            for wild, names in self._names.get(len(module) - start, {}).items():
                end = module[start:]
                self._spend(1 + len(wild))
                if "\n" in end:  # no wildcard matches it
                    continue
                if any(end[i] != "." for i in wild):
                    chars = list(end)
                    for i in wild:
                        chars[i] = "."
                    end = "".join(chars)
                for anchored in (False, True) if start == 0 else (False,):
                    found = names.get((end, anchored))
                    if found is not None and (best is None or found < best):
                        best = found
        return best

    # ----------------------------------------------------- regular expressions
    def _require_same_meaning(self, key: str) -> None:
        escapes = re.findall(r"\\(.)", key, re.DOTALL)
        bare = "(" + re.sub(r"\\.", "_", key, flags=re.DOTALL)  # as in PEFT's expression
        odd = next((f"\\{char}" for char in escapes if char not in _ESCAPES), None)
        found = _OTHER_DIALECT.search(bare)
        odd = odd or (bare[found.start() : found.start() + 4] if found else None)
        if odd is not None:
            raise UnsupportedFormatError(
                f"{self._where}: the key {short(key)} uses {short(odd)}, which is not supported; name the modules"
            )

    def _compile(self, key: str) -> tuple[Any, int]:
        import re2

        try:
            found = re2.compile(rf"(.*\.)?({key})$", self._options)
        except re2.error as error:
            reason = error.args[0].decode("ascii", "replace") if isinstance(error.args[0], bytes) else str(error)
            kind = UnsupportedFormatError if reason.startswith(_LACKING) else CorruptFileError
            raise kind(
                f"{self._where}: the key {short(key)} is not a supported pattern "
                f"({reason.partition(':')[0]}); list module names"
            ) from None
        return found, found.programsize

    @cached_property
    def _options(self) -> Any:
        import re2

        options = re2.Options()
        options.log_errors = False  # RE2 would print the raw pattern
        options.never_capture = True
        options.max_mem = MAX_PATTERN_MEMORY
        return options

    def _spend(self, work: int) -> None:
        self._work += work
        if self._work > MAX_PATTERN_WORK:
            raise UnsupportedFormatError(f"{self._where}: its patterns take too long to match; name the modules")
