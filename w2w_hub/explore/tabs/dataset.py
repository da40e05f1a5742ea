"""Tab Dataset: rows with their labels, filters, and counts."""

from __future__ import annotations

import re
from typing import Any

from .. import markup
from ..evidence import in_words
from ..page import Page, Session, Shown, one
from ..rows import Table, describe_dataset
from .panel import panel

PAGE_NUMBER = re.compile(r"[0-9]{1,9}")


def build(page: Page) -> None:
    """Add the tab's parts to the page."""
    table = Table.of(page.studio.space, page.studio.dataset)
    about = describe_dataset(page.studio.dataset)
    if table is None:
        panel("dataset", markup.part("message", text="This weight space was published without its people."))
        return
    values = {name: table.values(name) for name in table.columns}

    def render(filters: dict[str, Any], number: int = 0, words: str = "") -> str:
        found = table.page(filters, number, words)
        most = max([1, *(count for each in found.histograms for _, count in each.bars)])
        return markup.part(
            "dataset", about=about, words=words, page=found, columns=[in_words(name) for name in found.columns],
            filtered=any(filters.values()),
            filters=[
                {
                    "name": name, "label": in_words(name), "options": values[name], "chosen": filters.get(name, ""),
                    "is_number": name in table.numbers,
                }
                for name in table.columns
            ],
            histograms=[
                {"label": in_words(each.name), "bars": [(word, n, n / most) for word, n in each.bars]}
                for each in found.histograms
            ],
        )  # fmt: skip

    rows = panel("dataset", render({}))

    def filters_in(event: dict[str, Any]) -> dict[str, Any]:
        given = event["values"].get("filter", {})
        return {name: value for name, value in given.items() if name in values and isinstance(value, str) and value}

    def changed(session: Session, event: dict[str, Any], *, on_step: Any) -> Shown:
        return {rows: render(filters_in(event), 0, str(one(event, "words", "")))}

    def acted(session: Session, event: dict[str, Any], *, on_step: Any) -> Shown:
        if event["act"] == "open":
            return page.show(session.with_row(event["name"]), on_step)
        number = int(event["name"]) if PAGE_NUMBER.fullmatch(event["name"]) else 0
        return {rows: render(filters_in(event), number, str(one(event, "words", "")))}

    page.listeners.append(lambda: page.on(rows.edit, changed, more=[rows]))
    page.listeners.append(lambda: page.on(rows.act, acted, more=[rows]))
