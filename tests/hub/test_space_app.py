"""The explorer as a Hugging Face Space: what is written, what is published, and that the app runs."""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import w2w_hub

from ..hostile.hostile_names import HOSTILE, MARK, require_shown_safely
from .conftest import Client, Folders, reseal, seed
from .loopback import LoopbackHub

pytestmark = pytest.mark.slow

MakeClient = Callable[..., Client]
PROGRAM = "from w2w_hub.release import space_app\n"


def front_matter(text: str) -> dict[str, object]:
    found = yaml.safe_load(text.split("---\n")[1])
    assert isinstance(found, dict)
    return found


def test_a_space_is_written_for_a_version_with_pinned_packages_and_no_token(
    hub: LoopbackHub, client: MakeClient, tiny_space: Path, folders: Folders
) -> None:
    commit = seed(hub, tiny_space, "org/space")
    seed(hub, folders.space, "org/no-base")
    ann = client("ann", "ann")
    found = ann.run(
        PROGRAM
        + """
import pathlib
tag = sys.argv[1]
one = space_app(f"org/space@{tag}", "one")
two = space_app("org/space", "two", hardware="zero", package="w2w-hub[explore] @ git+https://example.org/x@abc")
out(one=one.to_json(), two=two.to_json(), again=refused(space_app, f"org/space@{tag}", "one"))
space_app(f"org/space@{tag}", "one", hardware="zero", overwrite=True)
pathlib.Path("one/diary.txt").write_text("mine")
out(other=refused(lambda: space_app(f"org/space@{tag}", "one", overwrite=True)),
    local=refused(space_app, sys.argv[2], "local"), base=refused(space_app, "org/no-base@v1.0.0", "none"),
    name=refused(lambda: space_app("org/space", "named", push="no name")))
""",
        f"v{w2w_hub.WeightSpace.from_pretrained(tiny_space).version}",
        tiny_space,
    )
    one, two = found["one"], found["two"]
    assert (one["hardware"], two["hardware"]) == ("cpu", "zero")
    assert one["source"].startswith("org/space@v")
    assert two["source"] == f"org/space@{commit}"
    assert [found[name][0] for name in ("again", "other", "local", "base", "name")] == [
        "AlreadyExistsError", "AlreadyExistsError", "InvalidInputError", "InvalidInputError", "InvalidInputError"
    ]  # fmt: skip
    assert "w2w push" in found["local"][1]
    for name, source in (("one", one["source"]), ("two", two["source"])):
        folder = ann.home / name
        app, card = (folder / "app.py").read_text(), (folder / "README.md").read_text()
        assert len(app.splitlines()) < 12
        assert source in [node.value for node in ast.walk(ast.parse(app)) if isinstance(node, ast.Constant)]
        settings = front_matter(card)
        assert (settings["sdk"], settings["app_file"], settings["models"]) == ("gradio", "app.py", ["org/space"])
        assert {"title", "sdk_version", "python_version", "license"} <= settings.keys()
        repo, files, at = str(settings["preload_from_hub"][0]).split(" ")  # type: ignore[index]
        assert (repo, at) == ("org/space", commit)
        assert {"manifest.json", "model_index.json", "w2w_pipeline.json"} <= set(files.split(","))
        lines = [Requirement(line) for line in (folder / "requirements.txt").read_text().splitlines()]
        assert lines[0].name == "w2w-hub"
        assert lines[0].extras == {"explore"}
        assert all(line.url or "==" in str(line.specifier) for line in lines)
        for token in hub.tokens:
            assert not [file for file in folder.iterdir() if token in file.read_text()]
    assert "import spaces" in (ann.home / "two" / "app.py").read_text()
    assert (ann.home / "one" / "diary.txt").read_text() == "mine"


@pytest.mark.slow
def test_a_space_is_published_privately_unless_asked_and_replaces_nothing_of_others(
    hub: LoopbackHub, client: MakeClient, tiny_space: Path
) -> None:
    seed(hub, tiny_space, "org/space")
    ann = client("ann", "ann")
    first = json.loads(ann.w2w("space-app", "org/space", "--out", "app", "--push", "org/page", "--json").stdout)
    repo = hub.repos[("space", "org/page")]
    assert repo.private
    assert first["private"]
    assert {"app.py", "README.md", "requirements.txt"} <= set(repo.files("main"))
    again = ann.w2w("space-app", "org/space", "--out", "app", "--force", "--push", "org/page", "--hardware", "zero")
    assert again.status == 0
    assert b"spaces.GPU" in hub.blobs[repo.files("main")["app.py"].oid]
    ann.w2w("space-app", "org/space", "--out", "open", "--push", "org/open", "--public")
    assert not hub.repos[("space", "org/open")].private
    assert ann.w2w("space-app", "org/space", "--out", "o2", "--push", "org/open").status == 2  # it is public
    assert ann.w2w("space-app", "org/space", "--out", "o3", "--push", "org/open", "--public").status == 0
    assert client("bob", "bob").w2w("space-app", "org/space", "--out", "o", "--push", "org/page").status == 2
    found = ann.run(
        """
from huggingface_hub import HfApi
HfApi().create_repo("org/theirs", repo_type="space", space_sdk="gradio", private=True)
HfApi().upload_file(path_or_fileobj=b"print()", path_in_repo="app.py", repo_id="org/theirs", repo_type="space")
from w2w_hub.release import space_app
def push(**options):
    return space_app("org/space", "theirs", push="org/theirs", overwrite=options.pop("force", False), **options)
refusal = refused(push)
out(refusal=refusal, commit=push(force=True).commit)
"""
    )
    assert found["refusal"][0] == "AlreadyExistsError"
    assert found["commit"]


@pytest.mark.slow
def test_names_that_a_weight_space_states_are_text_in_the_app_and_on_its_card(
    hub: LoopbackHub, client: MakeClient, tiny_space: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_space, tmp_path / "space")
    recipe = json.loads((folder / "manifest.json").read_text())["recipe"]
    recipe["dataset_revision"] = {"repo": 'org/x"+1+"', "revision": HOSTILE}
    reseal(folder, name=HOSTILE, licence=HOSTILE, recipe=recipe)
    seed(hub, folder, "org/space")
    ann = client("ann", "ann")
    assert ann.w2w("space-app", "org/space", "--out", "app").status == 0
    card = (ann.home / "app" / "README.md").read_text("utf-8")
    require_shown_safely(card.replace("\n---\n", "\n", 1).removeprefix("---\n"))
    assert len(str(front_matter(card)["title"])) < 110
    assert front_matter(card)["license"] == "other"
    app = (ann.home / "app" / "app.py").read_text("utf-8")
    assert MARK not in app
    assert len([node for node in ast.walk(ast.parse(app)) if isinstance(node, ast.Call)]) == 2


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("w2w_hub.explore") is None, reason="the explorer is not there yet")
def test_the_app_of_a_space_serves_the_explorer(hub: LoopbackHub, client: MakeClient, tiny_space: Path) -> None:
    pytest.importorskip("gradio")
    seed(hub, tiny_space, "org/space")
    reader = client()
    assert reader.w2w("space-app", "org/space", "--out", "app").status == 0
    found = reader.run(
        """
import runpy
app = runpy.run_path("app/app.py", run_name="app")["demo"]
app.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
import httpx
answer = httpx.get(app.local_url, follow_redirects=True)
out(status=answer.status_code, page="gradio" in answer.text)
app.close()
"""
    )
    assert (found["status"], found["page"]) == (200, True)
