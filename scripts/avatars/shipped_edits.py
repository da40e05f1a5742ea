"""Edits of the shipped population, read by the judge: `python scripts/avatars/shipped_edits.py`.

Needs the installed package alone. Writes the part `edits` of ``w2w_hub/demo/assets/evaluation.json``; about fifteen
minutes on two CPU cores, then `python scripts/fidelity.py` renders the page.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from resume import machine  # noqa: E402

from w2w_hub import W2WPipeline, WeightDataset, add_rows, build_space, pack_adapters, write_dataset  # noqa: E402
from w2w_hub.dataset import read_labels  # noqa: E402
from w2w_hub.demo.assets import FOLDER, Assets  # noqa: E402
from w2w_hub.demo.judge import Judge  # noqa: E402
from w2w_hub.demo.measure import able_to_gain, attribute_shown, kept_factors  # noqa: E402
from w2w_hub.demo.settings import CASES, COMPONENTS, GUIDANCE, SAMPLING_STEPS, STRENGTHS  # noqa: E402
from w2w_hub.space.identity import edited, resolve  # noqa: E402

HELD_OUT = 192  # so many that 64 and more of them lack the commonest attribute


def population(assets: Assets, folder: Path) -> WeightDataset:
    """Return the 1,024 shipped rows and the 32 plain adapters, packed as in the demo."""
    start = WeightDataset.open(assets.rows).manifest.compatibility.initialisation
    pack_adapters(assets.adapters, folder, labels=read_labels(assets.labels), base=assets.base, initialization=start)
    return add_rows(folder, [assets.rows])


def split_anew(people: WeightDataset, folder: Path) -> WeightDataset:
    """Return the same rows with `HELD_OUT` of them in the split ``test``: those already there, and the last others."""
    table = people.labels.drop(columns=["row", "row_sha256"])
    others = [name for name in people.ids if table.loc[name, "split"] != "test"]
    unseen = HELD_OUT - (len(people) - len(others))
    table.loc[others[len(others) - unseen :], "split"] = "test"
    return write_dataset(
        people.to_numpy(), folder, layout=people.layout, ids=people.ids, labels=table,
        compatibility=people.manifest.compatibility, parquet_view=False,
    )  # fmt: skip


@click.command()
@click.option("--most", default=64, show_default=True, help="People an attribute.")
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER / "evaluation.json", show_default="the assets'")
def main(most: int, out: Path) -> None:
    """Measure edits of held-out people without the attribute: the middle strength in all cases, others in one."""
    assets = Assets()
    judge = Judge.load(assets.judge)
    with tempfile.TemporaryDirectory() as scratch:
        people = split_anew(population(assets, Path(scratch) / "people"), Path(scratch) / "split")
        space = build_space(people, COMPONENTS)
        pipe = W2WPipeline.from_base(assets.base, space)
        pipe.set_progress_bar_config(disable=True)
        drawn: dict[str, Any] = {"num_inference_steps": SAMPLING_STEPS, "guidance_scale": GUIDANCE}
        held_out = [people.ids[i] for i in people.where(split="test")]
        own = {name: resolve(space, people.adapter(name)) for name in held_out}
        before = dict(zip(held_out, pipe.render(list(own.values()), CASES, **drawn), strict=True))
        edits: dict[str, Any] = {}
        for name in judge.attributes:
            able = able_to_gain(judge, people.labels.loc[held_out], name)[:most]
            edits[name] = {"people": len(able)}
            for strength in STRENGTHS:
                cases = CASES if strength == STRENGTHS[len(STRENGTHS) // 2] else CASES[:1]
                after = pipe.render([edited(space, own[p], {name: strength}) for p in able], cases, **drawn)
                first = np.stack([before[p][: len(cases)] for p in able])
                kept = kept_factors(judge, first, after, name)
                edits[name][f"{strength:g}"] = {
                    "before": round(float(attribute_shown(judge, first, name).mean()), 4),
                    "after": round(float(attribute_shown(judge, after, name).mean()), 4),
                    "each_other_factor_kept": round(float(kept.mean()), 4),
                    "all_other_factors_kept": round(float(kept.all(0).mean()), 4),
                }
            click.echo(f"{name}: {json.dumps(edits[name])}")
    evaluation = json.loads(out.read_text()) if out.exists() else {}
    evaluation["edits"] = edits
    evaluation["edit_setting"] = {
        "machine": machine(), "fitted_rows": space.recipe["rows"], "held_out_people": len(held_out),
        "components": space.k,
    }  # fmt: skip
    out.write_text(json.dumps(evaluation, indent=1) + "\n")


if __name__ == "__main__":
    main()
