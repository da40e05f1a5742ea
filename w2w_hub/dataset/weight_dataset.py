"""The public class of a dataset, which delegates to the modules beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.arguments import checked, place
from ..common.deprecated import deprecated_alias, renamed_keywords
from ..common.warn import warn_caller
from ..store.hub.locate import locate
from ..store.hub.options import HubOptions
from ..store.hub.source import Source
from ..store.hub.verify import verify_source
from .integrity import check
from .opening import open_source
from .reader import DatasetReader

if TYPE_CHECKING:
    from .views.torch import RowDataset, RowStream


class WeightDataset(DatasetReader):
    """A dataset of flattened adapters; make one with :meth:`open`.

    Attributes
    ----------
    path : Path
    manifest : DatasetManifest
    layout : ParameterLayout
    labels : DataFrame
        Split, source, licence, consent and attributes, indexed by row id, in row order.

    Examples
    --------
    >>> ds = WeightDataset.open("people")            # doctest: +SKIP
    >>> ds[0], ds["person-0001"], ds[:16], ds[ds.where(split="train", Beard=True)]   # doctest: +SKIP
    >>> ds.adapter("person-0001")                    # doctest: +SKIP
    """

    @classmethod
    @checked(path=place())
    def open(
        cls,
        path: Path | str,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: Path | str | None = None,
        local_files_only: bool = False,
        lazy: bool | None = None,
    ) -> WeightDataset:
        """Open a dataset folder, a Hub repository (``org/name``) at a revision, or an entry of a lock file.

        The opened state does not change when other processes write new states. Files from the Hub are verified; those
        of a local folder are not, see :meth:`verify`.

        Parameters
        ----------
        revision : str, optional
            Tag, branch or commit of a repository; ``main`` by default.
        token, cache_dir, local_files_only
            As in huggingface_hub.
        lazy : bool, optional
            True downloads the labels only: each row is downloaded by byte range when it is read and verified by its
            digest, and a shard is downloaded whole once half of it was read. False downloads all shards now, so that
            the dataset works offline. By default, a matrix of more than 1 MB is lazy.

        Raises
        ------
        MissingPathError, CorruptFileError, UnsupportedFormatError, HubError
        """
        source = locate(path, "dataset", revision=revision, options=HubOptions(token, cache_dir, local_files_only))
        return open_located(source, lazy)

    def to_dask(self, rows: int | None = None) -> Any:
        """Return the matrix as a lazy `dask.array`: see :func:`w2w_hub.dataset.views.dask.to_dask`."""
        from .views.dask import to_dask

        return to_dask(self, rows)

    @checked()
    def torch(self, split: str | None = None, *, columns: Sequence[str] = ()) -> RowDataset:
        """Return one split as a torch `Dataset`: see :class:`w2w_hub.dataset.views.torch.RowDataset`."""
        from .views.torch import RowDataset

        return RowDataset(self, split, columns)

    @checked()
    def torch_stream(self, split: str | None = None, *, columns: Sequence[str] = (), **options: Any) -> RowStream:
        """Return one split as a torch `IterableDataset`: see :class:`w2w_hub.dataset.views.torch.RowStream`."""
        from .views.torch import RowStream

        return RowStream(self, split, columns, **options)

    @checked()
    def verify(self, *, deep: bool = True) -> None:
        """Raise one `CorruptFileError` that lists every file, shard and row that differs from the manifest.

        See :func:`w2w_hub.dataset.check`; `deep` hashes every file and row.
        """
        report = verify_source(self.source, check, deep=deep)
        report.raise_if_any()
        for note in report.notes:
            warn_caller(note)

    numbers = deprecated_alias("WeightDataset.numbers", DatasetReader.row_indices)
    seen = deprecated_alias("WeightDataset.seen", renamed_keywords(first="start", last="stop")(DatasetReader.release))


def open_located(source: Source, lazy: bool | None = None) -> WeightDataset:
    """Open the dataset that :func:`w2w_hub.store.hub.locate.locate` found."""
    return WeightDataset(*open_source(source, lazy))
