"""Training from folders of pictures: results, captions, and runs that are killed and go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from w2w_hub import ParameterLayout, WeightDataset, add_rows, read_adapter, remove_rows, write_dataset
from w2w_hub.cli import main
from w2w_hub.errors import (
    AlreadyExistsError,
    ConvergenceError,
    CorruptFileError,
    InvalidInputError,
    LayoutMismatchError,
    MissingPathError,
    W2WError,
)
from w2w_hub.store.manifest import seal
from w2w_hub.training import TrainingRecipe, read_people, read_pictures, train_identity, train_many
from w2w_hub.training.encoding import with_parts_left_out
from w2w_hub.training.runs import unfinished

from ..tiny_world import TinyWorld

QUICK = TrainingRecipe(class_prompt=None, steps=4, learning_rate=1e-3)


def portrait(path: Path, seed: int, size: tuple[int, int] = (64, 64)) -> Path:
    values = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Folders of three people, with two, one and two pictures."""
    for name, count in (("ann", 2), ("bob", 1), ("cy", 2)):
        for number in range(count):
            portrait(tmp_path / "folders" / name / f"{number}.png", seed=hash((name, number)) % 1000)
    return tmp_path / "folders"


# ---------------------------------------------------------------- pictures and captions
def test_pictures_are_cropped_to_the_middle_and_their_captions_read(tmp_path: Path) -> None:
    folder = tmp_path / "ann"
    wide = portrait(folder / "a.png", 1, (128, 64))
    portrait(folder / "b.JPG", 2)
    portrait(folder / "c.png", 3, (32, 32))
    (folder / "b.txt").write_text("sks person,\n smiling", "utf-8")
    (folder / "metadata.jsonl").write_text(
        json.dumps({"file_name": "c.png", "text": "sks person, hat"}) + "\n", "utf-8"
    )
    (folder / ".hidden.png").write_text("not a picture")
    (folder / "notes.md").write_text("not a picture")
    found = read_pictures(folder, (64, 64))
    assert [p.path.name for p in found] == ["a.png", "b.JPG", "c.png"]
    assert [p.caption for p in found] == [None, "sks person, smiling", "sks person, hat"]
    assert [p.cropped for p in found] == [0.5, 0.0, 0.0]
    assert {p.image.size for p in found} == {(64, 64)}
    np.testing.assert_array_equal(np.asarray(found[0].image), np.asarray(Image.open(wide))[:, 32:96])


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("metadata.jsonl", "{", CorruptFileError),
        ("metadata.jsonl", "[1]", CorruptFileError),
        ("metadata.jsonl", '{"file_name": ["a.png"]}', CorruptFileError),
        ("metadata.jsonl", '{"file_name": {"a": 1}}', CorruptFileError),
        ("metadata.jsonl", '{"file_name": "no.png", "text": "x"}', InvalidInputError),
        ("metadata.jsonl", 2 * '{"file_name": "a.png", "text": "x"}\n', InvalidInputError),
        ("metadata.jsonl", '{"file_name": "a.png", "text": 3}', CorruptFileError),
        ("a.txt", "x" * 5000, CorruptFileError),
        ("b.png", "not a picture", CorruptFileError),
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be_read_names_the_file(
    tmp_path: Path, name: str, content: str, error: type[W2WError]
) -> None:
    portrait(tmp_path / "a.png", 1)
    (tmp_path / name).write_text(content, "utf-8")
    with pytest.raises(error, match=name):
        read_pictures(tmp_path, (64, 64))


@pytest.mark.parametrize("size", [(0, 8), (8, 0), (8, -8), (8,), (8, 8, 8), (8.5, 8)], ids=str)
def test_a_size_that_no_picture_has_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    portrait(tmp_path / "a.png", 1)
    with pytest.raises(InvalidInputError, match="size"):
        read_pictures(tmp_path, size)


def test_a_caption_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    portrait(tmp_path / "a.png", 1)
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CorruptFileError, match=r"a\.txt"):
        read_pictures(tmp_path, (64, 64))


def test_no_pictures_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for missing in ("empty", "nowhere"):
        with pytest.raises(MissingPathError, match=missing):
            read_pictures(tmp_path / missing, (64, 64))


def test_parts_of_a_caption_are_left_out_and_its_first_is_not() -> None:
    found = with_parts_left_out("sks person, smiling, red hat", replace(QUICK, caption_dropout=0.5), 64)
    assert set(found) == {
        "sks person", "sks person, smiling", "sks person, red hat", "sks person, smiling, red hat",
    }  # fmt: skip
    assert with_parts_left_out("sks person, smiling", replace(QUICK, caption_dropout=1.0), 4) == ["sks person"] * 4
    other = with_parts_left_out("you, me, us", replace(QUICK, caption_dropout=0.5), 64)
    assert [text.count(",") for text in other] == [text.count(",") for text in found]  # the same parts, by place


# ---------------------------------------------------------------- one identity
def test_an_adapter_is_trained_from_pictures_and_opens_in_peft(
    tiny_world: TinyWorld, people: Path, tmp_path: Path
) -> None:
    steps: list[int] = []
    found = train_identity(
        people / "ann", tiny_world.base, tmp_path / "lora", recipe=QUICK, on_step=lambda step, _: steps.append(step)
    )
    assert steps == [1, 2, 3, 4]
    again = read_adapter(tmp_path / "lora")
    layout = ParameterLayout.from_adapter(found)
    np.testing.assert_allclose(layout.flatten(again), layout.flatten(found), rtol=1e-6)
    assert {pair.scale for pair in again.factors.values()} == {27.0}
    assert any(np.abs(pair.B).max() > 0 for pair in again.factors.values())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folders", "lora"]


def test_captions_and_class_pictures_count(tiny_world: TinyWorld, people: Path, tmp_path: Path) -> None:
    def trained(**settings: object) -> np.ndarray:
        caption = settings.pop("caption", None)
        adapter = train_identity(
            people / "ann", tiny_world.base, recipe=replace(QUICK, steps=2, **settings), caption=caption,  # type: ignore[arg-type]
            cache=tmp_path / "cache",
        )  # fmt: skip
        return ParameterLayout.from_adapter(adapter).flatten(adapter)

    plain = trained()
    assert not np.array_equal(plain, trained(caption="sks hat"))
    assert not np.array_equal(plain, trained(class_prompt="person", class_pictures=2))
    [folder] = (tmp_path / "cache" / "class-pictures").iterdir()
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert sorted(before) == ["00000.png", "00001.png", "key.json"]
    trained(class_prompt="person", class_pictures=2)
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before  # drawn once
    trained(class_prompt="a person", class_pictures=2)
    assert len(list((tmp_path / "cache" / "class-pictures").iterdir())) == 2


def test_a_start_of_another_layout_and_an_output_that_exists_are_refused(
    tiny_world: TinyWorld, people: Path, tmp_path: Path
) -> None:
    with pytest.raises(LayoutMismatchError, match="person"):
        train_identity(people / "ann", tiny_world.base, recipe=replace(QUICK, rank=2), start=tiny_world.adapters[0])
    with pytest.raises(AlreadyExistsError):
        train_identity(people / "ann", tiny_world.base, people, recipe=QUICK)
    with pytest.raises(ConvergenceError, match="ann"):
        train_identity(
            people / "ann",
            tiny_world.base,
            tmp_path / "x",
            recipe=replace(QUICK, learning_rate=1e30, max_grad_norm=None),
        )


# ---------------------------------------------------------------- many identities
def test_many_people_become_a_dataset_with_labels(tiny_world: TinyWorld, people: Path, tmp_path: Path) -> None:
    table = pd.DataFrame({"id": ["p1", "p2", "p3"], "pictures": ["folders/ann", "folders/bob", "folders/cy"],
                          "caption": [None, "sks person, hat", None], "Beard": [True, False, True]})  # fmt: skip
    table.to_csv(tmp_path / "people.csv", index=False)
    found = train_many(tmp_path / "people.csv", tiny_world.base, tmp_path / "out", recipe=QUICK, at_once=2)
    dataset = WeightDataset.open(tmp_path / "out")
    assert list(dataset.ids) == ["p1", "p2", "p3"]
    assert dataset.labels["Beard"].tolist() == [True, False, True]
    assert (found.lost, found.batch_sizes) == ([], [2, 1])
    dataset.verify()
    alone = train_identity(people / "bob", tiny_world.base, recipe=QUICK, caption="sks person, hat")
    layout = dataset.layout
    moved = np.abs(layout.flatten(alone) - dataset[1]).max()
    assert moved < 0.02 * np.abs(layout.flatten(alone)).max()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folders", "out", "people.csv"]


def test_a_table_that_names_one_person_twice_or_no_folder_is_refused(tmp_path: Path, people: Path) -> None:
    file = tmp_path / "people.csv"
    for text, error, subject in (
        ("id,pictures\na,folders/ann\na,folders/bob\n", InvalidInputError, "a"),
        ("id,pictures\na,folders/ann\nb,folders/none\n", MissingPathError, "b"),
        ("id,folder\na,folders/ann\n", InvalidInputError, "pictures"),
    ):
        file.write_text(text, "utf-8")
        with pytest.raises(error, match=subject):
            read_people(file)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingPathError, match="empty"):
        read_people(tmp_path / "empty")


KILLED = """
import sys
from pathlib import Path
import w2w_hub.training.runs as runs
from w2w_hub.training import TrainingRecipe, train_many
runs.SAVE_SECONDS = 0.0
recipe = TrainingRecipe(class_prompt=None, steps=30, learning_rate=1e-3, average_last=0.5)
train_many(sys.argv[1], sys.argv[2], sys.argv[3], recipe=recipe, at_once=2, resume=sys.argv[4] == "resume")
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(tiny_world: TinyWorld, people: Path, tmp_path: Path) -> None:
    def start(out: Path, how: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", KILLED, people, tiny_world.base, out, how],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    assert start(tmp_path / "whole", "new").wait(300) == 0
    out, how = tmp_path / "killed", "new"
    for wanted in ("state-000000-000002", "rows-000000-000002", "state-000002-000003"):
        process = start(out, how)
        while process.poll() is None and not (unfinished(out) / f"{wanted}.safetensors").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        how = "resume"
        assert not out.exists() or process.returncode == 0
    assert start(out, how).wait(300) == 0 or out.exists()
    first, second = WeightDataset.open(tmp_path / "whole"), WeightDataset.open(out)
    assert first.manifest.digest == second.manifest.digest
    assert not unfinished(out).exists()


def test_an_unfinished_run_is_neither_lost_nor_mixed_with_other_settings(
    tiny_world: TinyWorld, people: Path, tmp_path: Path
) -> None:
    def stop(step: int, loss: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    out = tmp_path / "lora"
    with pytest.raises(KeyboardInterrupt):
        train_identity(people / "ann", tiny_world.base, out, recipe=QUICK, on_step=stop)
    with pytest.raises(AlreadyExistsError, match="--resume"):
        train_identity(people / "ann", tiny_world.base, out, recipe=QUICK)
    with pytest.raises(InvalidInputError, match="recipe"):
        train_identity(people / "ann", tiny_world.base, out, recipe=replace(QUICK, seed=1), resume=True)
    with pytest.raises(InvalidInputError, match="pictures"):
        train_identity(people / "bob", tiny_world.base, out, recipe=QUICK, resume=True)
    steps: list[int] = []
    found = train_identity(
        people / "ann", tiny_world.base, out, recipe=QUICK, resume=True, on_step=lambda step, _: steps.append(step)
    )
    assert steps == [3, 4]
    whole = train_identity(people / "ann", tiny_world.base, recipe=QUICK)
    layout = ParameterLayout.from_adapter(whole)
    assert np.array_equal(layout.flatten(found), layout.flatten(whole))


def test_memory_that_runs_out_halves_a_batch_and_says_so(
    tiny_world: TinyWorld, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from w2w_hub.training import trainer

    work: Callable[..., None] = trainer.Trainer.work

    def small(self: trainer.Trainer, batch: object) -> None:
        if len(self.data) > 2:
            raise torch.OutOfMemoryError
        work(self, batch)

    whole = train_many(people, tiny_world.base, tmp_path / "whole", recipe=QUICK, at_once=4)
    monkeypatch.setattr(trainer.Trainer, "work", small)
    with pytest.warns(UserWarning, match="at most 2 at once"):
        found = train_many(people, tiny_world.base, tmp_path / "halved", recipe=QUICK, at_once=4)
    assert list(found.dataset.ids) == list(whole.dataset.ids)
    assert found.batch_sizes == [1, 2]
    [record] = WeightDataset.open(tmp_path / "halved").manifest.training
    assert record["batches"] == [{"together": 1, "ids": ["ann"]}, {"together": 2, "ids": ["bob", "cy"]}]
    assert (record["engine"], record["recipe"]["steps"], record["device"]) == ("eager", 4, "cpu")
    [record] = whole.dataset.manifest.training
    assert record["batches"] == [{"together": 3, "ids": ["ann", "bob", "cy"]}]
    difference = np.abs(found.dataset.to_numpy() - whole.dataset.to_numpy()).max()
    assert difference < 0.02 * np.abs(whole.dataset.to_numpy()).max()


def test_a_run_that_goes_on_does_not_try_again_what_did_not_fit(
    tiny_world: TinyWorld, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from w2w_hub.training import trainer

    work, sizes = trainer.Trainer.work, list[int]()

    def small(self: trainer.Trainer, batch: object) -> None:
        sizes.append(len(self.data))
        if len(self.data) > 2:
            raise torch.OutOfMemoryError
        if len(self.data) == 2 and stop:
            raise KeyboardInterrupt
        work(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer.Trainer, "work", small)
    stop = True
    with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match="at most 2 at once"):
        train_many(people, tiny_world.base, tmp_path / "out", recipe=QUICK, at_once=4)
    sizes.clear()
    stop = False
    train_many(people, tiny_world.base, tmp_path / "out", recipe=QUICK, at_once=4, resume=True)
    assert set(sizes) == {2}


def test_the_record_of_training_goes_with_the_rows(tiny_world: TinyWorld, people: Path, tmp_path: Path) -> None:
    made = train_many(people, tiny_world.base, tmp_path / "made", recipe=QUICK, at_once=2).dataset
    given = {"layout": made.layout, "compatibility": made.manifest.compatibility}
    dataset = write_dataset(made.to_numpy()[:1] * 1.5, tmp_path / "all", ids=["eve"], **given)
    assert dataset.manifest.training is None
    dataset = add_rows(tmp_path / "all", tmp_path / "made")
    assert dataset.manifest.training == made.manifest.training
    dataset = remove_rows(tmp_path / "all", ["cy", "ann"])
    assert [batch["ids"] for record in dataset.manifest.training for batch in record["batches"]] == [["bob"]]
    assert remove_rows(tmp_path / "all", "bob").manifest.training is None
    dataset.verify()


@pytest.mark.parametrize(
    "record",
    [
        1, {}, {"batches": {}}, {"batches": [1]}, {"batches": [{"together": 0, "ids": ["ann"]}]},
        {"batches": [{"together": 2, "ids": "ann"}]}, {"batches": [{"together": 2, "ids": [1]}]},
    ],
    ids=str,
)  # fmt: skip
def test_a_malformed_record_of_training_is_refused(tiny_world: TinyWorld, tmp_path: Path, record: object) -> None:
    file = Path(shutil.copytree(tiny_world.rows, tmp_path / "rows")) / "manifest.json"
    file.write_bytes(seal(json.loads(file.read_text("utf-8")) | {"training": [record]}))
    with pytest.raises(CorruptFileError, match="training"):
        WeightDataset.open(tmp_path / "rows")


# ---------------------------------------------------------------- command line
def w2w(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [str(word) for word in words])
    return result.exit_code, result.stdout, result.stderr


def test_the_commands_train_one_person_and_many(tiny_world: TinyWorld, people: Path, tmp_path: Path) -> None:
    quick = ("--no-class-pictures", "--steps", 2, "--base", tiny_world.base)
    fitting = (*quick, "--for", tiny_world.rows)
    status, out, err = w2w("train", people / "ann", *fitting, "--out", tmp_path / "lora", "--json")
    assert status == 0, err
    assert json.loads(out)["steps"] == 2
    facts = json.loads(w2w("inspect", tmp_path / "lora", "--against", tiny_world.rows, "--json")[1])
    assert facts["fits"] is True
    assert facts["initialisation_cosine"] > 0.9
    status, _, err = w2w("train-many", people, *quick, "--out", tmp_path / "made", "--license", "cc0-1.0")
    assert status == 0, err
    assert len(WeightDataset.open(tmp_path / "made")) == 3
    assert "w2w build" in err
    status, _, err = w2w(
        "train", people / "ann", *quick, "--for", tiny_world.rows, "--rank", 2, "--out", tmp_path / "x"
    )
    assert (status, "--for" in err) == (2, True)
    status, _, err = w2w("train", tmp_path / "none", *quick, "--out", tmp_path / "x")
    assert (status, str(tmp_path / "none") in err, len(err.splitlines())) == (2, True, 1)


def test_missing_pictures_are_named_before_a_base_model_is_opened(tmp_path: Path) -> None:
    with pytest.raises(MissingPathError) as refused:
        train_identity(tmp_path / "nobody", tmp_path / "no-base-model", tmp_path / "out")
    assert refused.value.path == tmp_path / "nobody"
