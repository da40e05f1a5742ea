"""The options of a new dataset, shared by all functions that create one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import numpy as np

from ...common.arguments import RULES
from ...common.constraints import text
from ...common.deprecated import renamed_keywords
from ...dialects.base_model import digest_of_folder
from ...errors import InvalidInputError
from ...lora.adapter import Adapter
from ...lora.layout import ParameterLayout
from ..groups import warn_of_shared_persons
from ..initialization import as_start, name_of
from ..manifest import DTYPES, UNKNOWN, Compatibility, DatasetManifest
from ..matrix.geometry import SHARD_BYTES, parse_size, plan_geometry
from ..problems import Problems
from ..splits import SplitRule, require_rule
from .plan import Plan, RowPlan
from .shard_writer import RowSource

if TYPE_CHECKING:
    import pandas as pd

F = TypeVar("F", bound=Callable[..., Any])
OLD_NAMES = {"licence": "license", "initialisation": "initialization"}


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """Storage options and metadata of a new dataset.

    Functions with ``options=`` also accept each field as a keyword, which overrides the option:
    ``write_dataset(..., dtype="float16")``.

    Attributes
    ----------
    name : str, optional
        By default, the name of the folder.
    version : str
        Version of the content.
    license : str
        License identifier of the weights, as on the Hub; ``licence`` in the manifest.
    initialization : str
        Name of the one initialization that all adapters were trained from, which a raw weight space requires;
        ``initialisation`` in the manifest.
    start_adapter : path or Adapter, optional
        The initialization itself: the adapter that training started from, as a checkpoint or in memory. It is published
        with the dataset, so that others can train rows that fit (``w2w init``), and every row's A must be like its A.
    base : path, optional
        Folder of the base model, to record the digest of its target weights.
    compatibility : Compatibility, optional
        The complete record, instead of `initialization` and `base`.
    column_info : mapping, optional
        ``{"Age": {"unit": "years", "source": "self-reported"}}``.
    split_rule : SplitRule, optional
        Splits the rows by groups, or by rows: ``SplitRule(holdout=0.1)``. Rows with a split in their labels keep it,
        unless all splits are ``train``.
    dtype : {"float32", "float16"}, optional
        Stored dtype; by default float16 for a float16 matrix, else float32.
    compression : {"none", "bitshuffle"}
        Lossless; bitshuffle halves the size of float32 values made from bfloat16, but gains little for others.
    shard_size : int or str
        At most ``"500MB"``.
    parquet_view : bool or {"float16", "float32"}
        Also write ``parquet/``, the view that stock `datasets.load_dataset` reads, by default in float16; it is an
        error if a value exceeds the range of float16.

    Raises
    ------
    InvalidInputError
    """

    name: str | None = None
    version: str = "0.1.0"
    license: str = "unknown"
    initialization: str = UNKNOWN
    start_adapter: Path | str | Adapter | None = None
    base: Path | str | None = None
    compatibility: Compatibility | None = None
    column_info: Mapping[str, Mapping[str, str]] | None = None
    split_rule: SplitRule | None = None
    dtype: str | None = None
    compression: str = "none"
    shard_size: int | str = SHARD_BYTES
    parquet_view: bool | str = True

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in RULES and value is not field.default:
                object.__setattr__(self, field.name, RULES[field.name].checked(value, field.name))
        require_rule(self.split_rule)
        text().checked(self.version, "version")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise InvalidInputError(f"dtype {self.dtype!r} cannot be stored; choose {' or '.join(DTYPES)}")
        if not isinstance(self.parquet_view, bool) and self.parquet_view not in DTYPES:
            raise InvalidInputError(
                f"parquet_view must be a boolean or {' or '.join(DTYPES)}, not {self.parquet_view!r}"
            )
        if self.compatibility is not None and (self.base is not None or self.initialization != UNKNOWN):
            raise InvalidInputError("give either compatibility, or base and initialization")


class OptionKeywords(TypedDict, total=False):
    """The fields of :class:`DatasetOptions`, for type checkers and editors."""

    name: str | None
    version: str
    license: str
    initialization: str
    start_adapter: Path | str | Adapter | None
    base: Path | str | None
    compatibility: Compatibility | None
    column_info: Mapping[str, Mapping[str, str]] | None
    split_rule: SplitRule | None
    dtype: str | None
    compression: str
    shard_size: int | str
    parquet_view: bool | str


def takes_options(function: F) -> F:
    """Add the options to the signature of a function with ``**keywords``, and accept their deprecated names."""
    signature = inspect.signature(function)
    options = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type)
        for f in fields(DatasetOptions)
    ]
    given = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    call = renamed_keywords(**OLD_NAMES)(function)
    call.__signature__ = signature.replace(parameters=[*given, *options])  # type: ignore[attr-defined]
    return call


def merged(options: DatasetOptions | None, keywords: OptionKeywords) -> DatasetOptions:
    """Return options with some fields replaced; an unknown keyword is a `TypeError`."""
    if options is not None and not isinstance(options, DatasetOptions):
        raise InvalidInputError(f"options must be DatasetOptions, not {options!r}")
    return DatasetOptions(**keywords) if options is None else replace(options, **keywords)


def plan_new(
    options: DatasetOptions, path: Path, layout: ParameterLayout, ids: list[str], source: RowSource,
    labels: pd.DataFrame, problems: Problems, given: np.dtype[Any] | None = None,
) -> Plan:  # fmt: skip
    """Plan a new dataset with the rows of one source; `given` is their dtype, if it is known."""
    compatibility = options.compatibility
    if compatibility is None:
        digest = None if options.base is None else digest_of_folder(options.base, layout)
        compatibility = Compatibility(None, digest, options.initialization)
    start = None if options.start_adapter is None else as_start(layout, options.start_adapter)
    if start is not None and compatibility.initialisation == UNKNOWN:
        compatibility = replace(compatibility, initialisation=name_of(start))
    dtype = options.dtype or ("float16" if given == np.float16 else "float32")
    draft = DatasetManifest(
        options.name or path.name, options.version, 0, dtype, layout, "", {}, {}, compatibility, options.license
    )
    if not problems.found:
        warn_of_shared_persons(labels, options.split_rule, path)
    draft.column_info = {column: dict(info) for column, info in (options.column_info or {}).items()}
    draft.split_rule = None if options.split_rule is None else options.split_rule.to_json()
    view = "float16" if options.parquet_view is True else options.parquet_view
    draft.view = {"dtype": view} if view else None
    size = parse_size(options.shard_size)
    geometry = plan_geometry(len(ids), layout.size, dtype, size, options.compression)
    rows = RowPlan.joined([(source, range(len(ids)))])
    return Plan(draft, ids, rows, labels, geometry=geometry, start=start, problems=problems)
