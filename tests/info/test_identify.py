"""`w2w info` names what anything is, and the commands that it prints run."""

from __future__ import annotations

import json
import os
import pickle
import shlex
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import save_file

from tests.space.encoders import random_encoder
from w2w_hub import ParameterLayout, build_space, identify, write_adapter, write_dataset
from w2w_hub.cli import main
from w2w_hub.dataset.manifest import Compatibility
from w2w_hub.errors import (
    CorruptFileError,
    InvalidInputError,
    MissingPathError,
    UnsafePathError,
    UnsupportedFormatError,
    W2WError,
)
from w2w_hub.info import Info
from w2w_hub.release.contribution.batch import pack_batch

LOCK = Path(__file__).parents[1] / "data" / "archives" / "repository-1-checksum-w2w_hub-0.1.0" / "w2w.lock"


def write_world(folder: Path, layout: ParameterLayout) -> None:
    """One of everything that this package, or a reader of it, has on disk."""
    from PIL import Image

    rows = np.random.default_rng(0).normal(size=(24, layout.size)).astype(np.float32)
    ids = [f"p{i}" for i in range(24)]
    labels = pd.DataFrame({"Beard": rows[:, 0] > 0, "split": ["train"] * 18 + ["test"] * 6}, index=ids)
    people = write_dataset(
        rows, folder / "people", ids=ids, labels=labels, layout=layout,
        compatibility=Compatibility(None, None, "seed-0"),
    )  # fmt: skip
    space = build_space(people, 3)
    space.save(folder / "space")
    space.sample(2, seed=0)[0].save(folder / "points" / "one.json")
    space.sample(2, seed=0)[1].save(folder / "points" / "two.json")
    space.sample(1, seed=1)[0].save(folder / "point.safetensors")
    random_encoder(space).save(folder / "encoder.safetensors")
    for name in ("a", "b"):
        write_adapter(layout.unflatten(rows[0]), folder / "loras" / name)
    write_adapter(layout.unflatten(rows[0]), folder / "lora")
    write_adapter(layout.unflatten(rows[0]), folder / "written", ("kohya",))
    (folder / "written" / "kohya_lora.safetensors").rename(folder / "kohya.safetensors")
    (folder / "written").rmdir()
    _, files = pack_batch(["new"], rows[:1], [{"source": "me"}], {}, layout)
    for path, data in files.items():
        (folder / "batch").mkdir(exist_ok=True)
        (folder / "batch" / Path(path).name).write_bytes(data)
    (folder / "bundle" / "data").mkdir(parents=True)
    (folder / "bundle" / "bagit.txt").write_text("BagIt-Version: 1.0\n")
    shutil.copy(LOCK, folder / "bundle" / "data" / "w2w.lock")
    shutil.copy(LOCK, folder / "w2w.lock")
    (folder / "weights2weights" / "files").mkdir(parents=True)
    for name in ("weights2weights/files/V.pt", "some.pt"):
        (folder / name).write_bytes(pickle.dumps({"a": 1}))
    (folder / "labels.csv").write_text("id,Beard\np0,true\n")
    (folder / "labels.jsonl").write_text('{"id": "p0", "Beard": true}\n')
    pd.DataFrame({"id": ["p0"], "Beard": [True]}).to_parquet(folder / "labels.parquet")
    pd.DataFrame({"id": ["p0"], "x": [0.0], "y": [0.0], "neighbors": [None]}).to_parquet(folder / "atlas.parquet")
    (folder / "app").mkdir()
    (folder / "app" / "app.py").write_text("raise SystemExit")
    (folder / "app" / "README.md").write_text("---\ntitle: people\nsdk: gradio\n---\n")
    (folder / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "photos" / "1.png")
    Image.new("RGB", (8, 8)).save(folder / "face.webp")
    (folder / "base" / "unet").mkdir(parents=True)
    (folder / "base" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (folder / ".person.w2w-training").mkdir()
    (folder / ".person.w2w-training" / "plan.json").write_text('{"steps": 10}')
    (folder / "pointer.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    save_file({"<token>": np.zeros(768, np.float32)}, folder / "token.safetensors")
    save_file({"x": np.zeros(3, np.float32)}, folder / "tensors.safetensors")
    (folder / "notes.txt").write_text("mine")
    (folder / "empty").mkdir()
    (folder / "report").mkdir()
    for name in ("report.html", "report.json"):
        (folder / "report" / name).write_text("{}")


@pytest.fixture
def world(tmp_path: Path, layout: ParameterLayout, saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: one of everything, to be changed."""
    folder = shutil.copytree(saved("one of everything", lambda place: (place.mkdir(), write_world(place, layout))),
                             tmp_path / "here")  # fmt: skip
    monkeypatch.chdir(folder)
    return Path(folder)


def w2w(*words: str, status: int | None = 0) -> Result:
    result = CliRunner().invoke(main, list(words))
    assert isinstance(result.exception, (SystemExit, type(None))), (words, result.exception)
    assert status is None or result.exit_code == status, (words, result.output)
    return result


KINDS = {
    "people": "dataset", "space": "weight space", "points": "points", "points/one.json": "point",
    "point.safetensors": "point", "encoder.safetensors": "encoder", "loras": "adapters", "lora": "adapter",
    "lora/adapter_model.safetensors": "adapter", "kohya.safetensors": "adapter", "batch": "contribution",
    "batch/rows.safetensors": "contribution", "bundle": "archive", "w2w.lock": "lock",
    "weights2weights": "weights2weights files", "weights2weights/files/V.pt": "weights2weights file",
    "some.pt": "pickle", "labels.csv": "labels", "labels.jsonl": "labels",
    "labels.parquet": "labels", "atlas.parquet": "atlas", "photos": "pictures", "face.webp": "picture",
    "base": "base model", ".person.w2w-training": "unfinished work", "pointer.safetensors": "Git LFS pointer",
    "token.safetensors": "unknown", "tensors.safetensors": "unknown", "notes.txt": "unknown", "empty": "unknown",
    "people/manifest.json": "file of a dataset", "space/space.safetensors": "file of a weight space",
    "report": "report", "app": "Hugging Face Space", ".": "folder",
}  # fmt: skip
NEEDS_THE_HUB = ("w2w restore", "w2w verify w2w.lock", "w2w verify bundle", "w2w archive", "w2w import-w2w")


def test_everything_has_its_kind_and_the_next_commands_run_as_they_are_printed(world: Path) -> None:
    found = {name: identify(name) for name in KINDS}
    assert {name: info.kind for name, info in found.items()} == KINDS
    steps = {step.command for info in found.values() for step in info.steps}
    assert len(steps) > 20
    run = {step for step in steps if not step.startswith(NEEDS_THE_HUB)}
    for step in sorted(run):
        assert step in w2w("info", next(n for n, i in found.items() if step in [s.command for s in i.steps])).stdout
        words = shlex.split(step)
        before = [Path(word) for option, word in pairwise(words) if option == "--out"]
        w2w(*words[1:])
        for path in before:
            shutil.rmtree(path) if path.is_dir() else path.unlink()  # each is for the state that was looked at


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["cloneofsimo", "diffusers-attn-processor", "kohya", "lycoris", "peft-unet-r4-alpha16"]
)
def test_the_commands_for_real_adapters_run(name: str, real_lora: Callable[[str], Path], world: Path) -> None:
    for file in sorted(real_lora(name).glob("*.safetensors")):
        steps = identify(file).steps
        assert [step.command.split()[1] for step in steps] == ["inspect", "convert"]
        for step in steps:
            w2w(*shlex.split(step.command)[1:])


def test_an_output_that_is_there_is_not_named_again(world: Path) -> None:
    steps = [step.command for step in identify("people").steps]
    assert any("--out space-2" in step for step in steps)


def test_a_script_reads_the_same_and_the_status_says_whether_it_is_known(world: Path) -> None:
    for name, kind in KINDS.items():
        done = w2w("info", name, "--json", status=None)
        told = json.loads(done.stdout)
        assert told["kind"] == kind
        assert done.exit_code == (1 if kind == "unknown" else 0)
        assert set(told) == {"path", "kind", "summary", "facts", "warnings", "hints", "steps"}


def test_a_point_names_its_weight_space_only_if_it_is_that_one(world: Path) -> None:
    assert identify("points/one.json").facts["weight space"] == "space"
    shutil.move("space", "elsewhere")
    assert identify("points/one.json").facts["weight space"] == "elsewhere"
    Path("deeper").mkdir()
    shutil.move("elsewhere", "deeper/space")  # as in the demo's folder
    assert identify("points/one.json").facts["weight space"] == "deeper/space"
    shutil.rmtree("deeper")
    alone = identify("points/one.json")
    assert "weight space" not in alone.facts
    assert not alone.steps
    assert alone.hints


def test_nothing_is_opened_that_could_run_and_no_link_is_followed(world: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    for name in ("some.pt", "weights2weights/files/V.pt", "a.ckpt", "b.bin", "c.pkl"):
        Path(name).write_bytes(pickle.dumps(Bomb()))
        assert identify(name).warnings
    Path("dir").mkdir()
    Path("dir/x.pt").write_bytes(pickle.dumps(Bomb()))
    identify("dir")
    assert not (tmp_path / "exploded").exists()
    Path("linked").mkdir()
    for name in ("manifest.json", "model.safetensors", "plan.json"):
        Path("linked", name).symlink_to(Path("people" if name == "manifest.json" else "lora").absolute())
    with pytest.raises(UnsafePathError):
        identify("linked")
    os.mkfifo("pipe")
    assert identify("pipe").kind == "unknown"
    Path("nowhere").symlink_to("gone")
    with pytest.raises(MissingPathError):
        identify("nowhere")


def test_a_large_or_deep_folder_is_looked_at_in_part(world: Path) -> None:
    Path("many").mkdir()
    for number in range(2500):
        Path("many", f"{number}.txt").touch()
    deep = Path("deep", *"abcdefgh")
    deep.mkdir(parents=True)
    shutil.copytree("lora", deep / "lora")
    assert identify("many").kind == "unknown"
    assert identify("deep").kind == "unknown"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda data: data.update(format_version=99), UnsupportedFormatError),
        (lambda data: data.update(files={"../x": {"sha256": "0" * 64, "size": 1}}), CorruptFileError),
        (lambda data: data.update(layout=None), W2WError),
        (lambda data: data.update(recipe={"dataset_revision": "x", "rows": "x"}), W2WError),
    ],
)
@pytest.mark.parametrize("name", ["people", "space"])
def test_a_damaged_or_newer_folder_is_one_line(
    world: Path, name: str, change: Callable[[dict[str, object]], None], error: type[W2WError]
) -> None:
    file = Path(name, "manifest.json")
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    done = w2w("info", name, status=None)
    if done.exit_code != 0:  # of a weight space no layout is needed to say what it is
        assert done.exit_code == 2
        assert len(done.stderr.splitlines()) == 1
        with pytest.raises(error):
            identify(name)


def test_a_change_that_waits_to_be_put_in_place_is_named_with_its_repair(world: Path) -> None:
    from w2w_hub.store import commit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commit, "_finish", lambda folder: False)  # as if the process had been killed right after
        w2w("remove", "people", "p1", status=None)
    found = identify("people")
    assert found.facts["rows"] == 23
    assert found.warnings
    assert found.steps[0].command == "w2w repair people"
    w2w("repair", "people")
    assert not identify("people").warnings


@pytest.mark.parametrize(
    "name", ["w2w.lock", "points/one.json", "encoder.safetensors", "lora/adapter_model.safetensors"]
)
def test_a_file_that_is_cut_off_or_of_a_later_version_is_not_taken_for_another_kind(world: Path, name: str) -> None:
    data = Path(name).read_bytes()
    if name.endswith((".lock", ".json")):
        Path(name).write_bytes(data.replace(b'"format_version": 1', b'"format_version": 99'))
        with pytest.raises(UnsupportedFormatError):
            identify(name)
    Path(name).write_bytes(data[: len(data) // 2])
    try:
        kind = identify(name).kind
    except W2WError:
        kind = "unknown"
    assert kind == "unknown"


@pytest.mark.parametrize("text", ["[]", "{", '{"name": "web app"}', '{"format": "theirs"}', ""])
def test_a_manifest_of_something_else_makes_no_dataset_of_a_folder(world: Path, text: str) -> None:
    Path("theirs").mkdir()
    Path("theirs", "manifest.json").write_text(text)
    assert identify("theirs").kind == "unknown"
    Path("people", "manifest.json").write_text(text)
    with pytest.raises(W2WError):
        identify("people")


@pytest.mark.parametrize("what", ["nothing-of-this-name", "a/b/c", "x" * 5000, "nul\0l"])
def test_what_is_not_there_is_one_line(world: Path, what: str) -> None:
    with pytest.raises(W2WError) as raised:
        identify(what)
    assert isinstance(raised.value, (MissingPathError, InvalidInputError))


def test_it_is_short_in_a_notebook_too(world: Path) -> None:
    assert isinstance(identify("space"), Info)
    assert len(repr(identify("space"))) <= 403


def test_a_file_that_cannot_be_read_is_one_line() -> None:
    if not os.path.exists("/proc/self/mem"):
        pytest.skip("there is no /proc/self/mem, a regular file that cannot be read")
    with pytest.raises(MissingPathError):
        identify("/proc/self/mem")


def test_a_folder_is_a_demo_only_by_what_its_journal_says(tmp_path: Path) -> None:
    for content in ("{", '{"format": "theirs"}', '{"format": 3}'):
        (tmp_path / "demo.json").write_text(content)
        assert identify(tmp_path).kind == "unknown"
    (tmp_path / "demo.json").unlink()
    (tmp_path / "demo.json").symlink_to("/dev/zero")
    assert identify(tmp_path).kind == "unknown"


def test_a_page_that_a_command_wrote_is_known(world: Path) -> None:
    w2w("atlas", "space", "--no-pictures", "--html", "map.html")
    assert identify("map.html").kind == "page"
    Path("other.html").write_text("<!doctype html>")
    assert identify("other.html").kind == "unknown"
