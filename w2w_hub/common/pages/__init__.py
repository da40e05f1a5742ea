"""Render HTML pages from templates; every value is escaped unless it is markup made by this package.

``templates/`` holds the frame, ``base.html``, and the library's own templates; callers may pass the path of another.
"""

from __future__ import annotations

import html
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..text import terminal

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str | Path, /, **values: Any) -> str:
    """Return the page of a template with these values.

    Parameters
    ----------
    template : str or Path
        The name of one in ``templates/``, or the path of another, which may extend ``base.html``.
    """
    folder, name = (template.parent, template.name) if isinstance(template, Path) else (TEMPLATES, template)
    return _environment(folder).get_template(name).render(values)


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """Return an element of SVG or HTML; children and attributes are escaped unless they are markup.

    An underscore in an attribute's name becomes a hyphen, a trailing one is dropped; attributes that are None are left
    out. An element without children is self-closing.
    """
    from markupsafe import Markup

    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_escaped(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{tag}{given}>{''.join(map(_escaped, children))}</{tag}>" if children else f"<{tag}{given}/>")


def _escaped(value: object) -> Markup:
    """Return a value as markup for text and quoted attributes; invisible characters are escaped as on a terminal."""
    from markupsafe import Markup

    return value if isinstance(value, Markup) else Markup(html.escape(terminal(value)))


@lru_cache(4)
def _environment(folder: Path) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader([folder, TEMPLATES], encoding="utf-8"),
        autoescape=True,
        finalize=_escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
