"""Runs that stop, are damaged or meet another one; identities that diverge; what is refused before the first step."""

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
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file

from w2w_hub import ParameterLayout, WeightDataset, write_adapter, write_dataset
from w2w_hub.cli import main
from w2w_hub.errors import (
    AlreadyExistsError,
    BaseModelMismatchError,
    BusyError,
    ConvergenceError,
    CorruptFileError,
    DiskError,
    InitializationError,
    InvalidInputError,
    MissingPathError,
    OutOfMemoryError,
    W2WError,
)
from w2w_hub.training import TrainingRecipe, Validation, kaiming_start, train_identity, train_many
from w2w_hub.training.runs import unfinished
from w2w_hub.training.trainer import Trainer

from ..tiny_world import TinyWorld
from .test_refusals import vector
from .test_runs import QUICK, portrait


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def interrupted(people: Path, world: TinyWorld, out: Path, **options: Any) -> None:
    """Leave a run of ann with two of four steps."""

    def stop(step: int, loss: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_identity(people / "ann", world.base, out, **{"recipe": QUICK, "on_step": stop, **options})
    assert unfinished(out).is_dir()


@pytest.mark.parametrize("ignored", [False, True], ids=["at a terminal", "in the background"])
def test_a_command_that_a_batch_system_ends_keeps_its_steps(
    tiny_world: TinyWorld, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ignored: bool
) -> None:
    out, work = tmp_path / "out", Trainer.work
    words = ["train", str(people / "ann"), "--base", str(tiny_world.base), "--no-class-pictures", "--steps", "4"]
    words += ["--learning-rate", "0.001", "--precision", "float32", "--out"]

    def ended(self: Trainer, drawn: Any) -> None:
        if self.step == 2:
            signal.raise_signal(signal.SIGTERM)
        work(self, drawn)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if ignored else None
    try:
        monkeypatch.setattr(Trainer, "work", ended)
        done = CliRunner().invoke(main, [*words, str(out)])
        monkeypatch.setattr(Trainer, "work", work)
    finally:
        if ignored:
            signal.signal(signal.SIGINT, before)
    assert done.exit_code == 143
    assert len(done.stderr.strip().splitlines()) == 1
    assert "3 of 4 steps" in done.stderr
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    for options in ([str(out), "--resume"], [str(tmp_path / "whole")]):
        assert CliRunner().invoke(main, [*words, *options]).exit_code == 0
    np.testing.assert_array_equal(vector(out), vector(tmp_path / "whole"))


# ---------------------------------------------------------------- before the first step
def test_a_picture_that_cannot_be_read_is_found_before_anybody_is_trained(
    tiny_world: TinyWorld, people: Path, tmp_path: Path
) -> None:
    file = people / "cy" / "0.png"
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(CorruptFileError) as caught:
        train_many(people, tiny_world.base, tmp_path / "new" / "out", recipe=QUICK, at_once=1)
    assert caught.value.path == file
    assert names(tmp_path) == ["folders"]


@pytest.mark.parametrize(
    ("file", "change", "subject"),
    [
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "other"),
        ("vae/config.json", {"scaling_factor": float("nan")}, "autoencoder"),
        ("model_index.json", {"_class_name": "StableDiffusionImg2ImgPipeline"}, "Img2Img"),
    ],
)
def test_a_base_model_that_cannot_be_trained_is_named(
    tiny_world: TinyWorld, people: Path, tmp_path: Path, file: str, change: dict[str, Any], subject: str
) -> None:
    other = Path(shutil.copytree(tiny_world.base, tmp_path / "other"))
    (other / file).write_text(json.dumps(json.loads((other / file).read_text("utf-8")) | change), "utf-8")
    with pytest.raises((InvalidInputError, BaseModelMismatchError), match=subject) as caught:
        train_identity(people / "ann", other, tmp_path / "out", recipe=QUICK)
    assert str(other) in str(caught.value)
    assert names(tmp_path) == ["folders", "other"]


def test_every_target_must_be_a_module_of_the_base_model(tiny_world: TinyWorld, people: Path) -> None:
    with pytest.raises(InvalidInputError, match="to_nowhere"):
        train_identity(people / "ann", tiny_world.base, recipe=replace(QUICK, targets=("to_q", "to_nowhere")))
    for targets in ((), ("",)):
        with pytest.raises(InvalidInputError, match="targets"):
            TrainingRecipe(targets=targets)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TrainingRecipe(prompt="a\udcff"),
        lambda: TrainingRecipe(class_prompt="\ud800"),
        lambda: Validation(prompts=("a\udcff",)),
        lambda: TrainingRecipe(steps=10**12),
        lambda: train_identity("photos", "base", caption="a\udcff"),
    ],
)
def test_prompts_are_unicode_and_the_number_of_samples_is_bounded(make: Callable[[], object]) -> None:
    with pytest.raises(InvalidInputError):
        make()


def test_a_reference_must_be_a_dataset_or_weight_space_and_a_start_needs_an_a(
    tiny_world: TinyWorld, people: Path, tmp_path: Path
) -> None:
    for reference in (tiny_world.base, tmp_path / "nowhere"):
        with pytest.raises(W2WError, match="--for"):
            train_identity(people / "ann", tiny_world.base, recipe=QUICK, reference=reference)
    adapter = WeightDataset.open(tiny_world.rows).adapter(0)
    for pair in adapter.factors.values():
        pair.A[:] = 0
    write_adapter(adapter, tmp_path / "empty")
    with pytest.raises(InitializationError, match="empty"):
        train_identity(people / "ann", tiny_world.base, recipe=QUICK, start=tmp_path / "empty")


def test_what_is_left_out_of_a_folder_is_said(tiny_world: TinyWorld, people: Path) -> None:
    (people / "ann" / "1.heic").write_bytes(b"")
    (people / "bob" / "0.png.txt").write_text("sks person, hat", "utf-8")
    recipe = replace(QUICK, steps=1)
    with pytest.warns(UserWarning, match=r"1\.heic"):
        train_identity(people / "ann", tiny_world.base, recipe=recipe)
    with pytest.warns(UserWarning, match=r"0\.png\.txt"):
        train_identity(people / "bob", tiny_world.base, recipe=recipe)


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_picture_whose_name_is_not_unicode_is_one_like_others(tiny_world: TinyWorld, people: Path) -> None:
    before = train_identity(people / "ann", tiny_world.base, recipe=replace(QUICK, steps=1))
    os.rename(people / "ann" / "0.png", os.fsencode(people / "ann") + b"/\xff.png")
    after = train_identity(people / "ann", tiny_world.base, recipe=replace(QUICK, steps=1))
    layout = ParameterLayout.from_adapter(before)
    assert np.array_equal(layout.flatten(before), layout.flatten(after))


# ---------------------------------------------------------------- runs on disk
def test_a_second_command_on_one_output_is_refused_and_the_first_one_ends_as_ever(
    tiny_world: TinyWorld, people: Path, tmp_path: Path
) -> None:
    out, refused = tmp_path / "out", []

    def another(step: int, loss: float) -> None:
        for options in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(BusyError) as caught:
                train_identity(people / "ann", tiny_world.base, out, recipe=replace(QUICK, seed=1), **options)
            refused.append(caught.value.path)

    recipe = replace(QUICK, steps=1)
    found = train_identity(people / "ann", tiny_world.base, out, recipe=recipe, on_step=another)
    assert refused == [unfinished(out)] * 3
    assert np.array_equal(vector(out), ParameterLayout.from_adapter(found).flatten(found))
    assert names(tmp_path) == ["folders", "out"]


def test_a_damaged_run_says_what_to_remove_and_a_changed_setting_is_named(
    tiny_world: TinyWorld, people: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    interrupted(people, tiny_world, out)
    with pytest.raises(InvalidInputError, match="seed 0, now 3"):
        train_identity(people / "ann", tiny_world.base, out, recipe=replace(QUICK, seed=3), resume=True)
    [state] = unfinished(out).glob("state*")
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(CorruptFileError, match=state.name) as caught:
        train_identity(people / "ann", tiny_world.base, out, recipe=QUICK, resume=True)
    assert caught.value.path == unfinished(out)
    state.unlink()
    found = train_identity(people / "ann", tiny_world.base, out, recipe=QUICK, resume=True)
    whole = train_identity(people / "ann", tiny_world.base, recipe=QUICK)
    layout = ParameterLayout.from_adapter(whole)
    assert np.array_equal(layout.flatten(found), layout.flatten(whole))


@pytest.mark.slow
def test_what_a_killed_removal_left_is_no_run(tiny_world: TinyWorld, people: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupted(people, tiny_world, out)
    (unfinished(out) / "plan.json").unlink()
    other = replace(QUICK, seed=3)
    train_identity(people / "ann", tiny_world.base, out, recipe=other, resume=True)
    whole = train_identity(people / "ann", tiny_world.base, recipe=other)
    assert np.array_equal(vector(out), ParameterLayout.from_adapter(whole).flatten(whole))
    assert names(tmp_path) == ["folders", "out"]


def test_an_interrupt_between_two_batches_says_that_the_first_is_kept(
    tiny_world: TinyWorld, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from w2w_hub.training import workers

    encode, calls = workers.encode, []

    def stop(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(*args)

    monkeypatch.setattr(workers, "encode", stop)
    words = ["train-many", people, "--base", tiny_world.base, "--no-class-pictures", "--steps", 2, "--at-once", 2]
    result = CliRunner().invoke(main, [str(word) for word in (*words, "--out", tmp_path / "out")])
    assert result.exit_code == 130
    assert result.stderr.strip().endswith("--resume")
    # the disk has room for what is left to do, and not for all of it
    size = WeightDataset.open(tiny_world.rows).layout.size
    free = shutil.disk_usage(tmp_path)._replace(free=size * (3 * 6 + 4))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    recipe = TrainingRecipe(class_prompt=None, steps=2)
    with pytest.raises(DiskError):
        train_many(people, tiny_world.base, tmp_path / "other", recipe=recipe, at_once=2)
    found = train_many(people, tiny_world.base, tmp_path / "out", recipe=recipe, at_once=2, resume=True)
    assert list(found.dataset.ids) == ["ann", "bob", "cy"]


@pytest.mark.parametrize(("view", "per_number"), [(False, 2 + 4), (True, 2 + 2 + 4), ("float32", 2 + 4 + 4)], ids=str)
def test_the_room_that_is_asked_for_is_that_of_the_datasets_dtype_and_view(
    tiny_world: TinyWorld, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, view: bool | str,
    per_number: int,
) -> None:  # fmt: skip
    size = WeightDataset.open(tiny_world.rows).layout.size
    place, usage = shutil.disk_usage(tmp_path), 3 * size * per_number

    def train(free: int) -> Any:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: place._replace(free=free))
        recipe = TrainingRecipe(class_prompt=None, steps=1)
        return train_many(
            people, tiny_world.base, tmp_path / "out", recipe=recipe, at_once=3, dtype="float16", parquet_view=view
        )

    with pytest.raises(DiskError):
        train(usage - 1)
    assert len(train(usage).dataset) == 3


def test_a_second_command_leaves_the_pictures_of_the_first_alone(
    tiny_world: TinyWorld, people: Path, tmp_path: Path
) -> None:
    out, drawn = tmp_path / "out", tmp_path / "out-validation"
    validate = Validation(every=1, num_inference_steps=1, guidance_scale=1.0)

    def second(step: int, _: float) -> None:
        if step == 2:
            with pytest.raises(BusyError):
                train_identity(people / "ann", tiny_world.base, out, recipe=QUICK, validate=validate, overwrite=True)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_identity(people / "ann", tiny_world.base, out, recipe=QUICK, validate=validate, on_step=second)
    assert (drawn / "step-000000-0.png").exists()
    with pytest.raises(AlreadyExistsError) as refused:  # the run, which --resume goes on with, and not its pictures
        train_identity(people / "ann", tiny_world.base, out, recipe=QUICK, validate=validate)
    assert refused.value.path == unfinished(out)
    (unfinished(out) / "thumbs").mkdir()  # a file manager's
    train_identity(people / "ann", tiny_world.base, out, recipe=QUICK, validate=validate, overwrite=True)
    assert not unfinished(out).exists()


# ---------------------------------------------------------------- who diverges
def test_people_who_diverge_have_no_row_and_the_others_do(
    tiny_world: TinyWorld, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i, name in enumerate(("dee", "eve")):
        portrait(people / name / "0.png", seed=9 + i)
    rows = Trainer.rows

    def diverged(self: Trainer) -> torch.Tensor:
        found = rows(self).clone()
        other = torch.randn(found.shape[1], generator=torch.Generator().manual_seed(0))
        for row, wrong in zip(found, ("nan", "inf", "large", "other"), strict=False):
            if wrong == "other":
                row[:] = other  # of no initialization
            else:
                row[-1] = 1e6 if wrong == "large" else float(wrong)  # beyond float16
        return found

    monkeypatch.setattr(Trainer, "rows", diverged)
    table = tmp_path / "people.csv"
    lines = [f"{name},folders/{name},{i}" for i, name in enumerate(("ann", "bob", "cy", "dee", "eve"))]
    table.write_text("\n".join(["id,pictures,Age", *lines]), "utf-8")
    found = train_many(table, tiny_world.base, tmp_path / "out", recipe=QUICK)
    assert found.lost == ["ann", "bob", "cy", "dee"]
    assert list(found.dataset.ids) == ["eve"]
    assert found.dataset.labels["Age"].tolist() == [4]
    found.dataset.verify()
    for name in ("eve", "dee", "cy"):
        shutil.rmtree(people / name)
    with pytest.raises(ConvergenceError, match="none"):
        train_many(people, tiny_world.base, tmp_path / "none", recipe=replace(QUICK, steps=1))
    assert names(tmp_path) == ["folders", "out", "people.csv"]


@pytest.mark.slow
def test_an_adapter_that_left_its_initialization_is_written_with_a_warning(
    tiny_world: TinyWorld, people: Path, tmp_path: Path
) -> None:
    recipe = replace(QUICK, learning_rate=1.0)
    with pytest.warns(UserWarning, match="rows"):
        train_identity(people / "ann", tiny_world.base, tmp_path / "out", recipe=recipe, reference=tiny_world.rows)
    assert (tmp_path / "out").is_dir()


@pytest.mark.slow
def test_memory_that_does_not_suffice_for_one_person_is_one_line(
    tiny_world: TinyWorld, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Trainer, batch: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Trainer, "work", full)
    with pytest.raises(OutOfMemoryError):
        train_identity(people / "ann", tiny_world.base, tmp_path / "out", recipe=QUICK)
    with pytest.raises(OutOfMemoryError), pytest.warns(UserWarning, match="memory ran out"):
        train_many(people, tiny_world.base, tmp_path / "out", recipe=QUICK, at_once=2)


# ---------------------------------------------------------------- provenance
@pytest.mark.slow
def test_the_recipe_of_a_run_for_a_dataset_has_the_datasets_rank_scale_and_modules(
    tiny_world: TinyWorld, people: Path, tmp_path: Path
) -> None:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(tiny_world.base / "unet")
    layout = ParameterLayout.from_model(unet, ("to_k", "to_out.0"), rank=2, scale=1.5)
    start = kaiming_start(layout, 0).numpy()
    write_dataset(start[None] * 1.01, tmp_path / "rows", layout=layout, start_adapter=layout.unflatten(start))
    wanted = {"rank": 2, "alpha": 3.0, "targets": ["to_k", "to_out.0"]}
    options = {"recipe": QUICK, "reference": tmp_path / "rows"}
    adapter = train_identity(people / "ann", tiny_world.base, **options)
    recipe = json.loads(adapter.metadata["w2w.recipe"])
    assert {name: recipe[name] for name in wanted} == wanted
    train_many(people, tiny_world.base, tmp_path / "many", **options)
    [record] = WeightDataset.open(tmp_path / "many").manifest.training
    assert {name: record["recipe"][name] for name in wanted} == wanted


# ---------------------------------------------------------------- class pictures
@pytest.mark.slow
def test_class_pictures_are_kept_one_by_one_and_damaged_ones_are_drawn_again(
    tiny_world: TinyWorld, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import StableDiffusionPipeline

    recipe = replace(QUICK, class_prompt="person", class_pictures=6, steps=1)
    options = {"recipe": recipe, "cache": tmp_path / "cache"}
    call, calls = StableDiffusionPipeline.__call__, []

    def stop(*args: Any, **more: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return call(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(StableDiffusionPipeline, "__call__", stop)
        with pytest.raises(KeyboardInterrupt):
            train_identity(people / "ann", tiny_world.base, tmp_path / "out", **options)
    [folder] = (tmp_path / "cache" / "class-pictures").iterdir()
    assert names(folder) == ["00000.png", "00001.png", "00002.png", "00003.png", "key.json"]
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    train_identity(people / "ann", tiny_world.base, tmp_path / "out", **options)
    assert {name: (folder / name).stat().st_mtime_ns for name in times} == times
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "00001.png").write_bytes(b"")
    (folder / "00005.png").unlink()
    train_identity(people / "ann", tiny_world.base, **options)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(DiskError, match="W2W_CACHE"):
        train_identity(people / "ann", tiny_world.base, **options | {"cache": tmp_path / "file"})


@pytest.mark.slow
def test_class_pictures_are_drawn_without_the_safety_checker(tiny_world: TinyWorld, tmp_path: Path) -> None:
    from w2w_hub.training.class_pictures import class_pictures
    from w2w_hub.training.opening import open_base

    opened = open_base(tiny_world.base, QUICK, "cpu")
    checker = object()
    opened.pipe.safety_checker = checker
    recipe = replace(QUICK, class_prompt="person", class_pictures=1)
    assert np.asarray(class_pictures(opened, recipe, tmp_path)[0]).any()
    assert opened.pipe.safety_checker is checker


def test_a_missing_person_is_named_before_the_base_model_is_opened(people: Path, tmp_path: Path) -> None:
    (people / "dee").mkdir()
    with pytest.raises(MissingPathError) as caught:
        train_many(people, tmp_path / "no-base-model", tmp_path / "out", recipe=QUICK)
    assert caught.value.path == people / "dee"


# ---------------------------------------------------------------- processes
ON_TWO = """
import sys
from w2w_hub.cli import main
if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's lists of child processes")
def test_worker_processes_end_with_the_command_and_one_that_dies_is_one_line(
    tiny_world: TinyWorld, people: Path, tmp_path: Path
) -> None:
    (tmp_path / "w2w.py").write_text(ON_TWO, "utf-8")
    words: list[object] = [sys.executable, tmp_path / "w2w.py", "train-many", people, "--base", tiny_world.base]
    words += ["--no-class-pictures", "--steps", 100_000, "--at-once", 1, "--device", "cpu", "--device", "cpu"]

    def started(out: Path) -> tuple[subprocess.Popen[str], list[int]]:
        command = [str(word) for word in (*words, "--out", out)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while len(found := [int(pid) for pid in children.read_text().split()]) < 3:  # two, and Python's tracker
            time.sleep(0.1)
            assert process.poll() is None
        return process, [pid for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    process, workers = started(tmp_path / "one")
    os.kill(workers[0], signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert (process.returncode, said.splitlines()[-1].startswith("w2w: error: a worker process died")) == (2, True)
    process, workers = started(tmp_path / "two")
    process.kill()
    process.communicate(timeout=120)
    ends = time.monotonic() + 60
    while any(_runs(pid) for pid in workers):
        assert time.monotonic() < ends
        time.sleep(0.1)


NOTICED = """
import os, sys
from pathlib import Path
from w2w_hub.cli import main
from w2w_hub.training.trainer import Trainer

def advance(self, plain=Trainer.advance):
    losses = plain(self)
    if self.step == 3:
        (Path(__file__).parent / f"{os.getpid()}.third").touch()
    return losses

Trainer.advance = advance
if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("everybody", [False, True], ids=["the command", "all processes"])
def test_a_command_on_two_devices_that_is_told_to_end_keeps_the_steps_of_both(
    tiny_world: TinyWorld, people: Path, tmp_path: Path, everybody: bool
) -> None:
    (tmp_path / "w2w.py").write_text(NOTICED, "utf-8")
    out = tmp_path / "out"
    words: list[object] = [sys.executable, tmp_path / "w2w.py", "train-many", people, "--base", tiny_world.base]
    words += ["--no-class-pictures", "--steps", 100_000, "--at-once", 2, "--device", "cpu", "--device", "cpu"]
    process = subprocess.Popen(
        [str(word) for word in (*words, "--out", out)], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while len(list(tmp_path.glob("*.third"))) < 2:
        time.sleep(0.1)
        assert process.poll() is None
    if everybody:  # as a batch system does
        os.killpg(process.pid, signal.SIGTERM)
    process.terminate()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 143
    assert said.strip().splitlines()[-1].endswith("--resume")
    assert "Traceback" not in said
    states = sorted(unfinished(out).glob("state-*.safetensors"))
    assert [int(load_file(state)["step"]) >= 3 for state in states] == [True, True]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
