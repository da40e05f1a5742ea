"""`w2w inspect`: what a file or folder is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .common import examples, json_option, print_json


@click.command(epilog=examples("w2w inspect my-lora", "w2w inspect people --json", "w2w inspect space"))
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def inspect(path: Path, as_json: bool) -> None:
    """Tell what PATH is: an adapter, a dataset, a weight space or a saved point."""
    facts = describe(path)
    if as_json:
        print_json(facts)
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        click.echo(f"{name:<{width}}  {_text(value)}")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)


def describe(path: Path) -> dict[str, Any]:
    """The facts of a dataset, weight space, point or adapter."""
    from ..dataset import WeightDataset
    from ..dataset.manifest import FILENAME, FORMAT
    from ..errors import MissingPathError
    from ..files import read_json
    from ..space import WeightSpace
    from ..space.storage import load_point

    if not path.exists():
        raise MissingPathError(f"{path} is not there")
    if path.suffix == ".json":
        point = load_point(path)
        return {
            "kind": "point",
            "coefficients": len(point.coefficients),
            "basis digest": point.basis_digest,
            "history": dict(point.history),
        }
    if (path / FILENAME).is_file():
        if read_json(path / FILENAME).get("format") == FORMAT:
            dataset = WeightDataset.open(path)
            m = dataset.manifest
            return {
                "kind": "dataset",
                "name": m.name,
                "version": m.version,
                "rows": m.rows,
                "numbers": m.layout.size,
                "dtype": m.dtype,
                "splits": m.splits,
                "modules": len(m.layout.slots),
                "scale": m.layout.scale,
                "attributes": list(m.columns),
                "initialisation": m.compatibility.initialisation,
                "base model": m.compatibility.base_model or "not stated",
                "digest": m.digest,
            }
        space = WeightSpace.from_pretrained(path)
        return {
            "kind": "weight space",
            "name": space.name,
            "version": space.version,
            "components": space.k,
            "numbers": space.layout.size,
            "dataset": space.recipe["dataset"],
            "rows fitted": space.recipe["rows"],
            "held-out AUC": {n: "-" if d.auc is None else round(d.auc, 3) for n, d in space.directions.items()},
            "base model": space.compatibility.base_model or "not stated",
            "digest": space.digest,
        }
    return describe_adapter(path)


def describe_adapter(path: Path) -> dict[str, Any]:
    """The facts of one LoRA checkpoint."""
    from ..formats import read_adapter
    from ..layout import ParameterLayout

    adapter = read_adapter(path)
    scales = sorted({pair.scale for pair in adapter.factors.values()})
    sizes = {t: (p.rank, p.A.shape[1], p.B.shape[0]) for t, p in adapter.factors.items()}
    layout = ParameterLayout(sizes, scales[0])
    return {
        "kind": "adapter",
        "dialect": adapter.dialect,
        "modules": len(adapter.factors),
        "targets": sorted({t.module.rsplit(".", 1)[-1] for t in adapter.factors}),
        "rank": sorted({pair.rank for pair in adapter.factors.values()}),
        "scale": scales,
        "numbers": layout.size,
        "base model": adapter.base_model or "not stated",
        "passengers": list(adapter.passengers),
        "layout digest": layout.digest if len(scales) == 1 else "several scales",
    }
