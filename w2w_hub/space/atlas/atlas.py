"""Atlas: the people of a weight space on a map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...common.arguments import DATASET, SPACE
from ...common.constraints import flag, names, one_of, optional, path, validated, whole
from ...common.text import counted
from ...errors import InvalidInputError
from ...store.atomic import write_bytes
from ..directions.synonyms import synonyms
from ..directions.targets import require_dataset
from ..weight_space import WeightSpace
from ..withdrawn import withdrawn_rows
from .contents import AtlasContents
from .neighbors import nearest_neighbors
from .page import page
from .placing import PLACINGS, chosen_axes, placed
from .table import parquet_bytes

if TYPE_CHECKING:
    import pandas as pd

    from ...dataset import WeightDataset

NEIGHBORS, MOST_NEIGHBORS = 10, 1000
ON_A_PAGE = 10_000  # people that a browser shows smoothly
BY_DATASET, BY_SPACE = "dataset", "space"


class Atlas(AtlasContents):
    """A map of people of a weight space, to save for a viewer or as a page; fields are those of `AtlasContents`."""

    @validated(path=path(), overwrite=flag())
    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a Parquet file and return its path.

        Columns: `id`, `split`, the labels, `x`, `y`, `neighbors` (a struct of `ids`, which are row numbers from 0, and
        `distances`: the format of embedding-atlas) and, if there are pictures, `thumbnail` (a struct of `bytes` and
        `path`: an image feature of `datasets`). A label of one of these names is written as ``label_x``.

        Raises
        ------
        AlreadyExistsError, DiskError
        """
        write_bytes(path, parquet_bytes(self), replace=overwrite)
        return Path(path)

    @validated(path=path(), overwrite=flag())
    def save_page(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write one HTML page that loads nothing else, with everything inside, and return its path.

        Raises
        ------
        AlreadyExistsError, DiskError
        InvalidInputError
            For more than 10,000 people.
        """
        require_few(len(self))
        write_bytes(path, page(self).encode("utf-8"), replace=overwrite)
        return Path(path)


def require_few(count: int) -> None:
    """Raise `InvalidInputError` if these are too many people for a page."""
    if count > ON_A_PAGE:
        raise InvalidInputError(
            f"a page shows at most {ON_A_PAGE:,} people, not {count:,}; take a sample with --limit {ON_A_PAGE} (in "
            f"Python: limit={ON_A_PAGE})",
            name="limit",
        )


@validated(
    space=SPACE, dataset=optional(DATASET), by=optional(one_of(*PLACINGS)), axes=optional(names()),
    neighbors=whole(0, MOST_NEIGHBORS), limit=optional(whole(2)), seed=whole(0, 2**32 - 1),
)  # fmt: skip
def make_atlas(
    space: WeightSpace,
    dataset: WeightDataset | None = None,
    *,
    by: str | None = None,
    axes: Sequence[str] | None = None,
    neighbors: int = NEIGHBORS,
    limit: int | None = None,
    seed: int = 0,
) -> Atlas:
    """Place the people of a weight space on a map.

    Rows that were withdrawn from the space's dataset are left out.

    Parameters
    ----------
    dataset : WeightDataset, optional
        The dataset of the space, for its labels. Without it the columns are what the space's directions read from the
        weights: a probability, or the value of a continuous or ordinal attribute.
    by : {"components", "directions", "umap"}, optional
        By default components, or directions where `axes` names one. UMAP needs umap-learn.
    axes : two str, optional
        Names of directions or components; by default PC1 and PC2.
    neighbors : int
        Nearest neighbors of each person, by cosine of the coefficients, among the people of the atlas.
    limit : int, optional
        Take a random sample of so many people, if there are more.
    seed : int
        Seed of the sample and of UMAP.

    Raises
    ------
    MissingPopulationError, UnknownNameError, InvalidInputError
    DatasetChangedError
        If the space was built from another dataset.
    MissingExtraError
        If umap-learn is not installed.

    Examples
    --------
    >>> atlas = make_atlas(space, people, axes=["Full_Beard", "Dark_Skin"])     # doctest: +SKIP
    >>> atlas.save("people.parquet")                                            # doctest: +SKIP
    """
    population = space.require_population("person to place on a map")
    if dataset is not None:
        require_dataset(space, dataset)
    how, named = chosen_axes(space, by, axes)
    picked = _picked(space, limit, seed)
    everybody = len(picked) == len(population)
    rows = population.coefficients if everybody else population.coefficients[picked]
    ids = population.ids if everybody else tuple(population.ids[i] for i in picked)
    if len(ids) < 2:
        raise InvalidInputError(f"{counted(len(ids), 'person is', 'people are')} too few for a map")
    near, distances = nearest_neighbors(rows, neighbors)
    return Atlas(
        space, ids, np.asarray(population.splits)[picked], placed(space, rows, how, named, seed), how, named, near,
        distances, _readings(space, rows, ids) if dataset is None else _labels(dataset, ids),
        BY_SPACE if dataset is None else BY_DATASET,
    )  # fmt: skip


def _picked(space: WeightSpace, limit: int | None, seed: int) -> np.ndarray:
    """Return the positions of the people to show, ascending."""
    gone, ids = {row.id for row in withdrawn_rows(space)}, space.require_population("person").ids
    left = np.array([i for i, name in enumerate(ids) if name not in gone], int)
    if limit is None or limit >= len(left):
        return left
    return np.sort(np.random.default_rng(seed).choice(left, limit, replace=False))


def _labels(dataset: WeightDataset, ids: Sequence[str]) -> pd.DataFrame:
    found: pd.DataFrame = dataset.labels.loc[list(ids), list(dataset.manifest.kinds)]
    return found


def _readings(space: WeightSpace, rows: np.ndarray, ids: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    found: dict[str, Any] = {}
    for name in synonyms(space.directions):
        direction = space.directions[name]
        scores = (rows @ direction.reading).astype(np.float64) + direction.intercept
        found[name] = np.array([direction.read_out.value(score) for score in scores.tolist()], np.float32)
    return pd.DataFrame(found, index=pd.Index(ids, name="id"))
