"""The folder in which a build keeps its finished passes, and the checks before a build begins."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from w2w_hub import WeightDataset, WeightSpace, build_space
from w2w_hub.cli import main
from w2w_hub.errors import (
    AlreadyExistsError,
    BaseModelMismatchError,
    BusyError,
    ConvergenceError,
    DiskError,
    InvalidInputError,
    MissingPathError,
    UnsupportedFormatError,
    W2WError,
)
from w2w_hub.space import Krylov, clear_passes
from w2w_hub.space.fit.build_and_save import build_and_save, unfinished
from w2w_hub.space.fit.resume import MARK, ResumeFolder

from ..full_disk import files_of_at_most
from ..tiny_world import TinyWorld, make_base
from .population import dataset_of, decaying

PASSES = {"solver": Krylov(block=4), "directions": False}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> WeightDataset:
    return dataset_of(tmp_path_factory.mktemp("d") / "people", decaying(30, 40))


@pytest.fixture(scope="module")
def through(dataset: WeightDataset) -> WeightSpace:
    return build_space(dataset, 3, **PASSES)


def tree(folder: Path) -> dict[str, object]:
    """Everything below a folder with its contents; links are not followed."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(folder))] = content
    return found


def marked(folder: Path, recipe: object = "other") -> Path:
    """An unfinished build of ours, of other inputs."""
    kept = ResumeFolder(folder, recipe)
    kept.remember("moments", lambda: {"first": np.arange(3.0)})
    kept.release()
    return folder


def with_old_release(folder: Path) -> None:
    folder.mkdir()
    (folder / "build.json").write_text('{"key": "00"}')
    (folder / "moments.safetensors").write_bytes(b"x")


def with_link_for(name: str, target: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        marked(folder)
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return make


def with_mark(text: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / MARK).write_text(text)
        (folder / "moments.safetensors").write_bytes(b"x")

    return make


def with_file(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        marked(folder)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")

    return make


FOREIGN: dict[str, Callable[[Path], object]] = {
    "a release before the mark": with_old_release,
    "a thesis beside the mark": with_file("thesis.tex"),
    "a folder beside the mark": with_file("chapters/one.tex"),
    "another build.json": with_file("build.json"),
    "a name that is nearly ours": with_file("pass-001.safetensors.bak"),
    "a result that is a link": with_link_for("moments.safetensors", "../thesis.tex"),
    "a mark that is a link": with_link_for(MARK, "../mark"),
    "a link to a folder": lambda folder: folder.symlink_to("elsewhere"),
    "a link to nothing": lambda folder: folder.symlink_to("nowhere"),
    "a file": lambda folder: folder.write_text("mine"),
    "results without a mark": lambda folder: (marked(folder) / MARK).unlink(),
    "an empty mark": with_mark(""),
    "a list for a mark": with_mark("[]"),
    "another format": with_mark('{"format": "w2w-dataset", "key": "00"}'),
    "no key": with_mark('{"format": "w2w-build", "format_version": 1, "key": 7}'),
    "an endless mark": with_mark('{"format": "w2w-build", "format_version": 1, "key": "%s"}' % ("0" * 10_000)),
    "a later mark": with_mark('{"format": "w2w-build", "format_version": 2, "key": "00"}'),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_folder_that_is_not_an_unfinished_build_is_refused_and_left_as_it_is(
    dataset: WeightDataset, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    marked(tmp_path / "elsewhere")
    (tmp_path / "mark").write_bytes((tmp_path / "elsewhere" / MARK).read_bytes())
    FOREIGN[kind](tmp_path / "kept")
    before = tree(tmp_path)
    with pytest.raises((AlreadyExistsError, UnsupportedFormatError), match="kept"):
        build_space(dataset, 3, checkpoint=tmp_path / "kept", **PASSES)
    assert tree(tmp_path) == before


def test_what_is_in_the_way_of_making_the_folder_is_left_as_it_is(dataset: WeightDataset, tmp_path: Path) -> None:
    (tmp_path / "kept.new").mkdir()
    (tmp_path / "kept.new" / "thesis.tex").write_text("mine")
    (tmp_path / "a").write_text("a file")
    before = tree(tmp_path)
    for path, error in (("kept", AlreadyExistsError), ("a/kept", DiskError), ("k" * 300, DiskError)):
        with pytest.raises(error, match=path):
            build_space(dataset, 3, checkpoint=tmp_path / path, **PASSES)
    assert tree(tmp_path) == before


def test_files_that_came_into_the_folder_meanwhile_stay_when_it_is_cleared(
    dataset: WeightDataset, tmp_path: Path
) -> None:
    space = build_space(dataset, 3, checkpoint=tmp_path / "kept", **PASSES)
    (tmp_path / "kept" / "thesis.tex").write_text("mine")
    (tmp_path / "kept" / "covariance.safetensors").symlink_to(tmp_path / "kept" / "thesis.tex")
    clear_passes(space, tmp_path / "kept")
    assert sorted(p.name for p in (tmp_path / "kept").iterdir()) == ["covariance.safetensors", "thesis.tex"]
    assert (tmp_path / "kept" / "thesis.tex").read_text() == "mine"


def test_passes_are_kept_until_they_are_cleared(dataset: WeightDataset, through: WeightSpace, tmp_path: Path) -> None:
    space = build_space(dataset, 3, checkpoint=tmp_path / "kept", **PASSES)
    kept = tree(tmp_path / "kept")
    assert len(kept) > 2
    space.save(tmp_path / "space")
    assert tree(tmp_path / "kept") == kept
    again = build_space(dataset, 3, checkpoint=tmp_path / "kept", **PASSES)
    assert again.digest == space.digest == through.digest
    clear_passes(WeightSpace.from_pretrained(tmp_path / "space"), tmp_path / "kept")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["space"]
    clear_passes(space, tmp_path / "kept")  # they are gone, and nobody else's are touched


def test_a_folder_that_another_build_took_meanwhile_is_left_to_it(dataset: WeightDataset, tmp_path: Path) -> None:
    space = build_space(dataset, 3, checkpoint=tmp_path / "kept", **PASSES)
    build_space(dataset, 4, checkpoint=tmp_path / "kept", **PASSES)
    theirs = tree(tmp_path / "kept")
    clear_passes(space, tmp_path / "kept")
    assert tree(tmp_path / "kept") == theirs


def test_two_builds_do_not_share_a_folder_at_the_same_time(dataset: WeightDataset, tmp_path: Path) -> None:
    first = marked(tmp_path / "kept")
    held = ResumeFolder(first, "other")
    before = tree(first)
    with pytest.raises(BusyError, match="kept"):
        build_space(dataset, 3, checkpoint=first, **PASSES)
    assert tree(first) == before
    held.release()
    build_space(dataset, 3, checkpoint=first, **PASSES)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "grown"])
def test_a_damaged_result_is_computed_again(
    dataset: WeightDataset, through: WeightSpace, tmp_path: Path, damage: str
) -> None:
    build_space(dataset, 3, checkpoint=tmp_path / "kept", **PASSES)
    for file in (tmp_path / "kept").glob("*.safetensors"):
        data = bytearray(file.read_bytes())
        data[-3] ^= 1 if damage == "flipped" else 0
        data = {"cut": data[: len(data) // 2], "empty": data[:0], "grown": data + b"0"}.get(damage, data)
        file.write_bytes(data)
    again = build_space(dataset, 3, checkpoint=tmp_path / "kept", **PASSES)
    assert again.digest == through.digest


def test_a_build_that_cannot_succeed_leaves_nothing(tmp_path: Path) -> None:
    twice = dataset_of(tmp_path / "twice", np.repeat(decaying(3, 40), 5, 0))
    with pytest.raises(InvalidInputError):
        build_space(twice, 5, checkpoint=tmp_path / "kept")
    assert [p.name for p in tmp_path.iterdir()] == ["twice"]


def test_a_build_that_did_not_converge_continues_with_more_passes_or_a_looser_tolerance(
    dataset: WeightDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[str] = []
    remember = ResumeFolder.remember
    monkeypatch.setattr(
        ResumeFolder, "remember",
        lambda self, name, compute, *rest: remember(self, name, lambda: computed.append(name) or compute(), *rest),
    )  # fmt: skip
    for more in (Krylov(4, max_passes=40), Krylov(4, tolerance=0.2, max_passes=4)):
        with pytest.raises(ConvergenceError):
            build_space(dataset, 8, solver=Krylov(4, max_passes=3), directions=False, checkpoint=tmp_path / "kept")
        assert len(computed) == 4  # the moments, and three passes
        found = build_space(dataset, 8, solver=more, directions=False, checkpoint=tmp_path / "kept")
        assert len(computed) == len(set(computed))
        assert found.digest == build_space(dataset, 8, solver=more, directions=False).digest
        clear_passes(found, tmp_path / "kept")
        assert list(tmp_path.iterdir()) == []
        computed.clear()


# ---------------------------------------------------------------- a full disk
def test_a_full_disk_is_one_line_and_the_same_call_continues(
    dataset: WeightDataset, through: WeightSpace, tmp_path: Path
) -> None:
    out = tmp_path / "space"
    for size in (100, 600, 1500, 2500):  # while the folder is made, passes are kept, and the space is saved
        with files_of_at_most(size), pytest.raises(DiskError, match="space") as caught:
            build_and_save(dataset, out, 3, **PASSES)
        assert "\n" not in str(caught.value)
        assert not out.exists()
    assert len(list(unfinished(out).glob("*.safetensors"))) > 1
    assert not list(unfinished(out).glob("*partial"))
    assert build_and_save(dataset, out, 3, **PASSES).digest == through.digest
    assert [p.name for p in tmp_path.iterdir()] == ["space"]


# ---------------------------------------------------------------- before the build
def w2w(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(word) for word in words])
    return result.exit_code, result.stderr


def never(*_: object, **__: object) -> None:
    raise AssertionError("a build was begun")


def test_a_base_model_that_does_not_fit_is_told_before_anything_is_computed(
    tiny_world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = WeightDataset.open(tiny_world.rows)
    make_base(tmp_path / "foreign", seed=5)
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr("w2w_hub.space.fit.build.find_components", never)
    for name, error in (("foreign", BaseModelMismatchError), ("empty", MissingPathError), ("typo", MissingPathError)):
        with pytest.raises(error, match=name):
            build_and_save(rows, tmp_path / "space", 4, base=tmp_path / name)
        code, told = w2w("build", tiny_world.rows, "--k", 4, "--base", tmp_path / name, "--out", tmp_path / "space")
        assert (code, len(told.strip().splitlines())) == (2, 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "foreign"]


def test_an_output_that_cannot_be_made_is_told_before_anything_is_computed(
    dataset: WeightDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("w2w_hub.space.fit.build.find_components", never)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "link", "file/space", "s" * 300):
        with pytest.raises(W2WError, match=name.split("/")[0]):
            build_and_save(dataset, tmp_path / name, 3, **PASSES)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "link"]


def test_an_output_in_a_folder_that_is_not_there_yet_is_made(dataset: WeightDataset, tmp_path: Path) -> None:
    code, told = w2w("build", dataset.path, "--k", 3, "--out", tmp_path / "new" / "space")
    assert code == 0, told
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["space"]


def test_a_space_that_is_there_is_taken_for_a_finished_one_only_of_the_same_call(
    dataset: WeightDataset, tmp_path: Path
) -> None:
    out = tmp_path / "space"
    first = build_and_save(dataset, out, 3, **PASSES)
    with pytest.raises(AlreadyExistsError):
        build_and_save(dataset, out, 3, **PASSES)  # it was finished
    recipe = json.loads((out / "manifest.json").read_text())["recipe"]
    recipe.pop("constant_numbers")
    others = ({"version": "0.2.0"}, {"name": "other"}, {"solver": Krylov(4, seed=1)}, {"solver": Krylov(5)})
    for k, options in ((4, {}), *((3, other) for other in others)):
        marked(unfinished(out), recipe)  # as if killed before they were removed
        before = tree(tmp_path)
        with pytest.raises(AlreadyExistsError):
            build_and_save(dataset, out, k, **{**PASSES, **options})
        assert tree(tmp_path) == before
    again = build_and_save(dataset, out, 3, **PASSES)
    assert again == first
    assert [p.name for p in tmp_path.iterdir()] == ["space"]
