"""Settings of solvers and engines: dataclass fields that are checked when the object is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar

from ...common.constraints import Rule


class Settings:
    """Base of a dataclass whose fields are checked by `rules` and converted to plain Python types.

    Raises
    ------
    InvalidInputError
        If a field breaks its rule.
    """

    rules: ClassVar[Mapping[str, Rule]] = {}

    def __post_init__(self) -> None:
        for name, rule in self.rules.items():
            value = rule.checked(getattr(self, name), f"{type(self).__name__}: {name}")
            object.__setattr__(self, name, value)

    @classmethod
    def setting_names(cls) -> tuple[str, ...]:
        """Return the names of the settings, in the order in which a recipe records them."""
        return tuple(f.name for f in fields(cls) if f.init)  # type: ignore[arg-type]

    @classmethod
    def known(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the items of `given` that are settings of this class."""
        return {name: given[name] for name in cls.setting_names() if name in given}
