"""Imports of w2w_hub go down its layers and in no circle; every folder says what lives in it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import w2w_hub

PRODUCT = Path(w2w_hub.__file__).parent
# from the bottom to the top; units of one row are independent of each other
LAYERS = (
    ("common",), ("lora", "store"), ("store.hub", "dialects"), ("dataset",), ("space",), ("release", "upstream"),
    ("models",), ("training",), ("demo", "explore", "info"), ("cli",),
)  # fmt: skip
# the facade over all of them, the old module paths, and `python -m w2w_hub`
ROOT = ("w2w_hub", "w2w_hub._moved", "w2w_hub.__main__")
LEVELS = {f"w2w_hub.{unit}": level for level, units in enumerate(LAYERS) for unit in units}
LONGEST_README = 40  # lines
# the reference of checkpoint keys, to which the README at the root links
REFERENCES = ("dialects",)


def modules() -> dict[str, Path]:
    """Return the modules of the package by name."""
    found = {}
    for file in sorted(PRODUCT.rglob("*.py")):
        name = ".".join(["w2w_hub", *file.relative_to(PRODUCT).with_suffix("").parts])
        found[name.removesuffix(".__init__")] = file
    return found


MODULES = modules()


def imports(name: str) -> set[str]:
    """Return the modules that one imports: anywhere in it, under TYPE_CHECKING, or by a string that names one."""
    file = MODULES[name]
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    return set(_imports(ast.parse(file.read_text("utf-8")), package.split("."))) - {name}


def _imports(tree: ast.AST, package: list[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            targets = [f"{base}.{alias.name}" for alias in node.names]
            yield from (target if target in MODULES else base for target in targets if base in MODULES)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.Constant) and "." in str(node.value) and node.value in MODULES:
            yield str(node.value)


IMPORTS = {name: imports(name) for name in MODULES}


def unit(name: str) -> str:
    """Return the unit of the layers to which a module belongs; `errors` is a file of `common` in all but its place."""
    if name == "w2w_hub.errors":
        return "w2w_hub.common"
    fitting = [each for each in LEVELS if f"{name}.".startswith(f"{each}.")]
    assert fitting, f"{name} is in no layer: add its folder to LAYERS"
    return max(fitting, key=len)


def test_every_import_goes_down_the_layers() -> None:
    upward = [
        f"{name} imports {other}"
        for name in MODULES
        if name not in ROOT
        for other in IMPORTS[name]
        if other in ROOT[1:] or (other not in ROOT and unit(name) != unit(other) and level(other) >= level(name))
    ]
    assert not upward


def level(name: str) -> int:
    return LEVELS[unit(name)]


def test_no_modules_import_each_other_in_a_circle() -> None:
    inner = {name: {other for other in IMPORTS[name] if other not in ROOT} for name in MODULES if name not in ROOT}
    try:
        TopologicalSorter(inner).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_every_folder_has_a_README_and_all_but_references_fit_one_screen() -> None:
    folders = {file.parent for file in MODULES.values()} - {PRODUCT}
    sizes = {
        folder.relative_to(PRODUCT).as_posix(): len(readme.read_text("utf-8").splitlines()) if readme.is_file() else 0
        for folder in folders
        for readme in (folder / "README.md",)
    }
    assert {folder for folder, lines in sizes.items() if lines < 5} == set()
    assert {folder for folder, lines in sizes.items() if lines > LONGEST_README} <= set(REFERENCES)
