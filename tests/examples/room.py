"""The working folder in which examples run: everything that they name is there, made of the shipped avatars."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.space.encoders import random_encoder
from tests.tiny_world import TinyWorld
from w2w_hub.demo.assets import Assets
from w2w_hub.demo.settings import COMPONENTS, GUIDANCE, SAMPLING_STEPS

NAMES = {
    "people": "the shipped rows, which are all of the demo's but 32",
    "people-1.0": "an earlier state, without 24 of them",
    "other-dataset": "four people who are not in it",
    "mixed": "150 of them, without a statement of what they were trained from",
    "space": "the weight space of people, with the shipped base model and the demo's generation settings",
    "my-base-model": "the shipped base model",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "a random model of Stable Diffusion's shape; the name of a Hub's",
    "sd15-loras, sd15-people": "LoRAs of that model, and a dataset of more of them",
    "sd15-space": "their weight space, without a base model in it",
    "loras": "LoRAs of 128 of the people, in PEFT's dialect",
    "my-lora, lora-a, lora-b, new-lora": "folders of one LoRA each of people who are not in the dataset",
    "kohya.safetensors, lora.safetensors, lokr.safetensors, old.pt": "LoRAs in other dialects",
    "downloads": "two of them and something else",
    "old-people": "a dataset that states neither initialization nor base model nor license",
    "labels.csv": "labels of the people in loras",
    "persons.csv": "labels of all people, with a column `person` in which several are one",
    "more.csv": "labels of new-lora",
    "offered.csv": "labels of lora-a and lora-b, with source, license and consent",
    "better.csv": "an age for each of the people",
    "gone.txt": "ids of two people",
    "points": "three points",
    "bearded.json, edited.json": "person-0010 with a beard",
    "encoder.safetensors": "an encoder of space, fitted on nothing",
    "picture.png, a.png, b.png": "pictures of people who are held out",
    "photos, photo-folders": "pictures of a person who is held out, and folders of two of them",
    "face.png": "a mask of the middle of a picture",
    "weights2weights, w2wmodel.pt": "128 LoRAs, published as weights2weights published its own; a point",
    "imported, space-of-imported": "what w2w import-w2w makes of them, and a weight space of its dataset",
    "plain, smiling": "four pictures each of people who are held out",
    "w2w-demo": "what the demo makes: dataset, space, exported, pictures",
    "w2w.lock, bundle": "pins of org/people@v1.0.0 and org/space@v1.0.0, and an archive of both",
}
DROPPED = ("row", "row_sha256", "top", "skin_color", "accessory")  # rows' numbers, and factors with attributes of both
EDIT = {"Full_Beard": True}


def make_room(folder: Path, tiny_world: TinyWorld) -> None:
    """Make all of `NAMES` but what needs a Hub."""
    from w2w_hub import WeightDataset, pack_adapters, write_adapter, write_dataset
    from w2w_hub.dialects import convert_adapter
    from w2w_hub.space.fit.build_and_save import build_and_save
    from w2w_hub.training.tensors import kaiming_start

    assets = Assets()
    link(assets.base, folder / "my-base-model")
    shipped = WeightDataset.open(assets.rows)
    table = shipped.labels.drop(columns=[name for name in DROPPED if name in shipped.labels])
    given: dict[str, Any] = {
        "layout": shipped.layout, "initialization": "seed-0", "base": folder / "my-base-model", "license": "apache-2.0",
    }  # fmt: skip
    matrix = shipped[:]

    first = shipped.layout.unflatten(kaiming_start(shipped.layout, 0).numpy())

    def write(name: str, rows: slice, **options: Any) -> Any:
        return write_dataset(
            matrix[rows], folder / name, ids=list(shipped.ids[rows]), labels=table.iloc[rows], **given | options
        )

    people = write("people", slice(None), version="1.0.0", start_adapter=first)
    write("people-1.0", slice(1000), version="1.0.0")
    write("mixed", slice(150), initialization="unknown")
    write("old-people", slice(150), initialization="unknown", base=None, license="unknown")
    given.pop("layout")
    more = pd.read_csv(assets.labels, index_col="id").drop(columns=list(DROPPED[2:]))
    pack_adapters(assets.adapters[:4], folder / "other-dataset", labels=more[:4].reset_index(), **given)
    space = build_and_save(
        people, folder / "space", COMPONENTS, base=folder / "my-base-model", version="1.0.0",
        generation={"num_inference_steps": SAMPLING_STEPS, "guidance_scale": GUIDANCE},
    )  # fmt: skip

    chosen = list(people.ids[:128])
    for name in chosen:
        write_adapter(people.adapter(name), folder / "loras" / name, ("peft",))
    labels = table.loc[chosen].drop(columns="split")
    labels.to_csv(folder / "labels.csv")
    everybody = table.drop(columns="split")
    everybody.assign(person=[f"p{i // 3}" for i in range(len(table))]).to_csv(folder / "persons.csv")
    for name, adapter in zip(("my-lora", "lora-a", "lora-b", "new-lora"), assets.adapters[4:], strict=False):
        shutil.copytree(adapter, folder / name, ignore=shutil.ignore_patterns("*.png"))
    offered = more.iloc[5:7].rename(dict(zip(more.index[5:7], ("lora-a", "lora-b"), strict=True)))
    offered.drop(columns="split").to_csv(folder / "offered.csv")
    more.iloc[7:8].rename({more.index[7]: "new-lora"}).to_csv(folder / "more.csv")
    ages = 20 + np.arange(len(table)) % 50
    pd.DataFrame({"id": table.index, "Age": ages.astype(float)}).to_csv(folder / "better.csv", index=False)
    (folder / "gone.txt").write_text("person-0007\nperson-0011\n", "utf-8")

    convert_adapter(folder / "my-lora", folder / "kohya.safetensors", "kohya")
    convert_adapter(folder / "my-lora", folder / "lora.safetensors", "diffusers")
    in_other_dialects(folder)
    (folder / "downloads").mkdir()
    link(folder / "my-lora", folder / "downloads" / "by-somebody")
    link(folder / "kohya.safetensors", folder / "downloads" / "kohya.safetensors")
    (folder / "downloads" / "notes.txt").write_text("where these are from", "utf-8")

    (folder / "points").mkdir()
    for i, point in enumerate(space.sample(3, seed=0)):
        point.save(folder / "points" / f"sample-{i:03d}.json")
    bearded = space.edit("person-0010", set=EDIT)
    for name in ("bearded.json", "edited.json"):
        bearded.save(folder / name)
    random_encoder(space, size=(64, 64), factor=4).save(folder / "encoder.safetensors")
    pictures(assets, folder)
    photos(assets, folder)
    link(folder / "people", folder / "w2w-demo" / "dataset")
    link(folder / "space", folder / "w2w-demo" / "space")
    write_adapter(space.adapter(bearded), folder / "w2w-demo" / "exported")
    of_stable_diffusion(folder, tiny_world)
    of_weights2weights(folder)


def of_weights2weights(folder: Path) -> None:
    import torch

    from tests.upstream.published import publish
    from w2w_hub import build_space
    from w2w_hub.upstream import import_w2w

    published = publish(folder / "weights2weights", celebrities=True, count=128, width=40)
    torch.save(torch.from_numpy(published.projections[:1]), folder / "w2wmodel.pt")
    made = import_w2w(folder / "weights2weights", folder / "imported")
    assert made.dataset is not None
    build_space(made.dataset, 20, directions=False).save(folder / "space-of-imported")


def in_other_dialects(folder: Path) -> None:
    """A LoKr of one layer, made by PEFT, and a pickled LoRA."""
    import torch
    from safetensors.numpy import load_file, save_file

    from tests.dialects.test_lycoris import LINEAR, by_peft

    save_file(by_peft("LoKr", LINEAR, decompose_factor=2)[0], folder / "lokr.safetensors")
    tensors = load_file(folder / "lora.safetensors")
    torch.save({name: torch.from_numpy(value) for name, value in tensors.items()}, folder / "old.pt")


def photos(assets: Assets, folder: Path) -> None:
    from w2w_hub.models.pictures import to_picture

    for person in ("person-0960", "person-0961"):
        one = folder / "photo-folders" / person
        one.mkdir(parents=True)
        for i, picture in enumerate(assets.pictures(person)):
            to_picture(picture).save(one / f"{i:02d}.png")
    link(one, folder / "photos")


def pictures(assets: Assets, folder: Path) -> None:
    from PIL import Image

    from w2w_hub.models.pictures import to_picture

    first, second = assets.pictures("person-0960"), assets.pictures("person-0961")
    for name, picture in (("picture", first[0]), ("a", second[0]), ("b", second[1])):
        to_picture(picture).save(folder / f"{name}.png")
    (folder / "w2w-demo" / "pictures").mkdir(parents=True)
    link(folder / "picture.png", folder / "w2w-demo" / "pictures" / "person-0960.png")
    for i in range(4):
        for name, shown in (("plain", 0), ("smiling", 1)):
            to_picture(assets.pictures(f"person-096{i}")[shown]).save(made(folder / name) / f"{i}.png")
    mask = np.zeros((64, 64), np.uint8)
    mask[8:56, 8:56] = 255
    Image.fromarray(mask).save(folder / "face.png")


def made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def of_stable_diffusion(folder: Path, tiny_world: TinyWorld) -> None:
    from w2w_hub import WeightDataset, build_space, write_adapter

    link(tiny_world.base, folder / "stable-diffusion-v1-5" / "stable-diffusion-v1-5")
    link(tiny_world.rows, folder / "sd15-people")
    people = WeightDataset.open(folder / "sd15-people")
    for name in people.ids[:10]:
        write_adapter(people.adapter(name), folder / "sd15-loras" / name, ("peft",))
    build_space(people, 8, name="sd15-space").save(folder / "sd15-space")


def link(source: Path, copy: Path) -> Path:
    """Copy a file or folder as hard links: all writers replace files, none changes one in place."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-al", str(source), str(copy)], check=True)
    return copy


def copied(source: Path, copy: Path) -> Path:
    """Copy a folder; files in it that are one stay one."""
    subprocess.run(["cp", "-a", str(source), str(copy)], check=True)
    return copy


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of each file, to prove that nothing was changed in place."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            about = os.stat(os.path.join(place, name))
            found[os.path.relpath(os.path.join(place, name), folder)] = about.st_size, about.st_mtime_ns
    return found


__all__ = ["EDIT", "NAMES", "copied", "link", "make_room", "state"]
