"""An import that is killed anywhere leaves no output, and the same call finishes with the same result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.upstream.published import publish
from w2w_hub.errors import BusyError, InvalidInputError
from w2w_hub.upstream import import_w2w
from w2w_hub.upstream.importing import import_files
from w2w_hub.upstream.run import one_import, working_folder

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

# One interpreter forks an import for each point; it kills itself at the k-th call that touches the file system.
FORKS = """
import json, os, random, signal, sys, warnings
from pathlib import Path
from tests.killing import kill_at
from w2w_hub.store import atomic
from w2w_hub.upstream import import_w2w
from w2w_hub.upstream.importing import import_files

warnings.simplefilter("ignore")
atomic.DURABLE = False
source, root, points = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
WATCHED = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}

def made(out):
    found = import_w2w(source, out)
    found.dataset.verify(), found.dogs.verify(), found.space.verify()
    assert set(import_files(out)) == {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    return found.report["made"]

def forked(out, at, count=None):
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    calls = kill_at(at, lambda event, _: event in WATCHED)
    import_w2w(source, out)
    if count is not None:
        Path(count).write_text(str(calls.seen))
    os._exit(0)

expected = made(root / "warm")
assert forked(root / "whole", None, root / "count") == 0
total = int((root / "count").read_text())
kept = 0
for k in sorted({*random.Random(0).sample(range(1, total), points), total - 2}):
    out = root / f"at-{k}"
    assert forked(out, k) == -signal.SIGKILL
    there = out.exists()
    if not there:
        work = out.with_name(f".{out.name}.w2w-import")
        kept += (work / "parts" / "dataset" / "manifest.json").exists()
        assert made(out) == expected, k
    left = [p.name for p in root.iterdir() if p.name.startswith(".") and out.name in p.name and "lock" not in p.name]
    assert not left or there, left
print(json.dumps({"total": total, "kept": kept}))
"""


def killed(tmp_path: Path, points: int) -> dict[str, int]:
    publish(tmp_path / "w2w")
    (tmp_path / "outs").mkdir()
    command = [sys.executable, "-c", FORKS, str(tmp_path / "w2w"), str(tmp_path / "outs"), str(points)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_an_import_killed_anywhere_continues(tmp_path: Path) -> None:
    assert killed(tmp_path, 25)["kept"] > 2


def test_an_unfinished_import_goes_on_only_with_the_same_files_and_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path / "w2w", dogs=False)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("w2w_hub.upstream.space.write_manifest", stop)
        with pytest.raises(KeyboardInterrupt):
            import_w2w(tmp_path / "w2w", tmp_path / "out")
    work = working_folder(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    before = (work / "parts" / "space" / "basis-00000.safetensors").stat()
    with pytest.raises(InvalidInputError, match="k"):
        import_w2w(tmp_path / "w2w", tmp_path / "out", k=2)
    made = import_w2w(tmp_path / "w2w", tmp_path / "out")
    after = (made.path / "space" / "basis-00000.safetensors").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)  # it was not made again
    assert not work.exists()
    whole = import_w2w(tmp_path / "w2w", tmp_path / "whole")
    assert made.space is not None
    assert made.space.recipe["as_published"]["flipped"]  # a sign that is lost would show
    assert made.space == whole.space
    assert import_files(made.path) == import_files(whole.path)


def test_another_options_import_starts_again_on_demand(tmp_path: Path) -> None:
    publish(tmp_path / "w2w", dogs=False)
    work = working_folder(tmp_path / "out")
    work.mkdir()
    (work / "plan.json").write_text('{"k": 7}', "utf-8")
    (work / "parts").mkdir()
    made = import_w2w(tmp_path / "w2w", tmp_path / "out", k=2, overwrite=True)
    assert made.space is not None
    assert made.space.k == 2


def test_one_process_imports_to_a_folder_at_a_time(tmp_path: Path) -> None:
    publish(tmp_path / "w2w", rows=False, dogs=False)
    with one_import(tmp_path / "out"), pytest.raises(BusyError):
        import_w2w(tmp_path / "w2w", tmp_path / "out")
