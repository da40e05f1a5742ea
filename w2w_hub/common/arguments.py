"""Argument rules that many public calls share, one per parameter name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from .constraints import (
    Rule,
    either,
    flag,
    has,
    instance,
    names,
    number,
    one_of,
    optional,
    path,
    text,
    validated,
    whole,
)

F = TypeVar("F", bound=Callable[..., Any])
LARGEST = 2**62  # size in bytes or rows


def of_class(name: str, expected: str) -> Rule:
    """An instance of this package's class `name`, which `common` must not import since its module is above."""

    def take(value: Any) -> Any:
        ours = __name__.partition(".")[0] + "."
        if not any(cls.__name__ == name and f"{cls.__module__}.".startswith(ours) for cls in type(value).__mro__):
            raise ValueError
        return value

    return Rule(expected, take)


def place() -> Rule:
    """A folder, a repository name or a pin in a lock file, as a string or a path."""
    return either(text(), instance(Path, "a path"))


def scheduler() -> Rule:
    """A Dask scheduler's address or client."""

    return Rule("the address of a Dask scheduler or a client", either(text(), has("submit", "a client")).take)


def listed() -> Rule:
    """One value or several; a zero-dimensional array is neither."""

    def take(value: Any) -> Any:
        if getattr(value, "ndim", 1) == 0:
            raise ValueError
        return value

    return Rule("a single value or a list of values", take)


def info() -> Rule:
    """Descriptions of columns: a mapping per column name."""

    def take(value: Any) -> Any:
        if not isinstance(value, Mapping) or not all(isinstance(one, Mapping) for one in value.values()):
            raise ValueError
        return value

    return Rule("a mapping of columns to mappings", take)


ADAPTER = of_class("Adapter", "an Adapter, as read_adapter(path) returns it")
DATASET = of_class("WeightDataset", "an open dataset, as WeightDataset.open(path) returns it")
LAYOUT = of_class("ParameterLayout", "a ParameterLayout, as dataset.layout and ParameterLayout.from_adapter are")
SPACE = of_class("WeightSpace", "a weight space, as WeightSpace.from_pretrained(path) returns it")
POINT = of_class("Point", "a Point, as space.row(id), space.sample() and Point.load(path) return it")
RULES: dict[str, Rule] = {
    # where things are
    "path": path(), "folder": path(), "source": path(), "out": path(), "base": optional(path()),
    "revision": optional(text()), "token": optional(either(flag(), text())), "cache_dir": optional(path()),
    "local_files_only": flag(), "lazy": optional(flag()), "streaming": flag(), "deep": flag(), "vouched": flag(),
    "overwrite": flag(),
    # what they are
    "dataset": DATASET, "layout": LAYOUT, "point": POINT, "compatibility": optional(
        of_class("Compatibility", "a Compatibility")
    ),
    "name": optional(text()), "version": optional(text()), "license": text(), "initialization": text(),
    "column_info": optional(info()), "dialect": text(), "extra_labels": one_of("refuse", "ignore"),
    "header_labels": flag(),
    # how they are stored and read
    "dtype": optional(text()), "compression": text(), "shard_size": either(whole(1, LARGEST), text()),
    "parquet_view": either(flag(), text()), "workers": optional(whole(1)), "dask": optional(scheduler()),
    "allow_torch": flag(), "trust": optional(text()), "component": optional(text()), "canonical": optional(text()),
    "start_adapter": optional(either(path(), ADAPTER)),
    "alpha": optional(number()), "svd_rank": optional(whole(1, 2**31 - 1)),
    "start": whole(0, LARGEST), "stop": whole(0, LARGEST), "seed": whole(0), "k": optional(whole(1)),
    "difference": flag(), "preserve": either(text(), names()),
    "ids": listed(), "sources": listed(), "adapters": listed(), "columns": listed(), "drop_columns": listed(),
    "key": listed(), "indices": listed(), "points": listed(), "dialects": listed(), "row_id": text(),
    "cosine": optional(Rule("more than 0 and at most 1", number(above=0, high=1).take)), "centered": flag(),
}  # fmt: skip


def checked(**others: Rule) -> Callable[[F], F]:
    """Check the arguments of a public call by the shared rules of their names; `others` add to or replace those."""

    def decorate(function: F) -> F:
        shared = {name: RULES[name] for name in inspect.signature(function).parameters if name in RULES}
        return validated(**shared | others)(function)

    return decorate
