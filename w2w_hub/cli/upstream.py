"""`w2w import-w2w`: import what the weights2weights project published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..common.text import ShellText, command, counted
from .common import examples, json_option, out_option
from .output import print_json, say

if TYPE_CHECKING:
    from ..upstream import Imported


@click.command(
    "import-w2w",
    epilog=examples(
        "w2w import-w2w weights2weights --out from-w2w",
        "w2w import-w2w weights2weights --out from-w2w --k 8 --split-by celebrity --force",
        "w2w import-w2w w2wmodel.pt --space imported/space --out person.json",
    ),
)
@click.argument("files", type=click.Path(path_type=Path))
@out_option("The new folder; with --space, the new point (.json or .safetensors).")
@click.option(
    "--k", type=click.IntRange(1),
    help="Components of the weight space.  [default: those with published coefficients; all if the weights are there]",
)  # fmt: skip
@click.option("--split-by", metavar="COLUMN", help="Column of the labels that says who is shown.")
@click.option(
    "--holdout", type=float, default=0.1, show_default=True, help="Fraction of the rows that the split holds out."
)
@click.option("--consent", help="The consent of the people shown; without it, nothing can be pushed publicly.")
@click.option(
    "--row-order", type=click.Choice(["alphanumeric", "table"]), default="alphanumeric", show_default=True,
    help="Order of the published rows: by the names of the folders, or as in the table of labels.",
)  # fmt: skip
@click.option("--parquet-view", is_flag=True, help="Also write the view that stock datasets reads.")
@click.option(
    "--space", type=click.Path(path_type=Path),
    help="An imported weight space: FILES is then a point that was saved with weights2weights (w2wmodel.pt).",
)  # fmt: skip
@json_option
def import_w2w(
    files: Path, out: Path, k: int | None, split_by: str | None, holdout: float, consent: str | None,
    row_order: str, parquet_view: bool, space: Path | None, force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Import the published files of weights2weights as datasets and a weight space.

    FILES is a download of its repository, complete or in part. The files are pickles; they are read as data, and
    nothing in them is executed. Their license, for non-commercial and academic purposes only, holds for the result.
    """
    from ..upstream import import_point
    from ..upstream import import_w2w as import_files

    if space is not None:
        from ..space import WeightSpace
        from ..space.points import require_suffix
        from ..store.atomic import require_output

        require_output(require_suffix(out), overwrite=force)
        point = import_point(files, WeightSpace.from_pretrained(space))
        point.save(out, overwrite=force)
        if as_json:
            print_json({"point": str(out), "coefficients": len(point.coefficients)})
            return
        say(f"{out}: {counted(len(point.coefficients), 'coefficient')}")
        return
    made = import_files(
        files, out, k=k, split_by=split_by, holdout=holdout, consent=consent, row_order=row_order,
        parquet_view=parquet_view, overwrite=force,
    )  # fmt: skip
    if as_json:
        print_json(made.report)
        return
    _show(made)


def _show(made: Imported) -> None:
    """Print what was made, assumed, measured and left out, and the license."""
    report, path = made.report, made.path
    for name, what in report["made"].items():
        say(f"{path / name}: " + (f"digest {what[:16]}" if isinstance(what, str) else ", ".join(what)))
    for line in report["assumed"]:
        say(f"assumed: {line}")
    for name, value in report["checks"].items():
        if isinstance(value, float):
            say(f"measured: {name.replace('_', ' ')} {value:.2g}")
    if "components_of" in report["checks"]:
        kind = report["checks"]["components_of"]
        rows = {None: "something else than the rows", "as they are": "the rows as they are"}.get(kind, f"{kind} rows")
        say(f"measured: V.pt has the components of {rows}")
    for name, fit in report["checks"].get("label_fit", {}).items():
        say(f"measured: label fit in {name} order {fit:.2f}, where 1 is chance")
    for name, reason in report["skipped"].items():
        say(f"left out: {name}: {reason}")
    say(report["notice"])
    if "dataset" in report["made"] and "space" in report["made"]:
        own = path.with_name(f"{path.name}-space")
        build = command("w2w build", path / "dataset", options=("--k", ShellText("K"), "--out", own))
        say(f"next: {build}, then {command('w2w compare', path / 'space', own)}")
