"""WeightSpace: coordinates and the population in them, with directions, name, version and recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.arguments import checked, place
from ..common.constraints import flag, path, validated
from ..common.display import LONGEST, Displayed, listed
from ..common.text import counted, one_line
from ..common.warn import warn_caller
from ..errors import InvalidInputError
from ..store.hub.verify import verify_source
from .encoder.on_space import EncoderMixin
from .integrity import check_space
from .old_fields import accepts_flat_fields, old_attribute
from .operations import PointOperations
from .previews import add_preview
from .storage import open_contents, save_space
from .withdrawn import warn_of_withdrawn


class WeightSpace(EncoderMixin, PointOperations, Displayed):
    """A linear space of adapters; two are equal if their coordinates, populations, directions and metadata are.

    Every `point` parameter accepts a :class:`Point`, the path of a saved one, coefficients ``(<= k,)``, an inversion,
    an adapter, its path or its weights ``(d,)``, or the id of a row. A row's id means its point in the space, without
    what the components do not explain; for its own weights give ``people["person-0001"]``. Less common operations,
    such as :meth:`Coordinates.explained` and :meth:`Population.reconstruction_error`, are methods of
    :attr:`coordinates` and :attr:`population`.

    Attributes
    ----------
    coordinates : Coordinates
        Mean, standard deviation and principal components.
    population : Population or None
        Ids and coefficients of the rows; None in a space that was published without them.
    directions : dict of str to Direction
    recipe : dict
        How it was built; includes the dataset's digest.
    path : Path or None
        The folder that it was opened from, or built into.
    """

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        rows = "no population" if self.population is None else counted(len(self.population), "row")
        return one_line(
            f"WeightSpace({self.name} {self.version}: k {self.k:,} of {self.layout.size:,} parameters, "
            f"{rows}, {counted(len(self.directions), 'direction')}, {self.digest[:12]})",
            LONGEST,
        )

    def _facts(self) -> Mapping[str, object]:
        population, source = self.population, self.revision or self.path
        return {
            "name": self.name, "version": self.version, "digest": self.digest[:12],
            "components": f"{self.k:,} of {self.layout.size:,} parameters",
            "rows": "without population" if population is None else f"{len(population):,}, {self.spread.rows:,} fitted",
            "directions": listed(self.directions), "base model": self.compatibility.base_model or "not named",
            "license": self.licence, "opened from": "memory" if source is None else str(source),
        }  # fmt: skip

    # ------------------------------------------------------------ opening, saving, verifying
    @classmethod
    @checked(path=place())
    def from_pretrained(
        cls,
        path: Path | str,
        k: int | None = None,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: Path | str | None = None,
        local_files_only: bool = False,
    ) -> WeightSpace:
        """Open a folder, a Hub repository (``org/name``) at a revision, or what a lock file pins.

        Warns if rows of its population were withdrawn from the repository of its dataset.

        Parameters
        ----------
        k : int, optional
            Components to load: fewer files are fetched. The digest stays that of the whole space, so that points fit.

        Raises
        ------
        MissingPathError, CorruptFileError, UnsupportedFormatError, HubError
        """
        found = open_contents(
            path, k, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        warn_of_withdrawn(found)
        return cls(**{f.name: getattr(found, f.name) for f in fields(found)})

    open = from_pretrained  # the same call by the name that datasets have

    @checked()
    def save(
        self, path: Path | str, *, base: Path | str | None = None, generation: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> Path:  # fmt: skip
        """Write a folder and return its path; the space itself does not change.

        Parameters
        ----------
        base : path, optional
            A diffusers folder to embed, so that the space opens offline.
        generation : mapping, optional
            Keywords that pipelines of this space use where a call gives none, stored with `base`:
            ``{"num_inference_steps": 15, "guidance_scale": 2.0}``. By default :attr:`generation`.
        overwrite : bool
            Replace an existing weight space, if its folder holds nothing else; its previews are not kept.

        Raises
        ------
        BaseModelMismatchError
            If the target modules of `base` are not those that the adapters were trained on.
        AlreadyExistsError, MissingPathError, DiskError
        """
        return save_space(self, path, base, generation=generation, overwrite=overwrite)

    @validated(picture=path(), overwrite=flag())
    def add_preview(self, picture: Path | str, *, overwrite: bool = False) -> str:
        """Add a picture to the folder of this space and to its card; return its path in the folder.

        Parameters
        ----------
        picture : path
            A ``.png`` file; its name is the picture's title.
        overwrite : bool
            Replace a preview of that name.

        Raises
        ------
        InvalidInputError
            If it is not a PNG file, or the space is not in a local folder.
        AlreadyExistsError, MissingPathError, DiskError
        """
        return add_preview(self, Path(picture), overwrite=overwrite)

    @validated(population_model=flag())
    def without_population(self, *, population_model: bool = True) -> WeightSpace:
        """Return the same space without ids and coefficients of rows, to publish a basis without people's data.

        Coordinates, directions and the mean and standard deviation of the coefficients stay, so that it still
        projects, decodes, samples and edits. It is saved as format version 2, which w2w_hub 0.1.0 does not read.

        Parameters
        ----------
        population_model : bool
            Keep the model of the population, which sets attributes. It holds combinations of attributes without ids;
            the coefficients of a fitted row whose combination nobody else has can be estimated from it.
        """
        model = self.population_model if population_model else None
        return replace(self, population=None, stored_spread=self.spread, population_model=model, path=None, source=None)

    @checked()
    def verify(self, *, deep: bool = True) -> None:
        """Raise one `CorruptFileError` that names every file that differs from what was published.

        See :func:`w2w_hub.space.integrity.check_space`. Changes in memory are not checked.

        Parameters
        ----------
        deep : bool
            Hash all files, including those of an embedded base model.

        Raises
        ------
        CorruptFileError
        InvalidInputError
            If the space is in memory only.
        """
        if self.source is not None:
            report = verify_source(self.source, check_space, deep=deep)
        elif self.path is not None:
            report = check_space(self.path, deep=deep)
        else:
            raise InvalidInputError(f"weight space {self.name!r} is in memory only; save it and verify the saved one")
        report.raise_if_any()
        for note in report.notes:
            warn_caller(note)


WeightSpace.__init__ = accepts_flat_fields(WeightSpace.__init__)  # type: ignore[method-assign]
if not TYPE_CHECKING:  # names before version 0.2
    WeightSpace.__getattr__ = old_attribute
