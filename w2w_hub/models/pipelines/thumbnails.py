"""Draws the small pictures that the headers of exported LoRAs carry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...space.identity import Identity
from ...space.provenance import trigger_phrase
from ...space.thumbnails import thumbnail_of
from ..pictures import to_picture
from .inverting import PROMPT

SEED = 0  # of the noise


def draw_thumbnails(pipe: Any, people: Sequence[Identity], trigger: str | None = None) -> list[str]:
    """Return a picture of each identity as a data URI, drawn with the trigger phrase as the prompt."""
    prompt = trigger or trigger_phrase(pipe.space) or PROMPT
    return [thumbnail_of(to_picture(pictures[0])) for pictures in pipe.render(people, [(prompt, SEED)])]


__all__ = ["draw_thumbnails"]
