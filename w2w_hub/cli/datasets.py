"""`w2w pack` and `w2w add`."""

from __future__ import annotations

from pathlib import Path

import click

from .common import examples, json_option, out_option, print_json, say


def _report(dataset: object, as_json: bool, next_step: str) -> None:
    from ..dataset import WeightDataset

    assert isinstance(dataset, WeightDataset)
    manifest = dataset.manifest
    if as_json:
        print_json(
            {"path": str(dataset.path), "rows": len(dataset), "size": dataset.layout.size, "dtype": manifest.dtype,
             "splits": manifest.splits, "digest": manifest.digest}
        )  # fmt: skip
    else:
        splits = ", ".join(f"{name} {rows:,}" for name, rows in manifest.splits.items())
        say(f"{dataset.path}: {len(dataset):,} rows of {dataset.layout.size:,} numbers ({splits})")
        say(f"digest {manifest.digest[:16]}; next: {next_step}")


@click.command(
    epilog=examples(
        "w2w pack loras/* --out people --labels labels.csv --initialisation seed-0",
        "w2w pack lora-a lora-b --out two --base ./my-base-model",
    )
)
@click.argument("adapters", nargs=-1, required=True, type=click.Path(path_type=Path))
@out_option("The dataset folder to make.")
@click.option("--labels", type=click.Path(path_type=Path), help="CSV or Parquet with an id column: one row an adapter.")
@click.option("--base", type=click.Path(path_type=Path), help="Folder of the base model, to record its digest.")
@click.option(
    "--initialisation", default="unknown", help="Name of the one initialisation all adapters were trained from."
)
@click.option("--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True)
@click.option("--version", "version", default="0.1.0", show_default=True, help="Version of the content.")
@click.option("--licence", default="unknown", help="Licence of the weights, as the Hub spells it.")
@json_option
def pack(
    adapters: tuple[Path, ...], out: Path, labels: Path | None, base: Path | None, initialisation: str, dtype: str,
    version: str, licence: str, as_json: bool,
) -> None:  # fmt: skip
    """Pack LoRA checkpoints into a new dataset."""
    from ..dataset import pack_adapters, read_labels

    dataset = pack_adapters(
        adapters, out, labels=None if labels is None else read_labels(labels), base=base,
        initialisation=initialisation, dtype=dtype, version=version, licence=licence,
    )  # fmt: skip
    _report(dataset, as_json, f"w2w build {out} --k 100 --out SPACE --base BASE")


@click.command(epilog=examples("w2w add people new-lora --labels more.csv", "w2w add people other-dataset"))
@click.argument("dataset", type=click.Path(path_type=Path))
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--labels", type=click.Path(path_type=Path), help="Labels of added adapters; datasets bring their own.")
@click.option("--version", "version", help="New version of the content; unchanged without it.")
@json_option
def add(dataset: Path, sources: tuple[Path, ...], labels: Path | None, version: str | None, as_json: bool) -> None:
    """Add adapters, or the rows of other datasets, to a dataset."""
    from ..dataset import add_rows, read_labels

    table = None if labels is None else read_labels(labels)
    _report(add_rows(dataset, sources, labels=table, version=version), as_json, f"w2w inspect {dataset}")
