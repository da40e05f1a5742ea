"""Info: what a path or a repository is, and the commands that make sense with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..common.display import Displayed

UNKNOWN = "unknown"  # the kind of everything that this package does not know


@dataclass(frozen=True)
class Step:
    """A command that can be run as it is.

    Attributes
    ----------
    command : str
        Quoted for a shell.
    purpose : str
    """

    command: str
    purpose: str


@dataclass(frozen=True, repr=False)
class Info(Displayed):
    """What :func:`identify` found.

    Attributes
    ----------
    path : str
        As it was given.
    kind : str
        ``adapter``, ``dataset``, ``weight space``, ``point``, ...; ``unknown`` for what this package does not know.
    summary : str
        What it is, in one line.
    facts : mapping
        Values by name. Text in them may come from strangers.
    warnings : tuple of str
        What must be known before it is used: withdrawn rows, damage, files that are not opened.
    hints : tuple of str
        What else it is good for.
    steps : tuple of Step
        Commands to run next.
    """

    path: str
    kind: str
    summary: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()

    def _facts(self) -> Mapping[str, object]:
        texts = {"warnings": self.warnings, "next": [step.command for step in self.steps], "hints": self.hints}
        return {"": self.summary, **self.facts, **{name: "; ".join(each) for name, each in texts.items() if each}}

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON; each step as an object with `command` and `purpose`."""
        return {
            **vars(self), "facts": dict(self.facts), "warnings": list(self.warnings), "hints": list(self.hints),
            "steps": [asdict(step) for step in self.steps],
        }  # fmt: skip

    def with_warnings(self, *warnings: str) -> Info:
        """Return the same with more warnings, the first of all."""
        return replace(self, warnings=(*warnings, *self.warnings)) if warnings else self
