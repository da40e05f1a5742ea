"""Views for other libraries: a Hugging Face `datasets.Dataset` of a dataset folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import InvalidInputError, MissingPathError, UnknownNameError, missing_extra
from .reader import WeightDataset

CONFIGS = ("weights", "labels")


def load_dataset(
    path: Path | str,
    name: str = "weights",
    split: str | None = None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    **options: Any,
) -> Any:
    """Load a dataset folder or Hub repository with Hugging Face `datasets`, through its Parquet view.

    A repository's files are fetched at one commit and verified first, so that the revision asked for is also the
    one that is given offline.

    Parameters
    ----------
    name : {"weights", "labels"}
        With or without the column ``weights`` (float16, one fixed-size list a row).
    split : str, optional
        One split as a `Dataset`; without it all of them as a `DatasetDict`.
    revision, token, local_files_only
        See :meth:`WeightDataset.open`.
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
    opened = WeightDataset.open(path, revision=revision, token=token, local_files_only=local_files_only)
    if split is not None and split not in opened.manifest.splits:
        raise UnknownNameError(f"no split {split!r}; there are {', '.join(opened.manifest.splits)}")
    view = "parquet/" if name == "weights" else "labels/"
    opened.source.need(file for file in opened.source.files if file.startswith(view))
    opened.source.need_card()
    if name == "weights" and not (opened.path / "parquet").is_dir():
        raise MissingPathError(f"{path} has no Parquet view; write it with parquet_view=True, or use WeightDataset")
    return datasets.load_dataset(str(opened.path), name, split=split, **options)
