"""What is declared is what is used, and what is built is complete."""

from __future__ import annotations

import ast
import email
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections import defaultdict
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import w2w_hub

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
OTHER_NAMES = {
    "OpenSSL": "pyopenssl",
    "PIL": "pillow",
    "re2": "google-re2",
    "sklearn": "scikit-learn",
    "umap": "umap-learn",
    "yaml": "pyyaml",
}
LARGEST = 40e6  # bytes of a wheel


def declared() -> dict[str, Requirement]:
    """Return what pyproject.toml requires, of the package and of its extras."""
    lines = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
    return {canonicalize_name(found.name): found for found in map(Requirement, lines)}


def imported(folder: Path) -> dict[str, set[str]]:
    """Return the packages that are imported anywhere in a folder's modules, with the files that do."""
    found = defaultdict(set)
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in (name.partition(".")[0] for name in names):
                if name not in sys.stdlib_module_names and name != "w2w_hub":
                    found[canonicalize_name(OTHER_NAMES.get(name, name))].add(str(file.relative_to(folder)))
    return found


def test_every_package_that_is_imported_is_declared() -> None:
    undeclared = {name: files for name, files in imported(ROOT / "w2w_hub").items() if name not in declared()}
    assert not undeclared


def test_every_dependency_has_a_lowest_version() -> None:
    own = canonicalize_name(PROJECT["name"])
    for name, requirement in declared().items():
        assert name == own or {s.operator for s in requirement.specifier} & {">=", "=="}, name


def test_an_extra_names_only_extras_that_are_there() -> None:
    extras = PROJECT["optional-dependencies"]
    for requirement in (Requirement(line) for lines in extras.values() for line in lines):
        if canonicalize_name(requirement.name) == canonicalize_name(PROJECT["name"]):
            assert requirement.extras <= set(extras)


def test_the_version_is_written_in_one_place() -> None:
    assert "version" not in PROJECT
    assert "version" in PROJECT["dynamic"]
    assigned = [f for f in (ROOT / "w2w_hub").rglob("*.py") if re.search("^__version__ =", f.read_text("utf-8"), re.M)]
    assert [file.name for file in assigned] == ["version.py"]


@pytest.mark.slow
def test_the_built_wheel_and_sdist_are_complete_and_their_page_has_no_relative_link(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    pytest.importorskip("hatch_fancy_pypi_readme")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not in a git checkout")
    tracked = {name for name in listed.stdout.split("\0") if (ROOT / name).is_file()}
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path)], cwd=ROOT, check=True, capture_output=True
    )
    stem = f"w2w_hub-{w2w_hub.__version__}"
    wheel, sdist = tmp_path / f"{stem}-py3-none-any.whl", tmp_path / f"{stem}.tar.gz"

    with zipfile.ZipFile(wheel) as file:
        inside = {name for name in file.namelist() if not name.startswith(f"{stem}.dist-info/")}
        metadata = email.message_from_bytes(file.read(f"{stem}.dist-info/METADATA"))
        assert f"{stem}.dist-info/licenses/LICENSE" in file.namelist()
    cards = {name.replace("cards/", "w2w_hub/_cards/", 1) for name in tracked if name.startswith("cards/")}
    assert inside == cards | {name for name in tracked if name.startswith("w2w_hub/")}
    assert wheel.stat().st_size < LARGEST
    with tarfile.open(sdist) as packed:
        assert {name.partition("/")[2] for name in packed.getnames()} - {"PKG-INFO"} == tracked

    assert metadata["Version"] == w2w_hub.__version__
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert not [line for line in metadata.get_all("Requires-Dist", []) if "@" in line]
    page = metadata.get_payload()
    assert (metadata["Description-Content-Type"], str(page).startswith("# w2w_hub")) == ("text/markdown", True)
    links = re.findall(r"\]\(([^)\s]*)|(?:src|href)=\"([^\"]*)", re.sub(r"```.*?```", "", str(page), flags=re.S))
    assert not [link for pair in links for link in pair if link and not link.startswith(("https://", "#"))]
