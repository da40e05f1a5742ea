"""Guard against slowdowns: run every bench at a small size, alone or against another checkout of the repository.

    python scripts/bench_all.py                               # ratios to the peers that the benches measure
    python scripts/bench_all.py --against ../before           # new / old, in turns; exit status 1 if anything is worse
    python scripts/bench_all.py --against ../before --only start,space-cpu

Each bench is a process with one thread, the checkout's own script and its own package (`PYTHONPATH`). Against another
checkout the two run in turns (A B, B A, ...), so that a busy machine slows both, and a figure is the median over the
turns of new / old. Its noise is the middle half of these ratios (interquartile range of their logarithms), or a floor
of 5% (1% for counts) if that is more. A bench with a figure that is worse by more than its noise is run again, in more
turns; only what is worse by more than its noise in these turns alone is marked and makes the exit status 1. Less is
better in every figure.

`w2w demo` takes a minute and is left to `bench_demo.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parents[1]
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "RAYON_NUM_THREADS")
EXACT_UNITS = ("requests", "bytes", "of uncompressed")  # what a machine's load does not change
TIME_FLOOR, COUNT_FLOOR = 0.05, 0.01
BENCHES = {  # a name, and the script with its small size; `start` is measured here
    "start": "",
    "dataset": "bench_dataset.py --rows 150 --loras 60 --repeats 5 --only reads,pack,memory --peers w2w_hub",
    "space-cpu": "bench_space.py cpu --rows 1500 --numbers 4000 --k 40 --rounds 1 --threads 1 --only 'w2w_hub, build'",
    "space-decode": "bench_space.py decode --k 200",
    "space-engines": "bench_space.py engines --rows 500 --numbers 2000 --k 10",
    "pipeline": "bench_pipeline.py --device cpu --size avatars --k 400 --people 8 --steps 8 --rounds 5 --warm-up 1",
    "formats": "bench_formats.py --rounds 30 --scan 100",
    "hub": "bench_hub.py --rows 7000",
}
# counts need one turn; of the others with fewer turns, most of the time goes into loading libraries
MOST_TURNS = {"hub": 1, "dataset": 2, "pipeline": 2, "space-engines": 2, "formats": 2}
Figures = dict[tuple[str, str], float]  # (figure, unit): value


class Missing(Exception):
    """Raised if the other checkout lacks a script, or the script an option."""


class Failed(Exception):
    """Raised if a bench fails."""


def environment(checkout: Path) -> dict[str, str]:
    """Return this process's environment with one thread and the checkout's package."""
    return {**os.environ, **dict.fromkeys(THREADS, "1"), "PYTHONPATH": str(checkout), "TQDM_DISABLE": "1"}


def best_seconds(words: list[str], folder: Path, env: dict[str, str], rounds: int) -> list[float]:
    """Return the minimum seconds of an empty interpreter and of a command, run in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for command, found in zip((["-c", "pass"], words), times, strict=True):
            began = time.perf_counter()
            done = subprocess.run([sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True)
            found.append(time.perf_counter() - began)
            if done.returncode:
                raise Failed(f"{env['PYTHONPATH']}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return [min(found) for found in times]


def start(checkout: Path, folder: Path, rounds: int = 5) -> Figures:
    """Measure importing the public modules and `w2w --help`."""
    scripts = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, function = scripts["w2w"].split(":")
    commands = {f"import {name}": f"import {name}" for name in ("w2w_hub", "w2w_hub.dataset", "w2w_hub.space")}
    commands["w2w --help"] = f"import sys; sys.argv[1:] = ['--help']; from {module} import {function} as w2w; w2w()"
    found: Figures = {}
    for name, code in commands.items():
        empty, whole = best_seconds(["-c", code], folder, environment(checkout), rounds)
        found[name, "of an empty interpreter"] = whole / empty
    return found


def run_bench(name: str, checkout: Path) -> Figures:
    """Run one bench of one checkout in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="w2w-bench-all-") as scratch:
        folder = Path(scratch)
        if name == "start":
            return start(checkout, folder)
        script, *words = shlex.split(BENCHES[name])
        path = checkout / "scripts" / script
        lacks = Failed if checkout == HERE else Missing  # an older checkout may lack a bench, this one may not
        if not path.exists():
            raise lacks(f"no {path}")
        command = [sys.executable, str(path), *words, "--json", str(folder / "figures.json")]
        done = subprocess.run(command, cwd=folder, env=environment(checkout), capture_output=True, text=True)
        told = done.stderr.strip().splitlines()[-1:] or ["nothing on stderr"]
        if done.returncode == 2:  # argparse's and click's status for unknown options
            raise lacks(f"{path}: {told[0]}")
        if done.returncode:
            raise Failed(f"{path}: {told[0]}")
        try:
            entries = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
            return {(e["figure"], e["unit"]): e["value"] for e in entries}
        except (OSError, TypeError, KeyError):
            raise lacks(f"{path}: writes no figures") from None


def ratio(new: float, old: float) -> float:
    """Return new / old, or 1 if both are zero (as counts may be)."""
    return new / old if old else (1.0 if not new else float("inf"))


@dataclass
class Comparison:
    """One figure of two checkouts over some turns."""

    new: list[float] = field(default_factory=list)
    old: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        return [ratio(a, b) for a, b in zip(self.new, self.old, strict=True)]

    def noise(self, unit: str) -> float:
        """Return the interquartile range of the ratios, or the unit's floor if that is larger."""
        low, high = np.quantile(np.log(np.clip(self.ratios, 1e-9, 1e9)), (0.25, 0.75))
        return max(float(np.expm1(high - low)), COUNT_FLOOR if unit in EXACT_UNITS else TIME_FLOOR)

    def worse(self, unit: str) -> bool:
        return median(self.ratios) > 1 + self.noise(unit)


def compare(name: str, old: Path, turns: int) -> dict[tuple[str, str], Comparison]:
    """Run a bench of both checkouts in turns, alternating which one is first."""
    found: dict[tuple[str, str], Comparison] = {}
    for turn in range(turns):
        sides = {side: run_bench(name, side) for side in ((old, HERE) if turn % 2 == 0 else (HERE, old))}
        if alone := {figure for figure, _ in sides[HERE].keys() ^ sides[old].keys()}:
            progress(f"{name}: only one of the checkouts has {', '.join(sorted(alone))}")
        for figure in sides[HERE].keys() & sides[old].keys():
            comparison = found.setdefault(figure, Comparison())
            comparison.new.append(sides[HERE][figure])
            comparison.old.append(sides[old][figure])
    if not found:
        raise Missing("no figure that both checkouts have")
    return dict(sorted(found.items()))


def against(name: str, old: Path, turns: int, more: int) -> tuple[list[dict[str, Any]], bool]:
    """Return table rows of a bench against another checkout, and True if anything is worse."""
    found = compare(name, old, min(turns, MOST_TURNS.get(name, turns)))
    suspects = [figure for figure, comparison in found.items() if comparison.worse(figure[1])]
    if suspects and MOST_TURNS.get(name) != 1:
        progress(f"{name}: again, {more} turns, for {', '.join(figure for figure, _ in suspects)}")
        again = compare(name, old, more)
        found |= {figure: again[figure] for figure in suspects if figure in again}
    rows = []
    for (figure, unit), comparison in found.items():
        rows.append({
            "bench": name, "figure": figure, "unit": unit, "value": median(comparison.new),
            "old": median(comparison.old), "ratio": median(comparison.ratios), "lowest": min(comparison.ratios),
            "highest": max(comparison.ratios), "noise": comparison.noise(unit), "turns": len(comparison.new),
            "worse": (figure, unit) in suspects and comparison.worse(unit),
        })  # fmt: skip
    return rows, any(row["worse"] for row in rows)


def show(row: dict[str, Any]) -> str:
    cells = [row["bench"], row["figure"], f"{row['value']:,.4g} {row['unit']}"]
    if "ratio" in row:
        verdict = "**worse**" if row["worse"] else ""
        spread = f"{row['lowest']:.2f} to {row['highest']:.2f}, {row['turns']}"
        cells += [f"{row['ratio']:.3f}", spread, f"{row['noise']:.0%}", verdict]
    return f"| {' | '.join(cells)} |"


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="a folder with the checkout to compare with")
    parser.add_argument("--only", default=",".join(BENCHES), help="benches, comma-separated (default: all)")
    parser.add_argument("--turns", type=int, default=3, help="of every bench against another checkout")
    parser.add_argument("--more-turns", type=int, default=5, help="of a bench with a figure that looks worse")
    parser.add_argument("--json", type=Path, help="write the rows of the table to this file")
    options = parser.parse_args()
    names, old = options.only.split(","), options.against and options.against.resolve()
    if not set(names) <= BENCHES.keys():
        parser.error(f"--only takes {', '.join(BENCHES)}")
    for checkout in (HERE, old) if old else (HERE,):
        code = "import importlib.util as u; print(u.find_spec('w2w_hub').origin)"
        words, env = [sys.executable, "-c", code], environment(checkout)
        done = subprocess.run(words, cwd=tempfile.gettempdir(), env=env, capture_output=True, text=True)
        if not done.stdout.startswith(str(checkout)):
            parser.error(f"{checkout}: no checkout with a package w2w_hub (found {done.stdout.strip() or 'none'})")
    print("| bench | figure | now |" + (" new / old | from, to, turns | noise | |" if old else ""))
    print("| --- | --- | --- |" + (" --- | --- | --- | --- |" if old else ""), flush=True)
    rows: list[dict[str, Any]] = []
    remarks: list[str] = []
    bad = False
    for name in names:
        began = time.perf_counter()
        try:
            if old:
                found, worse = against(name, old, options.turns, options.more_turns)
                bad |= worse
            else:
                figures = run_bench(name, HERE)
                found = [{"bench": name, "figure": f, "unit": u, "value": v} for (f, u), v in figures.items()]
            rows += found
            print("\n".join(map(show, found)), flush=True)
        except Missing as error:
            remarks.append(f"{name}: not compared, {error}")
        except Failed as error:
            remarks.append(f"{name}: failed, {error}")
            bad = True
        progress(f"{name}: {time.perf_counter() - began:.0f} s")
    for remark in remarks:
        print(f"\n{remark}")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "remarks": remarks}, indent=1), encoding="utf-8")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
