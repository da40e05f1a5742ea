"""Outputs of every command: checked before the work, replaced only with --force, and never something else's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from w2w_hub import ParameterLayout, WeightDataset, WeightSpace, build_space, write_adapter
from w2w_hub.cli import main
from w2w_hub.dataset.manifest import Compatibility

LOCK = Path(__file__).parents[1] / "data" / "archives" / "repository-1-checksum-w2w_hub-0.1.0" / "w2w.lock"


def w2w(*words: object, status: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == status, (words, result.output, result.exception)
    if status == 2:
        assert len(result.stderr.splitlines()) == 1
    return result


@pytest.fixture
def here(
    make_dataset: Callable[..., WeightDataset], layout: ParameterLayout, tmp_path: Path, saved: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:  # fmt: skip
    """A working folder with a dataset `people`, a space of it, an adapter, and a folder and a file of someone else."""
    dataset = make_dataset(compatibility=Compatibility("org/base", None, "seed-0"))
    build_space(dataset, 2, directions=False).save(tmp_path / "space")
    write_adapter(layout.unflatten(np.ones(layout.size, np.float32)), tmp_path / "lora")
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "diary.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    return tmp_path


FOLDERS: dict[str, list[str]] = {
    "pack": ["lora"],
    "build": ["people", "--k", "1"],
    "rebuild": ["space", "--dataset", "people"],
    "report": ["space"],
    "sample": ["space"],
    "export": ["space", "p1"],
    "convert": ["lora", "--to", "diffusers"],
    "export-slider": ["space", "--attribute", "PC1", "--to", "peft"],
}
FILES: dict[str, tuple[str, list[str]]] = {
    "edit": ("out.json", ["space", "p1", "PC1=1"]),
    "convert": ("out.safetensors", ["lora", "--to", "kohya"]),
    "export-slider": ("out.safetensors", ["space", "--attribute", "PC1", "--to", "kohya"]),
    "atlas": ("out.parquet", ["space"]),
}


@pytest.mark.parametrize("command", FOLDERS)
def test_a_folder_is_replaced_with_force_if_this_command_made_all_of_it(command: str, here: Path) -> None:
    words = [command, *FOLDERS[command], "--out", "out"]
    w2w(*words)
    before = {path: path.stat().st_ino for path in Path("out").rglob("*") if path.is_file()}
    assert "out" in w2w(*words, status=2).stderr
    w2w(*words, "--force")
    assert {path.stat().st_ino for path in before} != set(before.values())
    if command != "pack":  # the files of a dataset are replaced one by one, what it does not list stays
        Path("out", "diary.txt").write_text("mine")
        assert "diary.txt" in w2w(*words, "--force", status=2).stderr
    for other in ("else", "people", "lora/adapter_config.json"):
        if command != "pack" or other != "people":
            w2w(command, *FOLDERS[command], "--out", other, "--force", status=2)
    assert Path("else", "diary.txt").read_text() == "mine"
    WeightDataset.open("people").verify()
    Path("link").symlink_to("out")
    w2w(command, *FOLDERS[command], "--out", "link", "--force", status=2)
    assert Path("link").is_symlink()


@pytest.mark.parametrize("command", FILES)
def test_a_file_is_replaced_with_force_and_a_folder_or_link_is_not(command: str, here: Path) -> None:
    name, words = FILES[command]
    w2w(command, *words, "--out", name)
    w2w(command, *words, "--out", name, status=2)
    Path(name).write_text("old")
    w2w(command, *words, "--out", name, "--force")
    assert Path(name).read_bytes() != b"old"
    suffix = Path(name).suffix
    Path(f"folder{suffix}").mkdir()
    Path(f"link{suffix}").symlink_to("else/diary.txt")
    for other in (f"folder{suffix}", f"link{suffix}"):
        w2w(command, *words, "--out", other, "--force", status=2)
    assert Path("else", "diary.txt").read_text() == "mine"


def test_points_of_another_name_are_not_lost_when_a_folder_of_samples_is_replaced(here: Path) -> None:
    w2w("sample", "space", "--out", "points")
    w2w("edit", "space", "p1", "PC1=1", "--out", "points/mine.json")
    assert "mine.json" in w2w("sample", "space", "--out", "points", "--force", status=2).stderr
    Path("points/mine.json").unlink()
    w2w("sample", "space", "-n", "2", "--kind", "safetensors", "--out", "points", "--force")
    assert sorted(path.name for path in Path("points").iterdir()) == [
        "sample-000.safetensors",
        "sample-001.safetensors",
    ]


def test_a_space_is_not_replaced_by_its_own_rebuild_which_has_no_base_model(here: Path) -> None:
    w2w("rebuild", "space", "--dataset", "people", "--out", "space", "--force", status=2)
    WeightSpace.from_pretrained("space")


def test_an_archive_is_replaced_with_force_and_another_bag_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = pytest.importorskip("w2w_hub.release")
    cache = {"cache_dir": tmp_path / "cache"}
    release.restore(LOCK, LOCK.parent, **cache)
    out = release.archive(LOCK, tmp_path / "bag", **cache)
    release.archive(LOCK, out, overwrite=True, **cache)
    (out / "bag-info.txt").write_text("Bagging-Software-Agent: another\n")
    with pytest.raises(FileExistsError):
        release.archive(LOCK, out, overwrite=True, **cache)


WRITING = {
    name: next(p for p in command.params if "--out" in p.opts)
    for name, command in main.commands.items()
    if any("--out" in p.opts for p in command.params)
}


@pytest.mark.parametrize("command", WRITING)
def test_an_output_that_cannot_be_written_is_noticed_before_the_work(
    command: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*args: object, **options: object) -> None:
        raise AssertionError("the work began")

    for work in ("space.fit.build_and_save.build_space", "cli.identities.open_pipeline", "cli.sheets.open_pipeline"):
        monkeypatch.setattr(f"w2w_hub.{work}", started)
    Path("file.png").write_text("x")
    words: dict[str, list[str]] = {
        "invert": ["space", "file.png"], "render": ["space", "p1"], "grid": ["space", "p1", "--attribute", "PC1"],
        "directions": ["space", "--entanglement"], "demo": [], "pin": ["org/space@v1.0.0"], "archive": [str(LOCK)],
        "edit": FILES["edit"][1], "train": ["file.png", "--base", "."], "train-many": [".", "--base", "."],
        "init": ["people"], "import-w2w": ["people"], "review": ["org/people#1", "--base", "base"],
        "calibrate": ["space", "--judge", "w2w_hub.demo.measure:read_avatars"], "fit-encoder": ["space"],
        "space-app": ["org/space@v1.0.0"], "atlas": ["space"],
        "slider": ["space", "--name", "glasses", "--positive", "glasses", "--negative", "plain"],
    }  # fmt: skip
    picture = {"render": ".png", "grid": ".gif", "directions": ".png", "edit": ".json", "review": ".png"}.get(
        command, ""
    )
    result = w2w(command, *words.get(command, FOLDERS.get(command, [])), "--out", f"file.png/out{picture}", status=2)
    assert "file.png/out" in result.stderr


# ---------------------------------------------------------------- help and usage
def test_every_option_has_a_help_text_and_every_output_can_be_forced() -> None:
    for name, command in main.commands.items():
        options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
        assert not [option.opts for option in options if not option.help], name
        assert not {"--out"} & {o for p in options for o in p.opts} or "--force" in {o for p in options for o in p.opts}


def test_the_summaries_of_the_commands_are_whole_sentences() -> None:
    shown = w2w("--help").output
    assert "..." not in shown.partition("\n")[2]
    for command in main.commands.values():
        assert " ".join(command.get_short_help_str(1000).split()) in " ".join(shown.split())


@pytest.mark.parametrize(
    ("words", "subject"),
    [
        (["edit", "space", "p1", "--out", "x.json"], "STRENGTHS"),
        (["edit", "space", "p1", "Beard=two", "--out", "x.json"], "Beard=two"),
        (["sample", "space", "--count", "0", "--out", "x"], "--count"),
        (["grid", "space", "p1", "--attribute", "A", "--strengths", "a,b", "--out", "x.png"], "a,b"),
        (["render", "space", "p1", "--guidance", "-5", "--out", "x.png"], "--guidance"),
        (["render", "space", "p1", "--prompt", " ", "--out", "x.png"], "--prompt"),
        (["nonsense"], "nonsense"),
    ],
)
def test_a_usage_error_is_one_line_with_its_subject_and_the_help_to_read(words: list[str], subject: str) -> None:
    error = w2w(*words, status=2).stderr
    assert subject in error
    assert f"w2w{' ' + words[0] if words[0] in main.commands else ''} --help" in error


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "w2w_hub", "--version"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("w2w")


# ---------------------------------------------------------------- Ctrl-C
def test_an_interrupted_command_is_status_130_and_names_itself(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("w2w_hub.space.report.figures", interrupted)
    result = w2w("report", "space", "--out", "my report", status=130)
    assert result.stderr.strip().endswith("w2w report space --out 'my report'")
    assert not Path("my report").exists()


def test_an_interrupted_pack_keeps_finished_parts_and_says_so(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from w2w_hub.dataset.changes import commit

    write = commit.write_labels

    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commit, "write_labels", interrupted)
    result = w2w("pack", "lora", "--out", "more", status=130)
    assert "kept" in result.stderr
    monkeypatch.setattr(commit, "write_labels", write)
    w2w("pack", "lora", "--out", "more")
    assert len(WeightDataset.open("more")) == 1


WAITING = """
import signal, sys, time, w2w_hub.space.points
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup ignores
def wait(*_, **__):
    print("waiting", file=sys.stderr, flush=True)
    time.sleep(60)
w2w_hub.space.points.save_point = wait
from w2w_hub.cli import main
main(["edit", "space", "p1", "PC1=1", "--out", "x.json"])
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_running_command_that_is_told_to_end_is_one_line_and_no_traceback(
    here: Path, number: signal.Signals, status: int
) -> None:
    running = subprocess.Popen([sys.executable, "-c", WAITING], stderr=subprocess.PIPE, text=True, cwd=here)
    assert running.stderr is not None
    assert running.stderr.readline() == "waiting\n"
    running.send_signal(number)
    lines = [line for line in running.stderr.read().splitlines() if line]
    assert running.wait(30) == status
    assert len(lines) == 1
    assert lines[0].endswith("w2w edit space p1 PC1=1 --out x.json")
    assert not os.path.lexists(here / "x.json")


# ---------------------------------------------------------------- directions and rows
def test_a_row_that_is_named_by_its_id_is_not_among_its_nearest_rows(here: Path) -> None:
    space = WeightSpace.from_pretrained("space")
    (itself, cosine), *others = space.nearest(space.row("p1"), 3)
    assert (itself, cosine) == ("p1", pytest.approx(1))
    assert space.nearest("p1", 2) == others
    space.row("p1").save("p1.json")
    for words in (["p1"], ["p1", "--dataset", "people"]):
        shown = w2w("nearest", "space", *words, "-n", "2").stdout.splitlines()
        assert [line.split()[0] for line in shown] == [name for name, _ in others]
        found = json.loads(w2w("nearest", "space", *words, "-n", "2", "--json").stdout)
        assert [row["row"] for row in found] == [name for name, _ in others]
    assert w2w("nearest", "space", "p1.json", "-n", "1").stdout.split()[0] == "p1"
