"""One import: checks all files first, then makes the parts in the working folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..common.text import counted, few
from ..common.warn import warn_caller
from ..dataset.splits import SplitRule
from ..dialects.writing import write_adapter
from ..errors import CorruptFileError, InvalidInputError, LayoutMismatchError
from ..store.atomic import write_json
from ..store.manifest import DATASET, FILENAME, SPACE, read_manifest
from ..store.paths import read_file
from .found import Files
from .identities import decode_published, point_of, read_coefficients, read_saved_adapter
from .labels import ALPHANUMERIC, TABLE, Labels, default_ids, group_column, read_concept_labels, read_identities
from .layout import Found, find_layout
from .order import BETTER, label_fit
from .published import LICENSE, NOTICE, PROJECT, REPOSITORY
from .rows import require_matrix, write_rows
from .run import Run
from .space import Sources, SpaceWriter, read_vector
from .torch_files import StoredTensor, open_file

REPORT, TERMS, LABELS = "import.json", "LICENSE-weights2weights", "labels.csv"
FORMAT = "w2w-import"
PEOPLE, DOGS, SPACE_FOLDER, POINTS, ADAPTERS = "dataset", "dogs", "space", "points", "adapters"
MAX_TERMS = 2**20  # bytes of a license's text


class LeakingSplitWarning(UserWarning):
    """Warning that the imported labels do not say who is shown, so that any split of the rows leaks."""


class ImportJob:
    """One import: checks all files first, then makes the parts."""

    def __init__(
        self, files: Files, k: int | None, split_by: str | None, holdout: float, consent: str | None,
        parquet_view: bool | str, row_order: str,
    ):  # fmt: skip
        self.files, self.parquet_view = files, parquet_view
        self.consent = consent if consent and consent.strip() else None
        self.assumed: list[str] = []
        self.skipped: dict[str, str] = {}
        self.checks: dict[str, Any] = {}
        self.rows, self.dogs = self._matrix("rows"), self._matrix("dogs")
        self.found = self._layout()
        self.projections = self._matrix("projections")
        self.labels = self._labels(row_order)
        self.rule = self._split(split_by, holdout)
        self.dog_labels = self._dog_labels()
        self.sources = self._sources()
        self.k = None if self.sources is None else self.sources.components(k)
        self.inverse = self._pseudo_inverse()
        self.coefficients = {name: read_coefficients(files.folder / name) for name in files.points}
        layout = None if self.found is None else self.found.layout
        self.adapters = {name: read_saved_adapter(files.folder / name, layout) for name in files.adapters}

    # -------------------------------------------------------------- reading
    def _matrix(self, role: str) -> StoredTensor | None:
        where = self.files.get(role)
        if where is None:
            return None
        found = require_matrix(open_file(where), where)
        if found.dtype == np.float64 and role != "pseudo_inverse":
            self.assumed.append(f"{where.name}: its float64 values are rounded to float32")
        return found

    def _layout(self) -> Found | None:
        """Return the layout of vectors whose size all files agree on."""
        sizes = {tensor.path: tensor.shape[1] for tensor in (self.rows, self.dogs) if tensor is not None}
        for role in ("basis", "mean", "std"):
            where = self.files.get(role)
            if where is not None:
                value = open_file(where)
                if not isinstance(value, StoredTensor):
                    raise CorruptFileError(f"{where} holds no tensor; fetch it again", path=where)
                sizes[where] = value.shape[0] if role == "basis" else int(np.prod(value.shape))
        if not sizes:
            return None
        width = next(iter(sizes.values()))
        for where, size in sizes.items():
            if size != width:
                raise LayoutMismatchError(
                    f"{where} has {size:,} numbers per LoRA, {next(iter(sizes))} has {width:,}; put the files of one "
                    "publication together",
                    path=where,
                )
        found = find_layout(self.files.get("dimensions"), self.files.get("config"), width)
        self.assumed += found.assumed
        self.assumed.append("all LoRAs were trained from one initialization (seed 0, as in the published script)")
        return found

    def _labels(self, row_order: str) -> Labels | None:
        counts = {role: tensor.shape[0] for role, tensor in (("rows", self.rows), ("projections", self.projections))
                  if tensor is not None}  # fmt: skip
        rows = next(iter(counts.values()), None)
        if len(set(counts.values())) > 1:
            source = self.files.by_role["projections"]
            raise InvalidInputError(
                f"{source} has {counts['projections']:,} rows, {self.files.get('rows')} has {rows:,}; put the files of "
                "one population together",
                path=source,
            )
        where = self.files.get("labels")
        if where is not None:
            labels = read_identities(where, rows, row_order)
        elif rows is not None:
            labels = Labels(default_ids(rows, "row"))
            labels.assumed.append("identity_df.pt is not there: rows have numbers as ids, and no labels")
        else:
            return None
        self.assumed += labels.assumed
        return labels

    def _split(self, split_by: str | None, holdout: float) -> SplitRule | None:
        if self.labels is None:
            return None
        column = group_column(self.labels, split_by)
        if column is not None:
            self.assumed.append(f"the column {column!r} says who is shown; all models of one person are on one side")
            return SplitRule(column, holdout)
        if self.rows is not None:
            why = (
                "no column of the labels says which celebrity a model shows, and many show the same one: all rows are "
                "in 'train', and a random split would leak"
            )
            self.assumed.append(why)
            warn_caller(f"{why}; with a column of celebrities: --split-by COLUMN", LeakingSplitWarning)
        return None

    def _dog_labels(self) -> Labels | None:
        where = self.files.get("dog_labels")
        if self.dogs is None:
            if where is not None:
                self.skipped[where.name] = "dog_weights.pt is not there"
            return None
        rows = self.dogs.shape[0]
        labels = Labels(default_ids(rows, "dog")) if where is None else read_concept_labels(where, rows, "dog")
        self.assumed += labels.assumed
        return labels

    def _sources(self) -> Sources | None:
        """Return the files of the weight space; None, with the reason in `skipped`, if they do not make one."""
        basis = self._matrix("basis")
        if basis is None or self.found is None:
            for role in ("projections", "pseudo_inverse"):
                if (where := self.files.get(role)) is not None:
                    self.skipped[where.name] = "V.pt is not there"
            return None
        missing = [f"{role}.pt" for role in ("mean", "std") if self.files.get(role) is None]
        if self.projections is None and self.rows is None:
            missing.append("proj_1000pc.pt or all_weights.pt")
        if not missing and self.labels is not None and len(self.labels.ids) < 2:
            missing.append("a second row")
        if missing:
            for role in ("basis", "mean", "std", "projections"):
                if (where := self.files.get(role)) is not None:
                    self.skipped[where.name] = f"no weight space: {few(missing)} is not there"
            return None
        size = self.found.layout.size
        mean, std = (
            read_vector(open_file(self.files.by_role[role]), self.files.by_role[role], size) for role in ("mean", "std")
        )
        if (std < 0).any():
            raise CorruptFileError(
                f"{self.files.by_role['std']} has a negative deviation; fetch it again", path=self.files.by_role["std"]
            )
        constant = int((std == 0).sum())
        projected = self.projections
        if projected is not None and projected.shape[1] > basis.shape[1]:
            raise CorruptFileError(
                f"{projected.path} has {projected.shape[1]:,} coefficients per row, V.pt has {basis.shape[1]:,} "
                "components; fetch both again",
                path=projected.path,
            )
        return Sources(basis, mean, np.where(std == 0, np.float32(1), std), projected, self.rows, constant)

    def _pseudo_inverse(self) -> StoredTensor | None:
        """Return the published pseudo-inverse of the coefficients; it is not stored, since it follows from them."""
        inverse, projected = self._matrix("pseudo_inverse"), self.projections
        if inverse is None or projected is None:
            return None
        if inverse.shape != projected.shape[::-1]:
            raise CorruptFileError(
                f"{inverse.path} has shape {inverse.shape}, the pseudo-inverse of {projected.path.name} has "
                f"{projected.shape[::-1]}; fetch both again",
                path=inverse.path,
            )
        self.skipped[inverse.path.name] = f"it follows from {projected.path.name}"
        return inverse

    # -------------------------------------------------------------- making
    def make(self, run: Run) -> dict[str, Any]:
        """Make the parts that are not finished yet, and the report."""
        folder, hashes = run.folder, run.hashes(self.files.all)
        if self.rows is not None and self.found is not None and self.labels is not None:
            self._dataset(self.rows, folder / PEOPLE, self.labels, PROJECT, self.rule)
        elif self.labels is not None and self.labels.columns:
            table = self.labels.table()
            (folder / LABELS).write_text(table.to_csv(), "utf-8")
        if self.dogs is not None and self.found is not None and self.dog_labels is not None:
            self._dataset(self.dogs, folder / DOGS, self.dog_labels, f"{PROJECT}-dogs", None)
        if self.sources is not None:
            self._space(folder, hashes)
        self._inverse_error()
        self._label_order()
        self._identities(folder)
        if self.files.license is not None:
            name = self.files.license.relative_to(self.files.folder).as_posix()
            (folder / TERMS).write_bytes(read_file(self.files.folder, name, MAX_TERMS))
        report = {
            "format": FORMAT, "format_version": 1, "license": LICENSE, "notice": NOTICE, "consent": self.consent,
            "files": hashes, "made": self._made(folder), "assumed": self.assumed, "checks": self.checks,
            "skipped": self.skipped,
        }  # fmt: skip
        write_json(folder / REPORT, report, replace=True)
        return report

    def _dataset(self, rows: StoredTensor, where: Path, labels: Labels, name: str, rule: SplitRule | None) -> None:
        if not (where / FILENAME).is_file():
            assert self.found is not None
            write_rows(
                rows, where, self.found, labels, name=name, split_rule=rule, consent=self.consent,
                parquet_view=self.parquet_view,
            )  # fmt: skip

    def _space(self, folder: Path, hashes: dict[str, dict[str, Any]]) -> None:
        where = folder / SPACE_FOLDER
        if not (where / FILENAME).is_file():
            assert self.sources is not None
            assert self.k is not None
            assert self.found is not None
            assert self.labels is not None
            dataset = {"dataset": PROJECT, "dataset_version": "unknown", "dataset_digest": "unknown"}
            if (folder / PEOPLE).is_dir():
                manifest = read_manifest(folder / PEOPLE, DATASET)
                dataset |= {"dataset_version": manifest["version"], "dataset_digest": manifest["digest"]}
            writer = SpaceWriter(self.sources, self.found, self.labels.ids, self.k, where)
            writer.write(
                name=f"{PROJECT}-space",
                dataset=dataset,
                record={"from": REPOSITORY, "license": LICENSE, "consent": self.consent},
                published={"files": self._published(hashes), "assumed": self.assumed},
            )
        manifest = read_manifest(where, SPACE)
        self.checks |= manifest["recipe"]["as_published"]["measured"]
        self.checks["orthogonality_error"] = manifest["diagnostics"]["orthogonality_error"]
        error = self.checks.get("projection_error", 0.0)
        if error > 0.05:
            warn_caller(
                f"{self.files.get('projections')}: its coefficients differ by {error:.0%} from those of the weights; "
                "they may be of other rows, or of another order"
            )

    def _published(self, hashes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return the entries of the published files, without those of single people."""
        names = {path.relative_to(self.files.folder).as_posix() for path in self.files.by_role.values()}
        return {name: entry for name, entry in hashes.items() if name in names}

    def _label_order(self) -> None:
        """Measure how well the labels fit the coefficients, and warn if they do better in the order of their table."""
        if self.projections is None or self.labels is None or not self.labels.columns:
            return
        other = self.labels.in_table_order()
        orders = {ALPHANUMERIC: self.labels.columns} | ({} if other is None else {TABLE: other})
        fit = label_fit(self.projections, orders)
        if not fit:
            return
        self.checks["label_fit"] = fit
        if fit.get(TABLE, 0) > BETTER * fit[ALPHANUMERIC]:
            warn_caller(
                f"{self.files.get('labels')}: its labels fit the coefficients better in the order of the table "
                f"({fit[TABLE]:.2f}) than in alphanumeric order ({fit[ALPHANUMERIC]:.2f}; 1 is chance); if the rows "
                "are in the order of the table: --row-order table (row_order='table')"
            )

    def _inverse_error(self) -> None:
        """Compare the published pseudo-inverse with the coefficients."""
        inverse, projected = self.inverse, self.projections
        if inverse is None or projected is None:
            return
        product = np.zeros((projected.shape[1], projected.shape[1]))
        for start in range(0, projected.shape[0], 1024):
            part = slice(start, start + 1024)
            product += inverse[:, part].astype(np.float64) @ projected[part].astype(np.float64)
        self.checks["pseudo_inverse_error"] = float(np.abs(product - np.eye(len(product))).max())

    def _identities(self, folder: Path) -> None:
        """Make points and adapters of single people."""
        manifest = read_manifest(folder / SPACE_FOLDER, SPACE) if self.sources is not None else None
        names: set[str] = set()
        for name, values in self.coefficients.items():
            where = self.files.folder / name
            if values is None:
                self.skipped[name] = "it is no point (1, k)"
            elif manifest is not None and len(values) <= manifest["k"]:
                point = point_of(values, where, manifest["recipe"], manifest["k"], manifest["digest"])
                (folder / POINTS).mkdir(exist_ok=True)
                point.save(folder / POINTS / f"{_own_name(name.removesuffix('.pt'), names)}.json", overwrite=True)
            elif self.sources is not None and self.found is not None and len(values) <= self.sources.basis.shape[1]:
                adapter = decode_published(values, self.sources, self.found.layout, self.found.base_model)
                own = _own_name(name.removesuffix(".pt"), names)
                write_adapter(adapter, folder / ADAPTERS / own, ("peft",), overwrite=True)
                self.assumed.append(
                    f"{name}: it has {counted(len(values), 'coefficient')}, more than the weight space has components; "
                    "it is an adapter here, of all its coefficients"
                )
            else:
                self.skipped[name] = f"no weight space with {len(values):,} components is there"
        for name, saved in self.adapters.items():
            own = _own_name(Path(name).parent.as_posix(), names)
            write_adapter(saved, folder / ADAPTERS / own, ("peft",), overwrite=True)

    def _made(self, folder: Path) -> dict[str, Any]:
        """Return the digests of datasets and weight space, and the names of the other outputs."""
        made: dict[str, Any] = {}
        for name, kind in ((PEOPLE, DATASET), (DOGS, DATASET), (SPACE_FOLDER, SPACE)):
            if (folder / name).is_dir():
                made[name] = read_manifest(folder / name, kind)["digest"]
        for name in (POINTS, ADAPTERS):
            if (folder / name).is_dir():
                made[name] = sorted(each.stem if name == POINTS else each.name for each in (folder / name).iterdir())
        return made


def _own_name(path: str, names: set[str]) -> str:
    """Return a name in one folder for a path in another, and add it to the names that are taken."""
    plain = path.replace("/", "-").strip(".-") or "adapter"
    found = next(each for each in (plain, *(f"{plain}-{n}" for n in range(2, len(names) + 3))) if each not in names)
    names.add(found)
    return found
