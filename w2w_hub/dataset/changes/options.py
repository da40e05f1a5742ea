"""The options of a new dataset, written down once for every function that makes one."""

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
from ...lora.layout import ParameterLayout
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
    """How a new dataset is stored, and what it states about itself.

    Functions that take ``options=`` take each of these fields as a keyword too, which overrides the option:
    ``write_dataset(..., dtype="float16")``.

    Attributes
    ----------
    name : str, optional
        The folder's name by default.
    version : str
        Version of the content.
    license : str
        License of the weights, as the Hub spells it. The manifest calls it ``licence``.
    initialization : str
        Name of the one initialization that all adapters were trained from; a raw weight space needs it known. The
        manifest calls it ``initialisation``.
    base : path, optional
        Folder of the base model; the digest of its target weights is recorded.
    compatibility : Compatibility, optional
        The whole record, instead of `initialization` and `base`.
    column_info : mapping, optional
        ``{"Age": {"unit": "years", "source": "self-reported"}}``.
    split_rule : SplitRule, optional
        Makes the split, all rows of one group on one side. Rows whose labels state a split keep it, unless they are
        all for ``train``.
    dtype : {"float32", "float16"}, optional
        Stored dtype; by default float16 for a float16 matrix and float32 for anything else.
    compression : {"none", "bitshuffle"}
        Lossless; bitshuffle halves float32 values that were bfloat16 before and does little for others.
    shard_size : int or str
        At most ``"500MB"``.
    parquet_view : bool or {"float16", "float32"}
        Also write ``parquet/``, the view that stock `datasets.load_dataset` reads, by default in float16; values that
        do not fit float16 are then refused.

    Raises
    ------
    InvalidInputError
    """

    name: str | None = None
    version: str = "0.1.0"
    license: str = "unknown"
    initialization: str = UNKNOWN
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
                f"a Parquet view in {self.parquet_view!r} is not possible; choose {' or '.join(DTYPES)}"
            )
        if self.compatibility is not None and (self.base is not None or self.initialization != UNKNOWN):
            raise InvalidInputError("compatibility states base and initialization itself; give it, or the two of them")


class OptionKeywords(TypedDict, total=False):
    """The fields of :class:`DatasetOptions` as keywords, for type checkers and editors."""

    name: str | None
    version: str
    license: str
    initialization: str
    base: Path | str | None
    compatibility: Compatibility | None
    column_info: Mapping[str, Mapping[str, str]] | None
    split_rule: SplitRule | None
    dtype: str | None
    compression: str
    shard_size: int | str
    parquet_view: bool | str


def takes_options(function: F) -> F:
    """Accept the old names of options, and show each option in the signature of a function with ``**keywords``."""
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
    """Return options with the fields that are given as keywords replaced.

    Raises
    ------
    TypeError
        If a keyword is not a field.
    """
    if options is not None and not isinstance(options, DatasetOptions):
        raise InvalidInputError(f"options must be DatasetOptions, not {options!r}")
    return DatasetOptions(**keywords) if options is None else replace(options, **keywords)


def plan_new(
    options: DatasetOptions, path: Path, layout: ParameterLayout, ids: list[str], source: RowSource,
    labels: pd.DataFrame, problems: Problems, given: np.dtype[Any] | None = None,
) -> Plan:  # fmt: skip
    """Plan a new dataset of one source of rows; `given` is the dtype of these rows, if it is known."""
    compatibility = options.compatibility
    if compatibility is None:
        digest = None if options.base is None else digest_of_folder(options.base, layout)
        compatibility = Compatibility(None, digest, options.initialization)
    dtype = options.dtype or ("float16" if given == np.float16 else "float32")
    draft = DatasetManifest(
        options.name or path.name, options.version, 0, dtype, layout, "", {}, {}, compatibility, options.license
    )
    draft.column_info = {column: dict(info) for column, info in (options.column_info or {}).items()}
    draft.split_rule = None if options.split_rule is None else options.split_rule.to_json()
    view = "float16" if options.parquet_view is True else options.parquet_view
    draft.view = {"dtype": view} if view else None
    size = parse_size(options.shard_size)
    geometry = plan_geometry(len(ids), layout.size, dtype, size, options.compression)
    rows = RowPlan.joined([(source, range(len(ids)))])
    return Plan(draft, ids, rows, labels, geometry=geometry, problems=problems)
