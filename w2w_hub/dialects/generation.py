"""Generation settings that travel with a weight space: the steps and guidance that its figures were measured with."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from ..common.constraints import Rule, number, whole
from ..errors import InvalidInputError
from ..store.manifest import misstated

KEY = "generation"  # in `w2w_pipeline.json`
# keywords of the stock pipelines' call
SETTINGS: dict[str, Rule] = {"num_inference_steps": whole(1, 1000), "guidance_scale": number(0, 100)}


def checked_settings(given: Mapping[str, Any] | None, what: str = KEY) -> dict[str, Any]:
    """Return generation settings as plain numbers, in the order of :data:`SETTINGS`.

    Raises
    ------
    InvalidInputError
        For anything but a mapping, an unknown setting, or a value out of range.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InvalidInputError(f"{what} must be a mapping, not {reprlib.repr(given)}", name=what)
    unknown = [name for name in given if name not in SETTINGS]
    if unknown:
        raise InvalidInputError(
            f"{what} has no setting {reprlib.repr(unknown[0])}; it takes {' and '.join(SETTINGS)}", name=what
        )
    return {name: rule.checked(given[name], f"{what}: {name}") for name, rule in SETTINGS.items() if name in given}


def stored_settings(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the entry of `w2w_pipeline.json` for generation settings: none if there are no settings."""
    found = checked_settings(given)
    return {KEY: found} if found else {}


def read_settings(config: Mapping[str, Any], where: Any) -> dict[str, Any]:
    """Return the settings that a `w2w_pipeline.json` states; those that this release does not know are ignored.

    Raises
    ------
    CorruptFileError
        If a known setting has a value out of range.
    """
    stated = config.get(KEY, {})
    try:
        return checked_settings({n: v for n, v in stated.items() if n in SETTINGS})
    except (AttributeError, InvalidInputError) as error:
        raise misstated(where, repr(KEY)) from error


def shown_settings(settings: Mapping[str, Any]) -> str:
    """Return settings as the keywords of a call: ``num_inference_steps=15, guidance_scale=2.0``."""
    return ", ".join(f"{name}={value!r}" for name, value in settings.items())


__all__ = ["KEY", "SETTINGS", "checked_settings", "read_settings", "shown_settings", "stored_settings"]
