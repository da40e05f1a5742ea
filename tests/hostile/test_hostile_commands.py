"""Every command on a stranger's folder: nothing beside the folder is touched, and it ends in one line."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from w2w_hub.cli import main

from .hostile_names import World, make_world
from .test_hostile_folders import committed, link, listing, reseal, tree
from .test_hostile_names import COMMANDS

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs links and pipes")


def old_names_outside(folder: Path) -> None:
    committed(folder)
    reseal(folder, listing("../../sentinel/secret.txt", "labels/../../../sentinel/secret.txt"))


def new_names_outside(folder: Path) -> None:
    reseal(committed(folder), listing("../../sentinel/secret.txt"))


def linked_parts(folder: Path) -> None:
    for name in ("labels", "coefficients", "weights.zarr/weights/c", "previews", "unet"):
        if (folder / name).is_dir():
            link(folder, name, folder.parents[1] / "sentinel")


def linked_files(folder: Path) -> None:
    for name in ("README.md", "directions.json", "space.safetensors", "labels/train.parquet", "w2w_pipeline.json"):
        if (folder / name).is_file():
            link(folder, name, folder.parents[1] / "sentinel" / "secret.txt")


def linked_writers_own(folder: Path) -> None:
    (folder / ".w2w-lock").symlink_to(folder.parents[1] / "sentinel" / "secret.txt")
    (folder / ".w2w-next").symlink_to(folder.parents[1] / "sentinel")
    (folder / ".w2w-commit").symlink_to(folder.parents[1] / "sentinel")


def pipes(folder: Path) -> None:
    for name in ("README.md", "directions.json", "labels/train.parquet", ".w2w-lock"):
        if (folder / name).is_file():
            (folder / name).unlink()
        if (folder / name).parent.is_dir():
            os.mkfifo(folder / name)


ATTACKS: list[Callable[[Path], None]] = [
    old_names_outside, new_names_outside, linked_parts, linked_files, linked_writers_own, pipes,
]  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("start"))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_no_command_touches_what_lies_beside_a_hostile_folder(tmp_path, start, attack, monkeypatch):
    sentinel = tmp_path / "sentinel"
    (sentinel / "labels").mkdir(parents=True)
    for name in ("secret.txt", "manifest.json", "labels/train.parquet", "train.parquet", "0", "x.safetensors"):
        (sentinel / name).write_text(f"precious {name}")
    folders = {}
    for field in ("people", "numbered", "later", "space"):
        folders[field] = tmp_path / "world" / field
        shutil.copytree(getattr(start, field), folders[field])
        attack(folders[field])
    world = replace(start, **folders)
    before = tree(sentinel)
    monkeypatch.chdir(tmp_path / "world")
    for name, words in COMMANDS.items():
        if name == "demo":
            continue  # has no input
        out = tmp_path / "world" / f"out-{name}" / "out"
        out.parent.mkdir()
        try:
            lines = words(world, out)
        except (OSError, shutil.Error):  # the copy of a folder with pipes in it
            continue
        for line in lines:
            result = CliRunner().invoke(main, [name, *map(str, line)])
            assert isinstance(result.exception, (SystemExit, type(None))), (name, line, result.exception)
        assert tree(sentinel) == before, name
