"""Names that strangers choose reach a terminal, a card or a page only as text, by every command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file, save_file

from w2w_hub import Adapter, ParameterLayout, WeightDataset, WeightSpace, write_adapter
from w2w_hub.cli import main
from w2w_hub.dataset.card import dataset_card
from w2w_hub.errors import UnsafePathError
from w2w_hub.lora.adapter import Target
from w2w_hub.store.cards import split_card

from .hostile_names import FILE_NAME, HOSTILE, MARK, Page, World, make_world, require_shown_safely
from .test_hostile_hub_names import BY_THE_HUB


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Read only."""
    return make_world(tmp_path_factory.mktemp("hostile"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A new path with a hostile name."""
    (tmp_path / FILE_NAME).mkdir()
    return tmp_path / FILE_NAME / f"out{FILE_NAME}"


def w2w(*words: object) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert isinstance(result.exception, (SystemExit, type(None))), result.exception
    require_shown_safely(result.stdout)
    require_shown_safely(result.stderr)
    return result


def copied(world: World, out: Path) -> Path:
    """The dataset, to be changed."""
    return Path(shutil.copytree(world.numbered, out.with_name("people")))


def adapter(folder: Path) -> Path:
    """A PEFT folder whose configuration and tensors are named by a stranger."""
    layout = ParameterLayout(
        {Target("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"): (1, 20, 30)}, 27.0
    )
    made: Adapter = layout.unflatten(np.ones(layout.size, np.float32))
    made.base_model = f"org/base{HOSTILE}"
    write_adapter(made, folder, ("peft",))
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file) | {f"text_model.embeddings.{HOSTILE}": np.zeros(3, np.float32)}
    save_file(tensors, file, metadata={"format": "pt", HOSTILE: HOSTILE})
    return folder


def picture(path: Path) -> Path:
    path.write_text("not a picture")
    return path


def labels(path: Path, world: World) -> Path:
    path.write_text(json.dumps({"id": f"nobody{HOSTILE}", world.attribute: f"maybe{HOSTILE}", "New": HOSTILE}) + "\n")
    return path


# what each command is run with; more of a command's options below it, in rows of their own
Words = Callable[[World, Path], list[list[Any]]]
COMMANDS: dict[str, Words] = {
    "demo": lambda w, out: [["--out", out.parent]],
    "explore": lambda w, out: [
        [HOSTILE], [w.space, "--dataset", out.with_name(FILE_NAME)], [w.space, "--host", HOSTILE, "--port", "0"],
    ],
    "train": lambda w, out: [
        [out.with_name(FILE_NAME), "--base", w.space, "--out", out],
        [picture(out), "--base", out, "--for", w.people, "--out", out],
        [picture(out), "--base", HOSTILE, "--target", HOSTILE, "--engine", HOSTILE, "--out", out],
        [picture(out), "--base", w.space, "--no-class-pictures", "--steps", 1, "--validate", 1, "--validate-prompt",
         HOSTILE, "--out", out],
    ],
    "train-many": lambda w, out: [
        [out.with_name(FILE_NAME), "--base", w.space, "--out", out],
        [labels(out.with_name("t.jsonl"), w), "--base", HOSTILE, "--out", out],
    ],
    "info": lambda w, out: [
        [w.people], [w.space], [w.people, "--json"], [w.people.parent], [adapter(out)], [out.parent], [HOSTILE],
        [adapter(out.with_name("b")) / "adapter_model.safetensors"], [picture(out.with_name("x.png"))],
        [labels(out.with_name(f"l{FILE_NAME}.jsonl"), w)], [out.with_name(FILE_NAME)],
    ],
    "inspect": lambda w, out: [
        [w.people], [w.space], [adapter(out)], [w.people, w.space, adapter(out.with_name("b"))],
        [adapter(out.with_name("c")), "--against", w.people], [HOSTILE],
    ],
    "convert": lambda w, out: [
        [adapter(out.with_name("b")), "--to", "kohya", "--out", out], [w.people, "--to", "peft", "--out", out],
    ],
    "pack": lambda w, out: [
        [adapter(out.with_name("b" + FILE_NAME[:50])), "--out", out],
        [adapter(out.with_name("b")), "--out", out, "--labels", labels(out.with_name("l.jsonl"), w)],
        [adapter(out.with_name("c")), "--out", out, "--unit", f"{HOSTILE}=x", "--initialisation", HOSTILE],
        [out.with_name(FILE_NAME), "--out", out],
        [adapter(out.with_name("d") / FILE_NAME[:50]).parent, "--out", out.with_name("scanned"), "--holdout", 0.5,
         "--extra-labels", "ignore", "--labels", labels(out.with_name("m.jsonl"), w)],
    ],
    "import-w2w": lambda w, out: [
        [out.with_name(FILE_NAME), "--out", out], [w.people, "--out", out, "--split-by", HOSTILE],
        [out.with_name(FILE_NAME), "--space", w.space, "--out", out.with_suffix(".json")],
    ],
    "add": lambda w, out: [[copied(w, out), w.later], [w.people, adapter(out.with_name("b"))], [w.people, out.parent]],
    "remove": lambda w, out: [[copied(w, out), "p00001"], [w.people, "nobody" + HOSTILE], [w.people, "--ids", out]],
    "relabel": lambda w, out: [
        [copied(w, out), "--version", "2.0.0", "--unit", "Hair=shade"], [out.with_name("people"), "--drop", HOSTILE],
        [w.people, "--labels", labels(out.with_name("l.jsonl"), w)],
        [out.with_name("people"), "--initialization", HOSTILE, "--license", HOSTILE, "--force"],
        [out.with_name("people"), "--base", out.with_name(HOSTILE[:20].replace("/", ""))],
    ],
    "init": lambda w, out: [
        [w.people, "--out", out], [out, "--out", out], [w.people, "--trainer", HOSTILE, "--out", out],
    ],
    "contribute": lambda w, out: [
        [w.people, adapter(out.with_name("b" + FILE_NAME[:50])), "--dry-run", "--license", HOSTILE],
        [w.people, adapter(out.with_name("c")), "--dry-run", "--label", f"{HOSTILE}={HOSTILE}"],
        [w.people, adapter(out.with_name("d")), "--dry-run", "--labels", labels(out.with_name("l.jsonl"), w)],
        [out, adapter(out.with_name("e")), "--dry-run"], [w.people, out, "--dry-run"],
    ],
    "verify": lambda w, out: [[w.people, "--deep"], [w.later], [w.space], [out]],
    "repair": lambda w, out: [[w.people], [out]],
    "diff": lambda w, out: [[w.people, w.later], [w.space, w.people]],
    "dedupe": lambda w, out: [[w.people], [w.people, "--exact-only"]],
    "build": lambda w, out: [[w.people, "--k", 3, "--out", out], [w.people, "--split", HOSTILE, "--out", out]],
    "rebuild": lambda w, out: [[w.space, "--check", "--dataset", w.people]],
    "compare": lambda w, out: [[w.space, w.space], [w.space, out.with_name(FILE_NAME)]],
    "report": lambda w, out: [[w.space, "--out", out]],
    "atlas": lambda w, out: [
        [w.space, "--dataset", w.people, "--out", out.with_suffix(".parquet"), "--html", out.with_suffix(".html")],
        [w.space, "--axes", f"{HOSTILE},PC1", "--out", out], [w.space, "--by", HOSTILE, "--out", out],
        [w.space, "--axes", "PC1,PC2", "--base", HOSTILE, "--out", out],
    ],
    "export-slider": lambda w, out: [
        [w.space, "--attribute", w.attribute, "--to", "diffusers", "--out", out],
        [w.space, "--attribute", w.attribute, "--at", w.id, "--to", "kohya", "--out", out.with_suffix(".safetensors")],
        [w.space, "--attribute", HOSTILE, "--to", "peft", "--out", out], [w.space, "--attribute", "PC1", "--to",
         "peft", "--at", HOSTILE, "--out", out],
        [w.space, "--set", f"{HOSTILE}=true", "--to", HOSTILE, "--out", out],
        [w.space, "--set", f"{w.attribute}=true", "--to", "peft", "--layers", HOSTILE, "--out", out],
    ],
    "directions": lambda w, out: [
        [w.space, "--entanglement"], [w.space, "--entanglement", "--out", out.with_suffix(".png")],
        [w.space, "--entanglement", "--out", out],
    ],
    "calibrate": lambda w, out: [
        [w.space, "--judge", HOSTILE, "--out", out], [w.space, "--judge", "os:getcwd", "--out", out],
        [w.space, "--judge", "os:getcwd", "--strengths", HOSTILE, "--out", out],
        [w.space, "--judge", "os:getcwd", "--base", out, "--out", out.with_name("new")],
    ],
    "slider": lambda w, out: [
        [w.space, "--name", HOSTILE, "--positive", HOSTILE, "--negative", "b", "--out", out],
        [w.space, "--name", "new", "--before", out, "--after", out, "--base", out, "--out", out.with_name("new")],
        [w.space, "--name", w.attribute, "--positive", HOSTILE, "--negative", "b", "--out", out],
    ],
    "nearest": lambda w, out: [[w.space, w.id], [w.space, out]],
    "read": lambda w, out: [[w.space, w.id], [w.space, out]],
    "fit-encoder": lambda w, out: [
        [w.space, "--out", out], [out, "--store"], [w.space, "--base", HOSTILE, "--prompt", HOSTILE, "--out", out],
    ],
    "sample": lambda w, out: [
        [w.space, "--out", out], [w.space, "--attribute", f"{HOSTILE}=x", "--out", out.with_name("points")],
        [w.space, "--attribute", f"{w.attribute}=true", "--out", out.with_name("points")],
        [w.space, "--method", HOSTILE, "--out", out.with_name("points")],
    ],
    "edit": lambda w, out: [
        [w.space, w.id, f"{w.attribute}=2", "--out", out.with_suffix(".json")],
        [w.space, w.id, f"nothing{HOSTILE}=2", "--out", out.with_suffix(".json")],
        [w.space, w.id, HOSTILE, "--out", out], [w.space, w.id, "--set", f"{w.attribute}=true", "--out", out],
        [w.space, w.id, "--set", f"{HOSTILE}=x", "--out", out], [w.space, w.id, "--set", HOSTILE, "--out", out],
        [w.space, w.id, f"{w.attribute}=1", "--layers", HOSTILE, "--out", out],
        [w.space, w.id, f"{w.attribute}=1", "--unit", HOSTILE, "--out", out],
    ],
    "invert": lambda w, out: [
        [w.space, picture(out), "--out", out.with_name("points")],
        [w.space, picture(out), "--start", HOSTILE, "--encoder", out, "--out", out.with_name("points")],
    ],
    "render": lambda w, out: [[w.space, w.id, "--out", out]],
    "grid": lambda w, out: [
        [w.space, w.id, "--attribute", w.attribute, "--out", out],
        [w.space, w.id, "--attribute", w.attribute, "--strengths", HOSTILE, "--out", out.with_suffix(".png")],
        [w.space, w.id, "--set", f"{w.attribute}=true", "--out", out.with_suffix(".png")],
    ],
    "export": lambda w, out: [[w.space, w.id, "--out", out], [w.space, w.id, "--dialect", HOSTILE, "--out", out]],
}  # fmt: skip


def test_every_command_is_tried_with_hostile_names() -> None:
    assert sorted({*COMMANDS, *BY_THE_HUB}) == sorted(main.commands)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_lets_a_name_act_on_the_terminal(command: str, world: World, out: Path) -> None:
    results = [w2w(command, *words) for words in COMMANDS[command](world, out)]
    assert {result.exit_code for result in results} <= {0, 1, 2}
    assert any(f"\\x1b]0;{MARK}" in result.output for result in results)  # it is shown, as text


@pytest.mark.parametrize(
    "command", [name for name in COMMANDS if "--json" in {o for p in main.commands[name].params for o in p.opts}]
)
def test_json_stays_json_and_is_ascii(command: str, world: World, out: Path) -> None:
    result = w2w(command, *COMMANDS[command](world, out)[0], "--json")
    assert result.stdout.isascii()
    if result.stdout:
        json.loads(result.stdout)
    else:
        assert result.exit_code == 2


@pytest.mark.parametrize("words", [[HOSTILE], ["read", HOSTILE, HOSTILE, HOSTILE], ["pack", f"--{HOSTILE}"]])
def test_a_command_line_that_cannot_be_read_is_quoted_as_text(words: list[str]) -> None:
    result = w2w(*words)
    assert result.exit_code == 2
    assert MARK in result.stderr


# ---------------------------------------------------------------- cards
def cards(world: World, out: Path) -> dict[str, str]:
    """The cards of a dataset that was changed and of a space, as the commands write them."""
    people = copied(world, out)
    assert w2w("relabel", people, "--version", "2.0.0", "--unit", "Hair=shade").exit_code == 0
    return {
        "dataset": (people / "README.md").read_text("utf-8"),
        "space": (world.space / "README.md").read_text("utf-8"),
    }


@pytest.mark.parametrize("kind", ["dataset", "space"])
def test_a_card_shows_names_as_text_and_its_metadata_holds_them_whole(kind: str, world: World, out: Path) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    card = cards(world, out)[kind]
    require_shown_safely(card.replace("\n---\n", "\n", 1).removeprefix("---\n"))
    metadata, body = split_card(card)
    assert metadata["license"] == f"mit{HOSTILE}"
    assert set(metadata) <= {
        "pretty_name", "license", "size_categories", "tags", "configs", "library_name", "pipeline_tag", "w2w_hub_card"
    }  # fmt: skip
    tokens = markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(body)
    kinds = {token.type for token in tokens}
    inline = [child for token in tokens for child in token.children or ()]
    assert not {"html_block", "hr", "blockquote_open", "ordered_list_open"} & kinds
    assert not {"html_inline", "link_open", "image", "em_open", "strong_open", "hardbreak"} & {c.type for c in inline}
    assert [token.tag for token in tokens if token.type == "heading_open"] == ["h1"]
    for child in inline:  # what renderers make links, mentions and mathematics of by themselves
        assert child.type != "text" or not any(mark in child.content for mark in ("://", "www.", "@", "$", "<")), child
    fences = [token.content for token in tokens if token.type == "fence"]
    assert len(fences) == (1 if kind == "dataset" else 0)
    for fence in fences:
        assert f"people{HOSTILE}\0" in compile(fence, "card", "exec").co_consts
    cells = "".join({"tr_open": "\n", "td_open": ".", "th_open": "."}.get(token.type, "") for token in tokens).split()
    assert set(map(len, cells)) <= {2, 3, 4, 5, 7}  # no bar of a name makes a cell
    assert MARK in body


def test_the_card_of_harmless_names_is_free_of_escapes(
    tmp_path: Path, make_dataset: Callable[..., WeightDataset]
) -> None:
    card = dataset_card(make_dataset(column_info={"Age": {"unit": "years", "source": "self-reported, 2_024"}}).manifest)
    assert "| `Age` | float | years | self-reported, 2_024 |" in card
    assert "\\" not in card


# ---------------------------------------------------------------- pages
def test_the_report_has_no_element_or_attribute_but_its_own(world: World, out: Path) -> None:
    assert w2w("report", world.space, "--out", out).exit_code == 0
    text = (out / "report.html").read_text("utf-8")
    page = Page(text)
    assert page.tags <= {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "div", "b", "span", "i", "code",
        "figure", "figcaption", "details", "summary", "table", "tr", "th", "td", "nav", "a",
        "svg", "text", "line", "rect", "path", "polyline", "circle", "g",
    }  # fmt: skip
    assert not [name for name in page.attributes if name.startswith("on")]
    assert all(link[0] == "#" and link[1:].replace("-", "").isalpha() for link in page.links)
    assert not page.comments
    assert MARK in page.text
    require_shown_safely(page.text.replace("\n", " "))


def test_the_report_of_the_demo_escapes_text_cells_and_attributes(tmp_path: Path) -> None:
    from PIL import Image

    from w2w_hub.demo.report import report
    from w2w_hub.demo.stages import Section

    Image.new("RGB", (2, 2)).save(tmp_path / "picture.png")
    rows = [(HOSTILE,), (1234,), ("missed",)]
    section = Section(HOSTILE, HOSTILE, "picture.png", HOSTILE, (HOSTILE,), rows)
    page = Page(report(HOSTILE, HOSTILE, [section], [HOSTILE], tmp_path))
    assert not page.tags & {"script", "svg"}
    assert page.attributes == {"lang", "charset", "name", "content", "alt", "src", "class", "width", "href", "id"}
    assert [link[:22] for link in page.links] == ["#section-1", "#commands", "#figures", "data:image/png;base64,"]
    assert not page.comments
    require_shown_safely(page.text.replace("\n", " "))
    with pytest.raises(UnsafePathError):
        report("", "", [Section("", picture=f"../{tmp_path.name}/picture.png")], [], tmp_path)


def test_a_chart_escapes_names_in_text_titles_and_attributes() -> None:
    from w2w_hub.space.report import svg

    charts = [
        svg.heatmap(np.eye(2), [HOSTILE, "b"]),
        svg.bars([(HOSTILE, 0.5, (0.4, 0.6), 0.5, True)], HOSTILE, (0.0, 1.0)),
        svg.line_chart({HOSTILE: [(1, 1), (2, 2)]}, HOSTILE, HOSTILE, dashed=[HOSTILE]),
        svg.histogram({HOSTILE: np.arange(5.0), "b": np.arange(3.0)}, HOSTILE),
        svg.scatter({HOSTILE: [(1, 1), (2, 2)]}, HOSTILE, HOSTILE),
    ]
    for chart in charts:
        page = Page(chart)
        assert page.tags <= {
            "svg",
            "title",
            "text",
            "line",
            "rect",
            "path",
            "polyline",
            "circle",
            "g",
            "div",
            "span",
            "i",
        }
        assert not [name for name in page.attributes if name.startswith("on")]
        assert MARK in page.text


def test_a_space_of_hostile_names_still_opens(world: World) -> None:
    """What the cases above are about: nothing of it is refused before it could be shown."""
    assert world.attribute in WeightSpace.from_pretrained(world.space).directions
