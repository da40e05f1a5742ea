"""Stage `assets`: what the package ships under ``w2w_hub/demo/assets``, written into another folder unless asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
import world
from config import Config
from images_stage import held_out
from PIL import Image
from population_stage import ALPHA, START_SEED
from resume import Stage

from w2w_hub.dataset import WeightDataset, write_dataset
from w2w_hub.dataset.manifest import Compatibility
from w2w_hub.dialects import write_adapter
from w2w_hub.dialects.base_model import digest_of_folder
from w2w_hub.lora.layout import ParameterLayout

SHIPPED = Path(__file__).parents[2] / "w2w_hub" / "demo" / "assets"
BASE_NAME = "w2w-hub/avatars-base"
LICENCE = "apache-2.0"
SOURCE = "drawn by python-avatars; no likeness of a real person"


def labels_of(people: list[world.Identity], config: Config, which: list[int]):
    import pandas as pd

    unseen = held_out(config)
    rows = []
    for i in which:
        row = {"id": f"person-{i:04d}", "split": "test" if i in unseen else "train"}
        row |= {"source": SOURCE, "licence": LICENCE, "consent": "not needed"}
        row |= {name: world.has(people[i], name) for name in world.ATTRIBUTES}
        row |= people[i]
        rows.append(row)
    return pd.DataFrame(rows)


def population_dataset(config: Config, work: Path, which: list[int], path: Path, **options) -> WeightDataset:
    """Return the rows of some people as a dataset."""
    stored = torch.load(work / "population.pt", weights_only=True)
    layout = ParameterLayout.from_json(stored["layout"])
    initialisation = f"avatars-{config.lora_start}-seed-{START_SEED}"
    compatibility = Compatibility(BASE_NAME, digest_of_folder(work / "base", layout), initialisation)
    people = json.loads((work / "people.json").read_text())
    table = labels_of(people, config, which)
    return write_dataset(
        stored["rows"][which].numpy(), path, layout=layout, ids=list(table["id"]), labels=table,
        name="avatars", license=LICENCE, compatibility=compatibility, **options,
    )  # fmt: skip


def copy_base(source: Path, target: Path) -> None:
    """Copy the base model without local paths."""
    shutil.copytree(source, target)
    for file in target.rglob("*"):
        if file.is_file():
            file.chmod(0o644)
        if file.name.endswith("config.json"):
            settings = json.loads(file.read_text())
            if settings.pop("_name_or_path", None) is not None:
                file.write_text(json.dumps(settings, indent=2) + "\n")


def assets(config: Config, work: Path, minutes: float, folder: Path) -> None:
    stage = Stage(work, "assets", minutes)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    people = json.loads((work / "people.json").read_text())
    images = np.load(work / "people.npy", mmap_mode="r")
    shipped = list(range(config.fitted + config.heldout_shipped))
    plain = list(range(len(shipped), len(shipped) + config.adapters))
    rows = population_dataset(config, work, shipped, folder / "rows", dtype="float16", parquet_view=False)
    stored = torch.load(work / "population.pt", weights_only=True)["rows"]
    for i in plain:
        adapter = rows.layout.unflatten(stored[i].numpy())
        adapter.base_model = BASE_NAME
        write_adapter(adapter, folder / "adapters" / f"person-{i:04d}", ("peft",))
        Image.fromarray(np.concatenate(list(images[i]), 1)).save(
            folder / "adapters" / f"person-{i:04d}" / "pictures.png"
        )
    labels_of(people, config, plain).to_csv(folder / "labels.csv", index=False)
    (folder / "heldout").mkdir()
    for i in range(config.fitted, config.fitted + config.heldout_shipped):
        Image.fromarray(np.concatenate(list(images[i]), 1)).save(
            folder / "heldout" / f"person-{i:04d}.png", optimize=True
        )
    copy_base(work / "base", folder / "base")
    shutil.copyfile(work / "judge.safetensors", folder / "judge.safetensors")
    if (work / "evaluation.json").exists():
        shutil.copyfile(work / "evaluation.json", folder / "evaluation.json")
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    stage.done(rows=len(shipped), adapters=len(plain), alpha=ALPHA, bytes=size)
    recipe = {"config": config.to_json(), "stages": json.loads((work / "recipe.json").read_text())}
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=1))
