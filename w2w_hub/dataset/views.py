"""Views for other libraries: a Hugging Face `datasets.Dataset` of a dataset folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import InvalidInputError, MissingPathError, UnknownNameError, missing_extra
from .reader import WeightDataset

CONFIGS = ("weights", "labels")


def load_dataset(path: Path | str, name: str = "weights", split: str | None = None, **options: Any) -> Any:
    """Load a dataset folder with Hugging Face `datasets`, through its Parquet view.

    Parameters
    ----------
    name : {"weights", "labels"}
        With or without the column ``weights`` (float16, one fixed-size list a row).
    split : str, optional
        One split as a `Dataset`; without it all of them as a `DatasetDict`.
    **options
        Passed on, ``streaming=True`` or ``cache_dir=`` for instance.

    Examples
    --------
    >>> people = load_dataset("people", split="train").with_format("numpy")   # doctest: +SKIP
    >>> people[0]["weights"], people[0]["Beard"]                              # doctest: +SKIP
    """
    try:
        import datasets
    except ImportError:
        raise missing_extra("datasets", "datasets") from None
    if name not in CONFIGS:
        raise InvalidInputError(f"no configuration {name!r}; there are {', '.join(CONFIGS)}")
    opened = WeightDataset.open(path)
    if split is not None and split not in opened.manifest.splits:
        raise UnknownNameError(f"no split {split!r}; there are {', '.join(opened.manifest.splits)}")
    if name == "weights" and not (opened.path / "parquet").is_dir():
        raise MissingPathError(f"{path} has no Parquet view; write it with parquet_view=True, or use WeightDataset")
    return datasets.load_dataset(str(opened.path), name, split=split, **options)
