"""Packing many checkpoints: in parallel, on a cluster, continued after a kill, with all problems told at once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.numpy import load_file, save_file

import w2w_hub
from w2w_hub import ParameterLayout, WeightDataset, pack_adapters, read_adapter, write_adapter
from w2w_hub.dataset.changes import sources
from w2w_hub.dataset.changes.templates import Templates
from w2w_hub.errors import BusyError, DiskError, InvalidInputError, LayoutMismatchError, W2WError
from w2w_hub.lora.adapter import Target
from w2w_hub.store import commit as state
from w2w_hub.store import locks

BLOCK = "mid_block.attentions.0.transformer_blocks.0.attn1"
LAYOUT = ParameterLayout({Target("unet", f"{BLOCK}.{n}"): (2, 6, 7) for n in ("to_q", "to_v")}, 3.0)


@pytest.fixture
def loras(tmp_path):
    """Write n random PEFT folders."""

    def write(n: int, prefix: str = "l") -> list[Path]:
        rng = np.random.default_rng(len(prefix))
        paths = [tmp_path / "loras" / f"{prefix}{i:02d}" for i in range(n)]
        for path in paths:
            write_adapter(LAYOUT.unflatten(rng.normal(size=LAYOUT.size)), path, ("peft",))
        return paths

    return write


def spoil(lora: Path, change) -> None:
    """Change the tensors of a PEFT folder in place."""
    file = lora / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


# ------------------------------------------------------------------ engines
@pytest.mark.slow
def test_processes_write_the_same_bytes_as_one(loras, tmp_path):
    paths = loras(9)
    table = pd.DataFrame({"id": [p.name for p in paths], "split": ["a", "b", "a"] * 3})
    one = pack_adapters(paths, tmp_path / "one", labels=table, shard_size=1000, name="people")
    two = pack_adapters(paths, tmp_path / "two", labels=table, shard_size=1000, name="people", workers=2)
    assert one.geometry.shards > 2
    assert one.manifest == two.manifest
    two.verify()


def test_a_dask_cluster_writes_the_same_bytes(loras, tmp_path):
    distributed = pytest.importorskip("distributed")
    paths = loras(9)
    one = pack_adapters(paths, tmp_path / "one", shard_size=1000, name="people")
    options = {"n_workers": 1, "processes": False, "dashboard_address": None, "protocol": "tcp"}
    with distributed.LocalCluster(**options) as cluster:
        assert cluster.scheduler_address.startswith("tcp://")
        two = pack_adapters(paths, tmp_path / "two", shard_size=1000, name="people", dask=cluster.scheduler_address)
        spoil(paths[3], lambda t: next(iter(t.values())).fill(np.nan))
        with distributed.Client(cluster) as client, pytest.raises(InvalidInputError, match="3"):
            pack_adapters(paths, tmp_path / "bad", shard_size=1000, dask=client)
    assert one.manifest == two.manifest


def test_a_cluster_that_does_not_answer_is_an_error_with_what_to_do(loras, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    real = distributed.Client
    monkeypatch.setattr(distributed, "Client", lambda address, **o: real(address, **(o | {"timeout": "1s"})))
    with pytest.raises(W2WError, match=r"tcp://127.0.0.1:9"):
        pack_adapters(loras(2), tmp_path / "d", dask="tcp://127.0.0.1:9")
    assert not (tmp_path / "d").exists()


# ----------------------------------------------------------------- resuming
KILLED = """
import os, sys, signal
from pathlib import Path
import w2w_hub
from w2w_hub.dataset.changes import matrix_files
real, done = matrix_files._note, []
def noted(*a):
    real(*a)
    done.append(a)
    if len(done) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
matrix_files._note = noted
w2w_hub.pack_adapters(sorted(Path(sys.argv[1]).iterdir()), sys.argv[2], shard_size=1000)
"""


def killed_pack(loras: Path, out: Path) -> Path:
    """A pack that was killed after two shards; the folder of what it left."""
    command = [sys.executable, "-c", KILLED, str(loras), str(out)]
    assert subprocess.run(command, cwd=Path(w2w_hub.__file__).parents[1], check=False).returncode == -signal.SIGKILL
    return state.staging_folder(out)


def test_a_killed_pack_continues_and_finished_shards_are_not_written_again(loras, tmp_path):
    paths = loras(10)
    for path, base in zip(
        paths, ["org/other", *["org/base"] * 9], strict=True
    ):  # the first shard knows that they differ
        config = path / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": base}))
    left = killed_pack(tmp_path / "loras", tmp_path / "people")
    with pytest.raises(w2w_hub.errors.MissingPathError, match="people"):
        WeightDataset.open(tmp_path / "people")
    before = {p: p.stat() for p in left.rglob("weights/c/*/0")}
    assert len(before) >= 2
    with pytest.warns(UserWarning, match="continuing"):
        ds = pack_adapters(paths, tmp_path / "people", shard_size=1000)
    for path, stat in list(before.items())[:2]:
        now = (ds.path / path.relative_to(left)).stat()
        assert (now.st_ino, now.st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)
    ds.verify()
    whole = pack_adapters(paths, tmp_path / "whole", shard_size=1000, name="people")
    assert ds.manifest == whole.manifest
    assert ds.manifest.compatibility.base_model is None
    assert not left.exists()


@pytest.mark.parametrize("same_size", [False, True])
def test_a_checkpoint_that_changed_since_the_kill_is_read_again(loras, tmp_path, same_size):
    paths = loras(10)
    killed_pack(tmp_path / "loras", tmp_path / "people")
    if same_size:
        with open(paths[0] / "adapter_model.safetensors", "r+b") as file:
            file.seek(-4, os.SEEK_END)
            file.write(np.float32(0.5).tobytes())
    else:
        spoil(paths[0], lambda t: next(iter(t.values())).fill(0.5))
    ds = pack_adapters(paths, tmp_path / "people", shard_size=1000)
    np.testing.assert_array_equal(ds[0], LAYOUT.flatten(read_adapter(paths[0])))
    ds.verify()


def test_what_a_kill_left_is_not_mixed_into_another_pack(loras, tmp_path):
    paths = loras(10)
    killed_pack(tmp_path / "loras", tmp_path / "people")
    ds = pack_adapters(paths[4:6], tmp_path / "people", dtype="float16", shard_size="1MB")
    ds.verify()
    assert len(ds) == 2
    assert not w2w_hub.dataset.check(ds.path).unlisted


# ----------------------------------------------------------------- problems
def test_everything_that_is_wrong_is_told_at_once_and_nothing_is_written(loras, layout, tmp_path):
    paths = loras(6)
    spoil(paths[1], lambda t: next(iter(t.values())).fill(np.nan))
    write_adapter(layout.unflatten(np.ones(layout.size)), tmp_path / "odd", ("peft",))
    twin = tmp_path / "twin" / "l00"
    write_adapter(LAYOUT.unflatten(np.ones(LAYOUT.size)), twin, ("peft",))
    table = pd.DataFrame({"id": ["l00", "l01", "l02", "l03", "l04", "ghost"], "Age": [1, 2, 3, 4, float("inf"), 6]})
    with pytest.raises(InvalidInputError) as caught:
        pack_adapters([*paths, tmp_path / "odd", twin], tmp_path / "people", labels=table)
    told = str(caught.value)
    assert told.startswith("6 problems")
    for part in (
        "(1) row id 'l00'", "2 rows have no labels, the first is 'l05'", "'ghost'",
        "'Age'", "l01", "odd does not fit the layout",
    ):  # fmt: skip
        assert part in told, (part, told)
    assert "\n" not in told
    assert [p.name for p in tmp_path.iterdir() if "people" in p.name] == []


def test_problems_of_one_kind_keep_their_type_and_many_are_counted(loras, layout, tmp_path):
    good = loras(1)
    odd = [tmp_path / f"odd{i:02d}" for i in range(25)]
    for path in odd:
        write_adapter(layout.unflatten(np.ones(layout.size)), path, ("peft",))
    with pytest.raises(LayoutMismatchError, match=r"25 .*\(20\).* 5 more"):
        pack_adapters([*good, *odd], tmp_path / "people")


# ---------------------------------------------------------------- templates
def test_like_checkpoints_are_read_by_byte_range_and_give_the_same_rows(loras, tmp_path, monkeypatch):
    paths = loras(8)
    read = []
    monkeypatch.setattr(sources, "read_adapter", lambda p: read.append(p) or read_adapter(p))
    ds = pack_adapters(paths, tmp_path / "people")
    assert read == paths[:1]
    for path in paths:
        np.testing.assert_array_equal(ds[path.name], LAYOUT.flatten(read_adapter(path)))


@pytest.mark.parametrize("kind", ["alpha in the config", "alpha tensor", "half", "another name", "NaN", "zeros first"])
def test_what_is_not_quite_alike_is_read_properly(loras, tmp_path, kind):
    paths = loras(4)
    odd = paths[2]
    if kind == "alpha in the config":
        config = json.loads((odd / "adapter_config.json").read_text())
        (odd / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 12}))
    elif kind == "alpha tensor":
        name = f"base_model.model.{BLOCK}.to_q.alpha"
        for path in paths:
            spoil(path, lambda t: t.update({name: np.full((), 6, np.float32)}))
        spoil(
            odd,
            lambda t: t.update({f"base_model.model.{BLOCK}.to_q.alpha": np.full((), 99, np.float32)}),
        )
    elif kind == "half":
        spoil(odd, lambda t: t.update({k: v.astype(np.float16) for k, v in t.items()}))
    elif kind == "another name":
        spoil(odd, lambda t: t.update({k.replace("lora_A.w", "lora_A.x.w"): t.pop(k) for k in list(t)}))
    elif kind == "NaN":
        spoil(odd, lambda t: next(iter(t.values())).fill(np.nan))
    else:
        spoil(paths[0], lambda t: [v.fill(0) for v in t.values()])
    try:
        expected = [LAYOUT.flatten(read_adapter(p)) for p in paths]
    except W2WError as error:
        with pytest.raises(type(error), match=odd.name):
            pack_adapters(paths, tmp_path / "people")
        return
    ds = pack_adapters(paths, tmp_path / "people")
    for path, row in zip(paths, expected, strict=True):
        np.testing.assert_array_equal(ds[path.name], row)


def test_a_few_arrangements_are_remembered_at_a_time_and_the_latest_are_among_them(tmp_path):
    paths = [tmp_path / "loras" / f"l{i:02d}" for i in range(12)]
    for i, path in enumerate(paths):
        write_adapter(LAYOUT.unflatten(np.random.default_rng(i).normal(size=LAYOUT.size)), path, ("peft",))
        config = json.loads((path / "adapter_config.json").read_text())
        (path / "adapter_config.json").write_text(json.dumps(config | {"revision": f"{i % 6}"}))
    templates = Templates(LAYOUT)
    for path in paths[:6]:
        templates.learn(path, LAYOUT.flatten(read_adapter(path)))
    known = [templates.row(path) is not None for path in paths[6:]]
    assert known[-1]
    assert not known[0]  # otherwise checkpoints that are all unlike would fill the memory
    assert known == sorted(known)


def test_a_template_is_not_learnt_from_a_file_with_something_left_over(loras):
    (path,) = loras(1)
    row = LAYOUT.flatten(read_adapter(path))
    templates = Templates(LAYOUT)
    templates.learn(path, row + 1)
    assert templates.row(path) is None
    spoil(path, lambda t: t.update({"extra": np.ones(3, np.float32)}))
    templates.learn(path, row)
    assert templates.row(path) is None


# --------------------------------------------------------------- the folder
def test_a_second_writer_is_told_who_writes_and_the_first_is_not_disturbed(loras, make_dataset, tmp_path):
    ds = make_dataset()
    with locks.writer_lock(ds.path):
        with pytest.raises(BusyError, match=rf"people .*{os.getpid()}"):
            w2w_hub.dataset.remove_rows(ds.path, ["p0"])
        WeightDataset.open(ds.path).verify()  # reading goes on
    assert len(w2w_hub.dataset.remove_rows(ds.path, ["p0"])) == 5
    with state.next_state(tmp_path / "new") as staging:
        (staging / "manifest.json").write_text("{}")
        with pytest.raises(BusyError, match="new "):
            pack_adapters(loras(1), tmp_path / "new")


def test_the_lock_of_a_killed_writer_is_no_hindrance(make_dataset):
    ds = make_dataset()
    code = (
        "import sys, time; from pathlib import Path; from w2w_hub.store import locks\n"
        "with locks.writer_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    root = Path(w2w_hub.__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", code, str(ds.path)], stdout=subprocess.PIPE, cwd=root) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(BusyError):
            w2w_hub.dataset.remove_rows(ds.path, ["p0"])
        holder.kill()
    assert (ds.path / locks.LOCK_FILE).exists()
    assert len(w2w_hub.dataset.remove_rows(ds.path, ["p0"])) == 5
    assert not (ds.path / locks.LOCK_FILE).exists()


FULL = """
import resource, signal, sys
import w2w_hub
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
from w2w_hub.cli import main
main(["add", sys.argv[1], sys.argv[2]])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_disk_that_takes_no_more_is_one_line_and_loses_nothing(make_dataset):
    ds, more = make_dataset(), make_dataset("more", prefix="q")
    command = [sys.executable, "-c", FULL, str(ds.path), str(more.path), "2000"]
    done = subprocess.run(command, cwd=Path(w2w_hub.__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"w2w: error: writing {ds.path} failed: File too large; ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert WeightDataset.open(ds.path).manifest == ds.manifest
    WeightDataset.open(ds.path).verify()
    assert len(w2w_hub.add_rows(ds.path, [more.path])) == 12


def test_a_folder_that_cannot_be_made_is_a_typed_error(loras, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="people"):
        pack_adapters(loras(1), tmp_path / "file" / "people")


@pytest.mark.slow
def test_readers_always_find_a_whole_state_while_another_writes(make_dataset):
    ds, more = make_dataset(), make_dataset("more", prefix="q")
    code = (
        "import sys, w2w_hub; from w2w_hub.dataset import remove_rows; from w2w_hub.store import atomic\n"
        "atomic.DURABLE = False\n"
        "for i in range(5):\n"
        "    w2w_hub.add_rows(sys.argv[1], [sys.argv[2]]); remove_rows(sys.argv[1], [f'q{j}' for j in range(6)])"
    )
    root = Path(w2w_hub.__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", code, str(ds.path), str(more.path)], cwd=root) as writer:
        seen = set()
        while writer.poll() is None:
            opened = WeightDataset.open(ds.path)
            seen.add(len(opened))
            time.sleep(0.005)  # a new state may be put in place here
            for name in ("p0", "p5"):
                np.testing.assert_array_equal(opened[name], ds[name])
        assert writer.returncode == 0
    assert seen == {6, 12}
    assert ds[0].shape == (ds.layout.size,)  # what was opened before is read to the end


def test_foreign_files_and_an_edited_card_survive_a_change(make_dataset):
    ds = make_dataset()
    (ds.path / "notes.txt").write_text("mine")
    card = (ds.path / "README.md").read_text().replace("# people", "# Our people\n\nRead this first.")
    (ds.path / "README.md").write_text(card)
    after = w2w_hub.add_rows(ds.path, [make_dataset("more", prefix="q").path])
    assert (after.path / "notes.txt").read_text() == "mine"
    text = (after.path / "README.md").read_text()
    assert "Read this first." in text
    assert w2w_hub.dataset.check(after.path).unlisted == ["notes.txt"]


def test_an_edited_card_states_the_size_and_the_files_of_the_new_state(tmp_path):
    small = ParameterLayout({Target("unet", "mid_block.to_q"): (1, 3, 4)}, 2.0)
    rows = np.random.default_rng(0).normal(size=(1100, small.size)).astype(np.float32)
    ids = [f"p{i}" for i in range(1100)]
    splits = pd.DataFrame({"id": ids, "split": ["train"] * 1050 + ["test"] * 50})
    options = {"layout": small, "parquet_view": False}
    ds = w2w_hub.write_dataset(rows[:600], tmp_path / "d", ids=ids[:600], **options)
    more = w2w_hub.write_dataset(rows[600:], tmp_path / "e", ids=ids[600:], labels=splits[600:], **options)

    def stated() -> tuple[list[str], list[str]]:
        head = yaml.safe_load((ds.path / "README.md").read_text("utf-8").split("---\n")[1])
        return head["size_categories"], [file["split"] for file in head["configs"][0]["data_files"]]

    assert stated() == (["n<1K"], ["train"])
    with (ds.path / "README.md").open("a", encoding="utf-8") as card:
        card.write("\nRead this first.\n")
    w2w_hub.add_rows(ds.path, [more.path])
    assert stated() == (["1K<n<10K"], ["train", "test"])
    assert "Read this first." in (ds.path / "README.md").read_text("utf-8")


def test_a_folder_that_is_no_dataset_is_never_replaced(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "precious").write_text("x")
    with pytest.raises(w2w_hub.errors.AlreadyExistsError, match=re.escape(str(tmp_path))):
        w2w_hub.write_dataset(np.ones((1, LAYOUT.size)), tmp_path / "d", layout=LAYOUT, overwrite=True)
    assert (tmp_path / "d" / "precious").read_text() == "x"
