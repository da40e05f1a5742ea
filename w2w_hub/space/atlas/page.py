"""The HTML page of an atlas; its text is in the template ``atlas.html``, its script in ``atlas.js``."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...common.pages import render
from ...common.text import one_line, terminal
from .contents import AtlasContents
from .placing import COMPONENTS, DIRECTIONS
from .table import column_names

if TYPE_CHECKING:
    import pandas as pd
    from markupsafe import Markup


LONGEST = 80  # characters of a level
LEVELS = 12  # that have a color; the others share one
NEIGHBORS = 6  # shown per person
DIGITS = 5  # significant, of numbers on the page


def page(atlas: AtlasContents) -> str:
    """Return the whole page, which loads no other resource."""
    space = atlas.space
    return render(
        "atlas.html",
        title=f"{space.name} {space.version}",
        people=f"{len(atlas):,}",
        components=f"{space.k:,}",
        license=space.licence,
        digest=space.digest[:12],
        by_dataset=atlas.labeled_by == "dataset",
        data=_json(_data(atlas)),
    )


def _data(atlas: AtlasContents) -> dict[str, Any]:
    names = column_names(atlas.labels.columns)
    labels = [_column(name, atlas.labels[old]) for name, old in zip(names, atlas.labels.columns, strict=True)]
    by_axis = [i for i, name in enumerate(atlas.labels.columns, 1) if name == atlas.axes[0]]
    return {
        "ids": [terminal(name) for name in atlas.ids],
        "x": _numbers(atlas.positions[:, 0]),
        "y": _numbers(atlas.positions[:, 1]),
        "axes": [_axis(atlas, name) for name in atlas.axes],
        "square": atlas.by != DIRECTIONS,
        "columns": [_levels("split", atlas.splits.tolist()), *labels],
        "first": by_axis[0] if by_axis else min(1, len(labels)),
        "neighbors": atlas.neighbors[:, :NEIGHBORS].tolist(),
        "cosines": np.round(1 - atlas.distances[:, :NEIGHBORS].astype(float), 3).tolist(),
        "pictures": [base64.b64encode(picture).decode() for picture in atlas.thumbnails or ()],
    }


def _axis(atlas: AtlasContents, name: str) -> str:
    if atlas.by == COMPONENTS:
        share = atlas.space.coordinates.singular_values**2
        number = int(name[2:]) - 1
        return f"{name} ({share[number] / share.sum():.1%} of the components' variance)"
    if atlas.by != DIRECTIONS:
        return name
    graded = atlas.space.direction(name).read_out.graded
    return terminal(f"{name}, as read" if graded else f"{name}, log-odds as read")


def _column(name: str, values: pd.Series) -> dict[str, Any]:
    """Return a column of labels: numbers, or levels and their codes."""
    import pandas as pd

    if pd.api.types.is_bool_dtype(values.dtype):
        return _levels(
            name, [None if value is pd.NA else ("yes" if value else "no") for value in values], ("yes", "no")
        )
    if pd.api.types.is_numeric_dtype(values.dtype):
        return {"name": terminal(name), "values": _numbers(values.to_numpy(float, na_value=np.nan))}
    order = list(values.cat.categories) if isinstance(values.dtype, pd.CategoricalDtype) and values.cat.ordered else ()
    return _levels(name, [None if pd.isna(value) else str(value) for value in values], order)


def _levels(name: str, values: Sequence[str | None], order: Sequence[str] = ()) -> dict[str, Any]:
    """Return a column of levels: those in `order` first, then the most frequent; rare ones are one level."""
    counts: dict[str, int] = {}
    for value in values:
        if value is not None:
            counts[value] = counts.get(value, 0) + 1
    listed = [level for level in order if level in counts]
    listed += sorted((level for level in counts if level not in listed), key=lambda level: (-counts[level], level))
    shown, others = listed, 0
    if len(listed) > LEVELS:
        kept = set(sorted(counts, key=lambda level: (-counts[level], level))[: LEVELS - 1])
        shown, others = [level for level in listed if level in kept], len(listed) - len(kept)
    codes = {level: code for code, level in enumerate(shown)}
    texts = [one_line(level, LONGEST) for level in shown] + ([f"{others:,} other levels"] if others else [])
    return {
        "name": terminal(name), "levels": texts,
        "codes": [-1 if value is None else codes.get(value, len(shown)) for value in values],
    }  # fmt: skip


def _numbers(values: np.ndarray) -> list[float | None]:
    """Return numbers with few digits; None where they are not finite."""
    return [float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None for value in values.tolist()]


def _json(value: Any) -> Markup:
    """Return JSON that may stand in a script element: it holds no markup, whatever its texts are."""
    from markupsafe import Markup

    text = json.dumps(value, separators=(",", ":"), allow_nan=False)  # ASCII
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
