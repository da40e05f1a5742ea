"""Python that draws the picture of a state again."""

from __future__ import annotations

from typing import Any

from .state import Mixed, Origin, Row, Sampled, Saved, State

HEAD = "from w2w_hub import AutoW2WPipeline\nfrom w2w_hub.models.pictures import to_picture\n"
POINT_FILE = "person.json"


def python_of(state: State, source: str, *, upload: str = "") -> str:
    """Return the Python that draws the edited person of a state.

    Parameters
    ----------
    source : str
        What opens the pipeline.
    upload : str
        Name of the visitor's file that the person is, which Python then reads.
    """
    lines = [HEAD, f"pipe = AutoW2WPipeline.from_pretrained({source!r})"]
    lines += [f"pipe.identity = {upload!r}  # the file that was uploaded"] if upload else _set_person(state.person)
    if state.is_edited:
        lines.append(f"pipe.edit({', '.join(_edit(state))})")
    options = "".join(f", {name}={value!r}" for name, value in state.settings.items())
    case = f"({state.prompt!r}, {state.seed})"
    lines.append(f"picture = to_picture(pipe.render([pipe.identity], [{case}]{options})[0, 0])")
    return "\n".join([*lines, 'picture.save("person.png")', ""])


def _edit(state: State) -> list[str]:
    pushes = {name: amount for name, amount in state.pushes.items() if amount}
    parts = [repr(pushes)] if pushes else []
    if state.wanted:
        parts.append(f"set={dict(state.wanted)!r}")
        if state.factor is not None:
            parts.append(f"strength={state.factor!r}")
    if state.preserve:
        parts.append(f"preserve={list(state.preserve)!r}")
    return [*parts, *([f"start={state.start!r}"] if state.start else [])]


def _set_person(person: Origin) -> list[str]:
    if isinstance(person, Sampled):
        return [f"pipe.sample_identity({_sample(person)})"]
    if isinstance(person, Mixed):
        points = ", ".join(_point(part) for part, _ in person.parts)
        return [f"pipe.interpolate([{points}], {[share for _, share in person.parts]!r})"]
    return [f"pipe.identity = {_point(person)}"]


def _sample(person: Sampled) -> str:
    options: dict[str, Any] = {"seed": person.seed}
    if person.truncation != 1:
        options["truncation"] = person.truncation
    if person.attributes:
        options["attributes"] = dict(person.attributes)
    return ", ".join(f"{name}={value!r}" for name, value in options.items())


def _point(person: Origin) -> str:
    match person:
        case Sampled():
            return f"pipe.space.sample({_sample(person)})[0]"
        case Row():
            return repr(person.id)
        case Saved():
            return f'"{POINT_FILE}"'  # the point that the page exports
        case Mixed():
            points = ", ".join(_point(part) for part, _ in person.parts)
            return f"pipe.space.interpolate([{points}], {[share for _, share in person.parts]!r})"
