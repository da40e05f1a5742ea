"""The commands `w2w pack`, `add`, `remove` and `relabel`, which create and change datasets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..common.text import ShellText, command, counted, enumeration, few
from .common import examples, json_option, out_option
from .output import print_json, say

if TYPE_CHECKING:
    from ..dataset import SplitRule, WeightDataset

workers_option = click.option(
    "--workers", type=click.IntRange(1), help="Processes that read and write.  [default: as many as processors]"
)
dask_option = click.option("--dask", metavar="ADDRESS", help="Use a Dask cluster instead, for example tcp://host:8786.")

INITIALIZATION = ("--initialization", "--initialisation", "initialization")
LICENSE = ("--license", "--licence", "license")
version_option = click.option("--version", "version", help="New version of the dataset.  [default: unchanged]")


class NamedText(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A parameter ``COLUMN=TEXT``."""

    name = "column=text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        column, sign, text = str(value).partition("=")
        if not column or not sign or not text.strip():
            self.fail(f"{value!r} is not COLUMN=TEXT, for example Age=years", param, ctx)
        return column, text.strip()


class Order(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A parameter ``COLUMN=GRADE,GRADE,...``, lowest grade first."""

    name = "column=grade,grade,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[str, ...]]:
        if isinstance(value, tuple):
            return value
        column, _, text = str(value).partition("=")
        grades = tuple(grade.strip() for grade in text.split(","))
        if not column or not all(grades):
            self.fail(f"{value!r} is not COLUMN=GRADE,GRADE,..., for example Beard_length=none,short,long", param, ctx)
        return column, grades


extra_labels_option = click.option(
    "--extra-labels", type=click.Choice(["refuse", "ignore"]), default="refuse", show_default=True,
    help="What to do with labels of other ids.",
)  # fmt: skip
ordinal_option = click.option(
    "--ordinal", "orders", type=Order(), multiple=True,
    help="The order of a column's grades, lowest first, for example Beard_length=none,short,long.",
)  # fmt: skip


def ordered(labels: Path | None, orders: tuple[tuple[str, tuple[str, ...]], ...]) -> Any:
    """Read a label file and apply the orders of ``--ordinal``."""
    from ..dataset import read_labels
    from ..dataset.labels.table import as_ordinal

    if labels is None:
        if orders:
            raise click.UsageError("--ordinal needs --labels, with the column to order")
        return None
    table = read_labels(labels)
    return as_ordinal(table, dict(orders)) if orders else table


def column_options(function: Any) -> Any:
    """Add the options ``--unit`` and ``--column-source``."""
    for name, about in (("column-source", "Where a column comes from"), ("unit", "The unit of a column")):
        function = click.option(
            f"--{name}", f"{name.replace('-', '_')}s", type=NamedText(), multiple=True, help=f"{about}: COLUMN=TEXT."
        )(function)
    return function


def split_options(function: Any) -> Any:
    """Add the options ``--split-by``, ``--holdout`` and ``--split-seed``."""
    for option in (
        click.option(
            "--split-seed", type=int, help="Seed of the choice of held-out rows.  [default: 0, or that of the split]"
        ),
        click.option(
            "--holdout",
            type=float,
            help="Fraction of the rows in the split 'test': whole groups with --split-by, else single rows.  "
            "[default: 0.1 with --split-by, else none]",
        ),
        click.option(
            "--split-by",
            metavar="COLUMN",
            help="Split by group: rows with the same value in this column stay together.",
        ),
    ):
        function = option(function)
    return function


def column_info(units: tuple[tuple[str, str], ...], sources: tuple[tuple[str, str], ...]) -> dict[str, dict[str, str]]:
    info: dict[str, dict[str, str]] = {}
    for field, pairs in (("unit", units), ("source", sources)):
        for column, text in pairs:
            info.setdefault(column, {})[field] = text
    return info


def build_command(dataset: WeightDataset, out: Path, base: Path | None) -> str:
    """Return the command that fits the rows: what builds a weight space, or adds rows if there are too few."""
    splits, layout = dataset.manifest.splits, dataset.layout
    split = "train" if "train" in splits else max(splits, key=lambda name: splits[name])
    if splits[split] < 2:
        return command("w2w add", out, ShellText("ADAPTER..."))
    options: list[object] = ["--k", min(100, splits[split] - 1, layout.size)]
    beside = out if out.name not in ("", "..") else out.resolve()  # "." has no name
    options += ["--out", beside.with_name(f"{beside.name}-space")]
    options += ["--split", split] if split != "train" else []
    options += ["--base", base] if base is not None else []
    options += ["--canonical", "svd"] if dataset.manifest.compatibility.initialisation == "unknown" else []
    return command("w2w build", out, options=options)


def split_rule(column: str | None, holdout: float | None, seed: int | None) -> SplitRule | None:
    """Return the rule of the options; ``--holdout`` without ``--split-by`` splits by rows, which is said."""
    from ..dataset import SplitRule
    from ..dataset.splits import BY_ROWS

    if column is None and holdout is None:
        if seed is not None:
            raise click.UsageError("--split-seed needs --split-by or --holdout")
        return None
    rule = SplitRule(column or BY_ROWS, 0.1 if holdout is None else holdout, seed or 0)
    if rule.by_rows:
        say(
            f"splitting by rows: {rule.holdout:g} of them go into {rule.split!r}; to keep rows of a person together: "
            "--split-by COLUMN"
        )
    return rule


def report(dataset: WeightDataset, as_json: bool, next_step: str) -> None:
    """Print the new state of a dataset."""
    manifest = dataset.manifest
    if as_json:
        print_json(
            {"path": str(dataset.path), "rows": len(dataset), "size": dataset.layout.size, "dtype": manifest.dtype,
             "splits": manifest.splits, "digest": manifest.digest, "version": manifest.version,
             "rescaled": len(manifest.rescaled or {})}
        )  # fmt: skip
    else:
        splits = ", ".join(f"{name} {rows:,}" for name, rows in manifest.splits.items())
        rows, numbers = counted(len(dataset), "row"), counted(dataset.layout.size, "number")
        say(f"{dataset.path}: {rows} of {numbers} ({splits})")
        if manifest.float16_max_error:
            say(f"the largest rounding error of float16 is {manifest.float16_max_error:.3g}")
        if manifest.rescaled:
            rows = counted(len(manifest.rescaled), "row has", "rows have")
            say(
                f"{rows} modules with a scale other than {dataset.layout.scale:g}; the ratio was multiplied into B, "
                "see rescaled in manifest.json"
            )
        say(f"digest {manifest.digest[:16]}; next: {next_step}")


def say_additions(before: WeightDataset, after: WeightDataset) -> None:
    """Say which columns are new, and what rows that publish their source, license or consent lack since a change."""
    from ..dataset.labels.names import STATED, asked_name

    new = [name for name in after.attributes if name not in before.attributes]
    if new:
        drop = command("w2w relabel", after.path, options=("--drop", new[0] if len(new) == 1 else ShellText("COLUMN")))
        say(f"new attribute{'' if len(new) == 1 else 's'}: {few(new)}; to remove: {drop}")
    old, added = before.labels, after.labels[~after.labels.index.isin(before.ids)]
    lacking = [name for name in STATED if old[name].notna().all() and added[name].isna().any()]
    if lacking:
        names = list(map(asked_name, lacking))
        rows = counted(int(added[lacking].isna().any(axis=1).sum()), "new row does", "new rows do")
        relabel = command("w2w relabel", after.path, options=("--labels", ShellText("FILE")))
        say(
            f"w2w: note: {rows} not state the {enumeration(names)}, which a publication needs: {relabel}, with the "
            f"columns {enumeration(['id', *names])}"
        )


@click.command(
    epilog=examples(
        "w2w pack loras/* --out people --labels labels.csv --initialization seed-0",
        "w2w pack loras --out people --labels persons.csv --extra-labels ignore --split-by person --holdout 0.1",
        "w2w pack lora-a lora-b --out two --base ./my-base-model",
    )
)
@click.argument("adapters", nargs=-1, required=True, type=click.Path(path_type=Path))
@out_option("The new dataset folder.")
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="CSV, Parquet or JSON Lines file with an id column and one row per adapter.",
)
@extra_labels_option
@click.option("--header-labels", is_flag=True, help="Take labels that --labels lacks from checkpoints' headers.")
@ordinal_option
@column_options
@split_options
@click.option("--base", type=click.Path(path_type=Path), help="Folder of the base model, to record its digest.")
@click.option(
    *INITIALIZATION,
    default="unknown",
    help="If all adapters were trained from the same initial LoRA weights: any name for these.",
)
@click.option(
    "--start", type=click.Path(path_type=Path),
    help="The initial LoRA weights themselves, a checkpoint: published, so that others can train rows that fit.",
)  # fmt: skip
@click.option("--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True,
              help="How the weights are stored.")  # fmt: skip
@click.option(
    "--compression", type=click.Choice(["none", "bitshuffle"]), default="none", show_default=True,
    help="Lossless; bitshuffle is useful for values that were bfloat16 before.",
)  # fmt: skip
@click.option("--shard-size", default="500MB", show_default=True, help="Largest size of a file of the matrix.")
@click.option("--view", type=click.Choice(["float16", "float32", "none"]), default="float16", show_default=True,
              help="Dtype of the Parquet copy of the weights for stock `datasets`; none omits it.")  # fmt: skip
@click.option("--version", "version", default="0.1.0", show_default=True, help="Version of the dataset.")
@click.option(*LICENSE, default="unknown", help="License identifier of the weights, as on the Hub.")
@workers_option
@dask_option
@json_option
def pack(
    adapters: tuple[Path, ...], out: Path, force: bool, labels: Path | None, extra_labels: str,
    header_labels: bool, orders: Any, units: Any, column_sources: Any,
    split_by: str | None, holdout: float | None, split_seed: int, base: Path | None, initialization: str,
    start: Path | None, dtype: str, compression: str, shard_size: str, view: str, version: str, license: str,
    workers: int | None, dask: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Pack LoRA checkpoints into a new dataset; to resume after an interruption, run the same command.

    A folder of adapters is scanned as by `w2w inspect`; ids are the names of files and folders.
    """
    from ..dataset import pack_adapters

    dataset = pack_adapters(
        adapters, out, overwrite=force, labels=ordered(labels, orders), extra_labels=extra_labels,
        header_labels=header_labels,
        column_info=column_info(units, column_sources), split_rule=split_rule(split_by, holdout, split_seed), base=base,
        initialization=initialization, start_adapter=start, dtype=dtype, compression=compression, shard_size=shard_size,
        parquet_view=False if view == "none" else view, version=version, license=license,
        workers=workers, dask=dask,
    )  # fmt: skip
    report(dataset, as_json, build_command(dataset, out, base))


@click.command(
    epilog=examples("w2w add people new-lora --labels more.csv --initialization seed-0", "w2w add people other-dataset")
)
@click.argument("dataset", type=click.Path(path_type=Path))
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--labels", type=click.Path(path_type=Path), help="Labels of added adapters; added datasets have theirs.")
@extra_labels_option
@click.option(*INITIALIZATION, help="Initialization of added adapters, if the dataset states one.")
@ordinal_option
@column_options
@version_option
@workers_option
@dask_option
@json_option
def add(
    dataset: Path, sources: tuple[Path, ...], labels: Path | None, extra_labels: str, initialization: str | None,
    orders: Any, units: Any, column_sources: Any, version: str | None, workers: int | None, dask: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Add adapters, folders of adapters, or the rows of other datasets, to a dataset."""
    from ..dataset import WeightDataset, add_rows

    before = WeightDataset.open(dataset)
    grown = add_rows(
        dataset, sources, labels=ordered(labels, orders), extra_labels=extra_labels, initialization=initialization,
        column_info=column_info(units, column_sources), version=version, workers=workers, dask=dask,
    )  # fmt: skip
    if not as_json:
        say_additions(before, grown)
    report(grown, as_json, command("w2w inspect", dataset))


@click.command(epilog=examples("w2w remove people person-0007 person-0011", "w2w remove people --ids gone.txt"))
@click.argument("dataset", type=click.Path(path_type=Path))
@click.argument("ids", nargs=-1)
@click.option("--ids", "file", type=click.Path(path_type=Path), help="A text file with one id per line.")
@version_option
@json_option
def remove(dataset: Path, ids: tuple[str, ...], file: Path | None, version: str | None, as_json: bool) -> None:
    """Remove rows from a dataset and its files."""
    from ..dataset import remove_rows
    from ..errors import MissingPathError
    from ..store.paths import missing

    wanted = list(ids)
    if file is not None:
        try:
            wanted += file.read_text("utf-8").split()
        except FileNotFoundError:
            raise missing(file) from None
        except (OSError, ValueError) as error:
            raise MissingPathError(f"{file} cannot be read: {error}", path=file) from error
    report(remove_rows(dataset, wanted, version=version), as_json, command("w2w verify", dataset, options=("--deep",)))


@click.command(
    epilog=examples(
        "w2w relabel people --labels better.csv --unit Age=years",
        "w2w relabel people --labels persons.csv --split-by person --holdout 0.1",
        "w2w relabel people --drop Mohawk",
        "w2w relabel people --ordinal facial_hair=NONE,MOUSTACHE_MAGNUM,BEARD_LIGHT,BEARD_MAGESTIC",
        "w2w relabel old-people --initialization seed-0 --license cc-by-4.0 --base ./my-base-model",
    )
)
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option(
    "--labels", type=click.Path(path_type=Path), help="CSV, Parquet or JSON Lines file with rows and columns to change."
)
@extra_labels_option
@click.option("--drop", multiple=True, metavar="COLUMN", help="Column to remove. May be repeated.")
@ordinal_option
@column_options
@split_options
@click.option(
    "--base", type=click.Path(path_type=Path), help="Folder of the base model, if its digest is not recorded."
)
@click.option(
    *INITIALIZATION, help="Name of the one initialization that all adapters were trained from, if not stated."
)
@click.option(
    "--start", type=click.Path(path_type=Path),
    help="The initial LoRA weights themselves, a checkpoint: published, so that others can train rows that fit.",
)  # fmt: skip
@click.option(*LICENSE, help="License identifier of the weights, as on the Hub.")
@click.option("--force", is_flag=True, help="Replace a base model, initialization or license that is stated.")
@version_option
@json_option
def relabel(
    dataset: Path, labels: Path | None, extra_labels: str, drop: tuple[str, ...], orders: Any, units: Any,
    column_sources: Any, split_by: str | None, holdout: float | None, split_seed: int, base: Path | None,
    initialization: str | None, start: Path | None, license: str | None, force: bool, version: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Change labels, the split, facts about all rows, or the unit, source or order of grades of a column."""
    from ..dataset import SplitRule, WeightDataset, relabel_rows
    from ..dataset.labels.table import as_ordinal

    info = column_info(units, column_sources)
    again = split_by is None and not (holdout is None and split_seed is None)
    before = WeightDataset.open(dataset)
    stated = before.manifest.split_rule if again else None
    if stated is None:
        rule = split_rule(split_by, holdout, split_seed)
    else:  # the rule's column, seed and names of splits stay
        given = {"holdout": holdout, "seed": split_seed}
        rule = SplitRule.from_json(stated | {name: value for name, value in given.items() if value is not None})
        say(f"splitting by {rule.column!r} with seed {rule.seed}, {rule.holdout:g} into {rule.split!r}")
    asked = (labels, drop, info, orders, rule, base, initialization, start, license)
    if all(value in (None, (), {}) for value in asked):
        raise click.UsageError(
            "nothing to change: use --labels, --drop, --ordinal, --unit, --column-source, --split-by, --holdout, "
            "--initialization, --start, --base or --license"
        )
    if orders and labels is None:  # reorder columns of the dataset
        given = as_ordinal(before.labels[list(before.attributes)], dict(orders))[list(dict(orders))]
    else:
        given = ordered(labels, orders)
    changed = relabel_rows(
        dataset, given, drop_columns=drop, column_info=info, extra_labels=extra_labels,
        split_rule=rule, base=base, initialization=initialization, start_adapter=start,
        license=license, overwrite=force, version=version,
    )  # fmt: skip
    if not as_json:
        say_additions(before, changed)
    report(changed, as_json, command("w2w inspect", dataset))
