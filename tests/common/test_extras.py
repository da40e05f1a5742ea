"""Optional packages that are missing, and those that are broken; how threads wait."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from w2w_hub import __version__
from w2w_hub.common import install
from w2w_hub.common.extras import OPTIONAL, optional_imports
from w2w_hub.errors import BrokenExtraError, MissingExtraError

# a finder that does not find some packages, as where they are not installed
WITHOUT = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Without())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {names} else found(name, package)
import w2w_hub.common.extras
w2w_hub.common.extras.find_spec = importlib.util.find_spec
{run}
"""


def python(run: str, names: tuple[str, ...] = (), cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    code = WITHOUT.format(names=set(names) or "set()", run=run)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=cwd)


COMMANDS = [
    ["demo", "--out", "x"],
    ["train", ".", "--base", ".", "--out", "x"],
    ["render", "s", "p", "--out", "x.png"],
    ["invert", "s", "a.png", "--out", "x"],
]
MODULES = [
    "training",
    "models.inversion",
    "models.injection",
    "models.denoising",
    "models.pipelines",
]


@pytest.mark.parametrize(
    "words",
    [["train", "photo", "--base", "."], ["train-many", ".", "--base", "photo"], ["render", "photo", "p"]],
    ids=lambda words: words[0],
)
def test_a_path_that_does_not_exist_is_reported_with_the_similar_one_before_torch_is_imported(
    words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    run = f"""
from w2w_hub.cli import main
main({[*words, "--out", "x.png"]})
"""
    found = python(run, ("torch",), tmp_path)
    assert (found.returncode, found.stderr) == (2, "w2w: error: photo does not exist; did you mean 'photos'?\n")


def test_a_command_without_its_extra_is_one_line_with_the_install_command(tmp_path: Path) -> None:
    run = f"""
from click.testing import CliRunner
from w2w_hub.cli import main
for words in {COMMANDS}:
    result = CliRunner().invoke(main, words)
    print(result.exit_code, len(result.output.splitlines()), "pip install" in result.output)
"""
    assert python(run, ("torch", "PIL", "datasets"), tmp_path).stdout == "2 1 True\n" * len(COMMANDS)
    assert not os.listdir(tmp_path)


def test_a_module_without_its_extra_says_what_to_install() -> None:
    run = f"""
import importlib
for module in {MODULES}:
    try:
        importlib.import_module(f"w2w_hub.{{module}}")
    except w2w_hub.errors.MissingExtraError as error:
        print(error.name, error.__cause__)
"""
    assert python(run, ("torch",)).stdout == "torch None\n" * len(MODULES)


def test_a_package_that_is_installed_and_cannot_be_imported_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "__init__.py").write_text("import nowhere_to_be_found\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "peft", raising=False)
    with pytest.raises(BrokenExtraError) as broken, optional_imports("diffusers"):
        import peft  # noqa: F401
    assert broken.value.name == "peft"
    assert isinstance(broken.value.__cause__, ModuleNotFoundError)
    assert "nowhere_to_be_found" in str(broken.value)


def test_errors_that_are_about_no_optional_package_stay_as_they_are() -> None:
    with pytest.raises(ModuleNotFoundError) as error, optional_imports("diffusers"):
        import nowhere_to_be_found  # noqa: F401
    assert not isinstance(error.value, MissingExtraError)


def test_every_optional_package_names_an_extra_of_this_project() -> None:
    import tomllib

    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    for package, extra in OPTIONAL.values():
        assert any(line.lower().startswith(package.lower()) for line in extras["optional-dependencies"][extra]), package


@pytest.mark.parametrize(
    ("stated", "command"),
    [
        (None, "pip install 'w2w-hub[demo]'"),
        ({"url": "file:///home/me/a%20clone", "dir_info": {"editable": True}}, "pip install '/home/me/a clone[demo]'"),
        (
            {"url": "https://example.org/w2w.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "pip install 'w2w-hub[demo] @ git+https://example.org/w2w.git@abc'",
        ),
        ({"url": "https://example.org/w2w.whl", "archive_info": {}},
         "pip install 'w2w-hub[demo] @ https://example.org/w2w.whl'"),
    ],
)  # fmt: skip
def test_the_install_command_fits_where_the_package_came_from(
    stated: dict[str, object] | None, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "CHECKOUT", tmp_path)
    monkeypatch.setattr(install, "_direct_url", lambda: stated or {})
    assert install.install_command("demo") == command


@pytest.mark.parametrize(
    ("stated", "requirement"),
    [
        ({}, f"w2w-hub[demo]=={__version__}"),
        ({"url": "file:///home/me/clone", "dir_info": {"editable": True}}, f"w2w-hub[demo]=={__version__}"),
        ({"url": "https://me:secret@example.org/w2w.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
         "w2w-hub[demo] @ git+https://example.org/w2w.git@abc"),
        ({"url": "https://example.org/w2w.whl?key=secret", "archive_info": {}},
         "w2w-hub[demo] @ https://example.org/w2w.whl"),
    ],
)  # fmt: skip
def test_the_requirement_for_another_machine_has_no_secret_and_no_path(
    stated: dict[str, object], requirement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "_direct_url", lambda: stated)
    assert install.requirement("demo") == requirement


def test_a_clone_is_installed_from_its_folder() -> None:
    clone = Path(__file__).parents[2]
    assert install.install_command("dask") == f"pip install -e '{clone}[dask]'"


# ---------------------------------------------------------------- threads
@pytest.mark.parametrize(
    ("run", "given", "left"),
    [
        ("import w2w_hub", {}, {}),
        ("import w2w_hub.cli", {}, {"GOMP_SPINCOUNT": "1000"}),
        ("import w2w_hub.cli", {"GOMP_SPINCOUNT": "5"}, {"GOMP_SPINCOUNT": "5"}),
        ("import w2w_hub.cli", {"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
    ],
)
def test_only_the_command_line_sets_how_threads_wait_and_never_over_the_user(
    run: str, given: dict[str, str], left: dict[str, str]
) -> None:
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "KMP_LIBRARY")
    code = f"{run}; import os, sys; print({{n: os.environ[n] for n in {names} if n in os.environ}}, end=' ')"
    code += "; print(sorted({'torch', 'sklearn'} & set(sys.modules)))"
    environment = {name: value for name, value in os.environ.items() if name not in names} | given
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == f"{left} []\n"
