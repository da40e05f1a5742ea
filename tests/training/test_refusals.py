"""Training that does not fit, is interrupted, or goes on with other pictures; what it says and writes down."""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers import UNet2DConditionModel

from w2w_hub import (
    ParameterLayout,
    WeightDataset,
    add_rows,
    convert_adapter,
    read_adapter,
    remove_rows,
    write_adapter,
    write_dataset,
)
from w2w_hub.cli import main
from w2w_hub.errors import (
    AlreadyExistsError,
    BaseModelMismatchError,
    DiskError,
    InitializationError,
    InvalidInputError,
)
from w2w_hub.training import TrainingRecipe, kaiming_start, read_people, train_identity, train_many
from w2w_hub.training.opening import open_base
from w2w_hub.training.runs import unfinished
from w2w_hub.training.trainer import Trainer

from ..tiny_world import TinyWorld
from .test_runs import QUICK, portrait


def vector(folder: Path) -> np.ndarray:
    adapter = read_adapter(folder)
    return ParameterLayout.from_adapter(adapter).flatten(adapter)


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, batch: int = 1) -> None:
    """Press Ctrl-C in the middle of a step of the n-th trainer."""
    advance, seen = Trainer.work, []

    def work(self: Trainer, drawn: object) -> None:
        if self not in seen:
            seen.append(self)
        if len(seen) == batch and self.step == step:
            signal.raise_signal(signal.SIGINT)
        advance(self, drawn)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "work", work)


# ---------------------------------------------------------------- what does not fit
def test_a_base_model_that_the_dataset_was_not_made_for_is_refused(
    tiny_world: TinyWorld, people: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(tiny_world.base, tmp_path / "other"))
    unet = UNet2DConditionModel.from_pretrained(other / "unet")
    with torch.no_grad():
        next(w for name, w in unet.named_parameters() if "to_q" in name).add_(1)
    unet.save_pretrained(other / "unet")
    with pytest.raises(BaseModelMismatchError, match="other"):
        train_identity(people / "ann", other, tmp_path / "out", recipe=QUICK, reference=tiny_world.rows)
    assert not (tmp_path / "out").exists()


def test_rows_of_another_initialization_and_modules_that_are_not_there_are_refused(
    tiny_world: TinyWorld, people: Path, tmp_path: Path
) -> None:
    unet = UNet2DConditionModel.from_pretrained(tiny_world.base / "unet")
    layout = ParameterLayout.from_model(unet, rank=1, scale=27.0)
    write_adapter(layout.unflatten(kaiming_start(layout, 1).numpy()), tmp_path / "start")
    with pytest.raises(InitializationError, match="start"):
        train_identity(
            people / "ann", tiny_world.base, recipe=QUICK, reference=tiny_world.rows, start=tmp_path / "start"
        )
    with pytest.raises(InvalidInputError, match="to_nowhere"):
        train_identity(people / "ann", tiny_world.base, recipe=replace(QUICK, targets=("to_nowhere",)))


@pytest.mark.parametrize(
    ("given", "subject"),
    [
        ({"device": "meta"}, "meta"), ({"device": "abacus"}, "abacus"), ({"device": "cuda:99"}, "cuda:99"),
        ({"caption": "x" * 5000}, "caption"), ({"engine": "captured", "device": "cpu"}, "captured"),
        ({"recipe": replace(QUICK, targets=("to_nowhere",))}, "base"),
    ],
    ids=lambda given: next(iter(given), "") if isinstance(given, dict) else given,
)  # fmt: skip
def test_an_argument_that_cannot_work_is_one_line_before_anything_is_encoded(
    tiny_world: TinyWorld, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any],
    subject: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("w2w_hub.training.one.encode", None)
    with pytest.raises(InvalidInputError, match=subject) as caught:
        train_identity(people / "ann", tiny_world.base, tmp_path / "out", **{"recipe": QUICK, **given})
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["folders"]


def test_every_device_is_checked_before_the_first_batch(tiny_world: TinyWorld, people: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="cuda:99"):
        train_many(people, tiny_world.base, tmp_path / "out", recipe=QUICK, devices=["cpu", "cuda:99"])


def test_a_table_without_rows_or_with_a_long_caption_names_itself_and_a_picture_may_stand_for_a_folder(
    people: Path,
) -> None:
    table = people / "people.csv"
    for text, subject in (("id,pictures\n", "people.csv"), (f"id,pictures,caption\na,ann,{'x' * 5000}\n", "'a'")):
        table.write_text(text, "utf-8")
        with pytest.raises(InvalidInputError, match=subject):
            read_people(table)
    table.write_text("id,pictures\na,ann/0.png\n", "utf-8")
    assert [person.folder for person in read_people(table)[0]] == [people / "ann" / "0.png"]


def test_prompts_that_are_too_long_are_said_in_one_line(
    tiny_world: TinyWorld, people: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.warns(UserWarning, match="1 prompt or caption is longer than the 16 tokens"):
        train_identity(people / "ann", tiny_world.base, recipe=replace(QUICK, steps=1), caption="word " * 100)
    assert "word word" not in "".join(capfd.readouterr())


def test_too_many_identities_for_the_disk_are_refused_before_the_first_step(
    tiny_world: TinyWorld, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(DiskError) as caught:
        train_many(people, tiny_world.base, tmp_path / "out", recipe=QUICK)
    assert caught.value.path == tmp_path / "out"
    assert not unfinished(tmp_path / "out").exists()


# ---------------------------------------------------------------- interrupts
def test_an_interrupt_in_the_middle_of_a_step_keeps_the_state_and_the_run_goes_on_to_the_same_bits(
    tiny_world: TinyWorld, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_identity(people / "ann", tiny_world.base, tmp_path / "whole", recipe=QUICK)
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(KeyboardInterrupt) as caught:
            train_identity(people / "ann", tiny_world.base, tmp_path / "out", recipe=QUICK)
    assert "3 of 4" in caught.value.__notes__[0]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    train_identity(people / "ann", tiny_world.base, tmp_path / "out", recipe=QUICK, resume=True)
    assert np.array_equal(vector(tmp_path / "out"), vector(tmp_path / "whole"))
    assert not unfinished(tmp_path / "out").exists()
    assert whole.metadata == {k: v for k, v in read_adapter(tmp_path / "out").metadata.items() if k[:4] == "w2w."}


def test_an_interrupted_command_names_the_one_that_goes_on_and_force_starts_again(
    tiny_world: TinyWorld, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "made"
    words = ["train-many", people, "--base", tiny_world.base, "--no-class-pictures", "--steps", 3, "--at-once", 2]
    words = [str(word) for word in (*words, "--out", out)]
    with monkeypatch.context() as patch:
        stop_at(patch, 1, batch=2)
        result = CliRunner().invoke(main, words)
    assert result.exit_code == 130
    assert result.stderr.strip().endswith("--resume")
    assert CliRunner().invoke(main, words).exit_code == 2
    portrait(people / "ann" / "0.png", seed=9)  # of the batch that is finished
    result = CliRunner().invoke(main, [*words, "--resume"])
    assert (result.exit_code, "pictures" in result.stderr) == (2, True)
    result = CliRunner().invoke(main, [*words, "--force"])
    assert result.exit_code == 0, result.stderr
    train_many(people, tiny_world.base, out, recipe=QUICK, overwrite=True)


# ---------------------------------------------------------------- what is said
def test_loading_and_training_are_silent_but_for_pictures_that_were_cropped(
    tiny_world: TinyWorld, people: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)  # which a command sets
    for precision in ("float32", "bfloat16"):
        train_identity(people / "ann", tiny_world.base, recipe=replace(QUICK, precision=precision, steps=1))
    assert "word word" not in "".join(capfd.readouterr())
    portrait(people / "ann" / "1.png", seed=5, size=(96, 64))
    with pytest.warns(UserWarning, match="1 of 2 pictures was"):
        train_identity(people / "ann", tiny_world.base, recipe=replace(QUICK, steps=1))


def test_an_adapters_files_say_how_it_was_trained_in_every_dialect(
    tiny_world: TinyWorld, people: Path, tmp_path: Path
) -> None:
    adapter = train_identity(people / "ann", tiny_world.base, tmp_path / "lora", recipe=QUICK)
    assert set(adapter.metadata) == {
        "w2w.version", "w2w.recipe", "w2w.base", "w2w.base_digest", "w2w.initialization",
    }  # fmt: skip
    for dialect in ("peft", "diffusers", "kohya"):
        convert_adapter(tmp_path / "lora", tmp_path / dialect, dialect)
        found = read_adapter(tmp_path / dialect).metadata
        assert {name: found[name] for name in adapter.metadata} == adapter.metadata


def test_an_adapter_that_is_trained_for_a_dataset_becomes_a_row_of_it(
    tiny_world: TinyWorld, people: Path, tmp_path: Path
) -> None:
    rows = Path(shutil.copytree(tiny_world.rows, tmp_path / "rows"))
    assert WeightDataset.open(rows).manifest.dtype == "float16"
    train_identity(people / "ann", tiny_world.base, tmp_path / "ann", recipe=QUICK, reference=rows)
    train_identity(people / "ann", tiny_world.base, tmp_path / "eve", recipe=QUICK)  # from PEFT's own initialization
    many = train_many(people, tiny_world.base, tmp_path / "many", recipe=QUICK, reference=rows).dataset
    dataset = add_rows(rows, tmp_path / "ann")
    assert np.array_equal(dataset["ann"], vector(tmp_path / "ann"))
    assert not dataset.manifest.float16_max_error  # nothing was rounded
    remove_rows(rows, "ann")
    assert np.array_equal(add_rows(rows, many.path)["bob"], many["bob"])
    with pytest.raises(InitializationError, match=dataset.manifest.compatibility.initialisation):
        add_rows(rows, tmp_path / "eve")


# ---------------------------------------------------------------- several devices
@pytest.mark.slow
def test_two_processes_train_the_rows_of_one(tiny_world: TinyWorld, people: Path, tmp_path: Path) -> None:
    recipe = TrainingRecipe(class_prompt=None, steps=3, learning_rate=1e-3)
    one = train_many(people, tiny_world.base, tmp_path / "one", recipe=recipe, at_once=1)
    two = train_many(people, tiny_world.base, tmp_path / "two", recipe=recipe, at_once=1, devices=["cpu", "cpu"])
    assert list(two.dataset.ids) == list(one.dataset.ids)
    np.testing.assert_allclose(two.dataset.to_numpy(), one.dataset.to_numpy(), rtol=0.02, atol=1e-4)
    (people / "bob" / "0.png").write_text("not a picture", "utf-8")
    with pytest.raises(Exception, match=r"0\.png"):  # the error of a process, as it was raised
        train_many(people, tiny_world.base, tmp_path / "bad", recipe=recipe, at_once=1, devices=["cpu", "cpu"])
    with pytest.raises(AlreadyExistsError):
        train_many(people, tiny_world.base, tmp_path / "two", recipe=recipe, devices=["cpu", "cpu"])


@pytest.mark.slow
def test_an_error_on_one_device_ends_the_others(tiny_world: TinyWorld, people: Path, tmp_path: Path) -> None:
    recipe = TrainingRecipe(class_prompt=None, steps=5000, learning_rate=1e-3)  # minutes per identity
    (people / "bob" / "0.png").write_text("not a picture", "utf-8")
    with pytest.raises(Exception, match=r"0\.png"):
        train_many(people, tiny_world.base, tmp_path / "out", recipe=recipe, at_once=1, devices=["cpu", "cpu"])
    assert not list(unfinished(tmp_path / "out").glob("rows*"))


def test_training_for_a_dataset_starts_from_the_initialization_that_it_publishes(
    tiny_world: TinyWorld, tmp_path: Path
) -> None:
    layout = WeightDataset.open(tiny_world.rows).layout
    start = kaiming_start(layout, 11)
    rows = start.numpy() + np.random.default_rng(0).normal(0, 0.01, (3, layout.size)).astype(np.float32)
    write_dataset(rows, tmp_path / "people", layout=layout, start_adapter=layout.unflatten(start.numpy()))
    opened = open_base(tiny_world.base, QUICK, "cpu", tmp_path / "people")
    assert torch.equal(opened.start, start)
    assert opened.start_name == WeightDataset.open(tmp_path / "people").manifest.compatibility.initialisation
    assert torch.equal(open_base(tiny_world.base, QUICK, "cpu").start, kaiming_start(opened.layout, 0))
