"""Show that the lowest versions in pyproject.toml are true: install every one of them and run tests with them.

    python scripts/check_floors.py --resolve          # what pip can choose, at each of DATES; seconds
    python scripts/check_floors.py                    # and a virtual environment of the floors with the parts of PARTS
    python scripts/check_floors.py tests/store -q     # other arguments for pytest
    python scripts/check_floors.py --python python3.13 --newest --without-torch

Needs `pip install uv` to resolve. pip installs, so that its own settings count, with the torch that constraints.txt
names: the lowest torch would bring gigabytes of CUDA libraries.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
# all extras can be installed together at both; None is today
DATES = ("2026-11-01", None)
# what uses each dependency; the rest of the suite needs hours of training or another machine
PARTS = ("tests/store", "tests/lora", "tests/dialects", "tests/dataset", "tests/space", "tests/hub", "tests/cli")
OF_TORCH = re.compile(r"(torch|triton|nvidia-.*|cuda-.*)")  # what a CPU build does not need


def extras() -> dict[str, list[str]]:
    """Return the requirements of every extra, and those of the package itself under ""."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return {"": project["dependencies"], **project["optional-dependencies"]}


def floors() -> dict[str, Version]:
    """Return the lowest version that pyproject.toml allows of each package that it names."""
    found = {}
    for requirement in (Requirement(line) for lines in extras().values() for line in lines):
        lowest = [Version(s.version) for s in requirement.specifier if s.operator in (">=", "==")]
        if lowest:
            found[canonicalize_name(requirement.name)] = lowest[0]
    return found


def resolve(python: str, *options: str, chosen: tuple[str, ...] = ("test",)) -> dict[str, Version]:
    """Return the versions that uv chooses for the package with these extras."""
    command = ["uv", "pip", "compile", "-q", "--no-header", "--no-annotate", "--no-emit-package", "w2w-hub"]
    command += ["--python", python, *options, *(f"--extra={extra}" for extra in chosen), str(ROOT / "pyproject.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(options) or 'newest'}: {done.stderr.strip()}")
    pins = (line.split(";")[0].strip().split("==") for line in done.stdout.splitlines() if "==" in line)
    return {canonicalize_name(name): Version(version) for name, version in pins}


def check_resolution(python: str) -> bool:
    """Print what is chosen at each date, and the floors that are never chosen; return whether all are."""
    for date in DATES:
        pins = resolve(python, *(["--exclude-newer", date] if date else []), chosen=("test", "recipe"))
        print(f"{date or 'today'}: {len(pins)} packages; " + ", ".join(f"{n} {pins[n]}" for n in floors() if n in pins))
    lowest = resolve(python, "--resolution", "lowest-direct", chosen=("test", "recipe"))
    false = {name: (floor, lowest[name]) for name, floor in floors().items() if lowest[name] != floor}
    for name, (floor, found) in false.items():
        print(f"{name}: {floor} is declared and never chosen; the lowest that can be is {found}")
    return not false


def environment(folder: Path, python: str, pins: dict[str, Version]) -> None:
    """Make a virtual environment with these versions and this package."""
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    inside = str(folder / "bin" / "python")
    wanted = [f"{name}=={version}" for name, version in pins.items() if not OF_TORCH.fullmatch(name)]
    (folder / "versions.txt").write_text("\n".join(wanted) + "\n", encoding="utf-8")
    install = [inside, "-m", "pip", "install", "-q"]
    resolved = [*install, "--no-deps"]  # uv has resolved everything
    subprocess.run([*resolved, "-r", str(folder / "versions.txt")], check=True)
    if "torch" in pins:
        lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
        subprocess.run([*install, next(line for line in lines if line.startswith("torch=="))], check=True)
    subprocess.run([*resolved, "-e", str(ROOT)], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--resolve", action="store_true", help="only resolve, install nothing")
    parser.add_argument("--newest", action="store_true", help="the newest versions in place of the lowest")
    parser.add_argument("--without-torch", action="store_true", help="leave out the extras that need torch")
    parser.add_argument("--python", default=sys.executable, help="the Python to use")
    parser.add_argument("--venv", type=Path, help="keep the virtual environment here; one that is there is used")
    arguments, pytest = parser.parse_known_args()
    if arguments.resolve:
        return not check_resolution(arguments.python)
    resolution = ["--resolution", "highest" if arguments.newest else "lowest-direct"]
    chosen = ("test-core",) if arguments.without_torch else ("test",)
    pins = resolve(arguments.python, *resolution, chosen=chosen)
    with tempfile.TemporaryDirectory() as folder:
        place = arguments.venv or Path(folder) / "venv"
        inside = place / "bin" / "python"
        if not inside.exists():
            environment(place, arguments.python, pins)
        command = [str(inside), "-m", "pytest", *(pytest or ["-q", *PARTS])]
        return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
