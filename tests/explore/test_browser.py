"""A browser goes through every tab of the explorer on the demo's space."""

from __future__ import annotations

import json
import pickle
import re
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from w2w_hub import WeightSpace, read_adapter, write_adapter
from w2w_hub.explore import create_app
from w2w_hub.explore.app import build_app
from w2w_hub.explore.studio import Studio

from .browsing import (  # noqa: F401, fixtures
    PHONE,
    README_PICTURE,
    Visitor,
    axe_script,
    browser,
    demo_space,
    served,
    visit,
)

pytestmark = pytest.mark.slow
KINDS = ("LoRA for PEFT", "LoRA for diffusers", "LoRA for ComfyUI", "Slider LoRA", "Point", "Picture")
TABS = ("Edit", "Person", "Components", "Compare", "Dataset")
Visit = Callable[..., Visitor]


@pytest.fixture(scope="module")
def app(demo_space: Path) -> Any:  # noqa: F811
    return create_app(demo_space)


@pytest.fixture(scope="module")
def address(app: Any) -> Iterator[str]:
    with served(app) as found:
        yield found


def control(visitor: Visitor, name: str) -> Any:
    return visitor.page.locator(f"#w2w-edit .control:has([title={name}])")


# ---------------------------------------------------------------- editing
def test_a_stranger_edits_a_person_on_the_first_page(visit: Visit, address: str) -> None:  # noqa: F811
    visitor = visit(address)
    first = visitor.pictures()
    assert len(first) == 1
    control(visitor, "Full_Beard").get_by_role("radio", name="Yes").check()
    both = visitor.until_changed(first)
    assert both[0] == first[0]
    assert both[1] != first[0]
    assert "Full beard yes" in visitor.page.locator("#w2w-facts").inner_text()
    visitor.look("edit-set")
    if README_PICTURE:
        visitor.page.evaluate("scrollTo(0, 0)")
        visitor.page.screenshot(path=README_PICTURE, clip={"x": 0, "y": 0, "width": 1280, "height": 800})
        Image.open(README_PICTURE).convert("RGB").quantize(255).save(README_PICTURE, optimize=True)
    visitor.page.get_by_role("button", name="Undo all").click()
    assert visitor.until_changed(both) == first
    assert control(visitor, "Full_Beard").get_by_role("radio", name="As is").is_checked()


def test_a_push_moves_the_picture_and_its_strip_runs_from_low_to_high(visit: Visit, address: str) -> None:  # noqa: F811
    visitor = visit(address)
    first = visitor.pictures()
    row = control(visitor, "Wearing_Hat")
    row.locator("summary").click()
    assert "AUC" in row.inner_text()
    assert "shows at" in row.inner_text()
    row.locator("input[type=range]").fill("4")
    visitor.until_changed(first)
    row.get_by_role("button", name="Low to high").click()
    visitor.page.locator("#w2w-edit-strip figure").nth(8).wait_for()
    assert visitor.page.locator("#w2w-edit-strip figure").count() == 9
    visitor.look("edit-strip")


def test_contradictions_are_said_and_the_page_goes_on(visit: Visit, address: str) -> None:  # noqa: F811
    visitor = visit(address)
    before = visitor.pictures()
    control(visitor, "Bald").get_by_role("radio", name="Yes").check()
    before = visitor.until_changed(before)
    control(visitor, "Afro").get_by_role("radio", name="Yes").check()
    assert "Afro" in visitor.message()
    control(visitor, "Bald").get_by_role("radio", name="As is").check()
    visitor.until_changed(before)
    assert visitor.page.locator("#w2w-message [role=alert]").count() == 0


def test_features_are_found_by_name_and_kept_while_others_change(visit: Visit, address: str) -> None:  # noqa: F811
    visitor = visit(address)
    visitor.page.get_by_label("Find a feature", exact=True).fill("sungl")
    assert visitor.page.locator("#w2w-edit .control:visible").count() == 1
    visitor.page.get_by_label("Find a feature", exact=True).fill("")
    for name in ("Eyeglasses", "Wearing_Hat"):
        control(visitor, name).locator("summary").click()
    before = visitor.pictures()
    control(visitor, "Wearing_Hat").locator("input[type=range]").fill("4")
    before = visitor.until_changed(before)
    control(visitor, "Eyeglasses").locator("input[type=checkbox]").check()
    visitor.until_changed(before)
    assert "keep=%5B%22Eyeglasses%22%5D" in visitor.link()


def test_a_link_restores_the_whole_state(visit: Visit, address: str) -> None:  # noqa: F811
    visitor = visit(address)
    before = visitor.pictures()
    control(visitor, "hair_color").locator("select").select_option("RED")
    before = visitor.until_changed(before)
    visitor.page.locator("#w2w-edit .more summary").click()
    visitor.page.get_by_label("Start of the changes").first.fill("0.2")
    expected = visitor.until_changed(before)
    visitor.until("() => location.search.includes('start=0.2')")
    other = visit(address + visitor.link())
    assert other.pictures() == expected
    assert control(other, "hair_color").locator("select").input_value() == "RED"


def test_a_damaged_link_opens_a_plain_page_with_a_message(visit: Visit, address: str) -> None:  # noqa: F811
    visitor = visit(address + "?person=%7B%22row%22%3A")
    assert "person" in visitor.message()
    assert len(visitor.pictures()) == 1


# ---------------------------------------------------------------- people
def test_people_are_sampled_by_features_opened_by_name_and_compared_with_the_data(
    visit: Visit,  # noqa: F811
    address: str,
) -> None:
    visitor = visit(address)
    before = visitor.pictures()
    panel = visitor.tab("Person")
    panel.locator("summary").click()
    panel.locator(".control:has-text('Bald')").get_by_role("radio", name="Yes").check()
    panel.get_by_role("button", name="Make this person").click()
    before = visitor.until_changed(before)
    visitor.until("() => location.search.includes('Bald')")
    panel.get_by_role("button", name="Show them").click()
    visitor.page.locator("#w2w-neighbors figure").first.wait_for()
    assert "similarity" in visitor.page.locator("#w2w-neighbors").inner_text()
    visitor.look("person")
    panel.get_by_label("Name").fill("person-0003")
    panel.get_by_role("button", name="Show", exact=True).click()
    before = visitor.until_changed(before)
    assert "person-0003" in visitor.page.locator("#w2w-stage").inner_text()
    panel.get_by_label("Name").fill("person-9999")
    panel.get_by_role("button", name="Show", exact=True).click()
    assert "person-9999" in visitor.message()
    visitor.page.locator("#w2w-new").click()
    visitor.until_changed(before)


def test_uploads_are_shown_and_not_kept(visit: Visit, address: str, app: Any, demo_space: Path, tmp_path: Path) -> None:  # noqa: F811
    space = WeightSpace.from_pretrained(demo_space)
    write_adapter(space.adapter("person-0004"), tmp_path / "lora", ("kohya",))
    (lora,) = (tmp_path / "lora").iterdir()
    space.row("person-0005").save(tmp_path / "five.json")
    visitor = visit(address)
    visitor.tab("Person")
    visitor.page.get_by_role("button", name="Somebody from a file").click()
    before = visitor.pictures()
    for file in (lora, tmp_path / "five.json"):
        visitor.page.locator("#w2w-upload input[type=file]").set_input_files(file)
        before = visitor.until_changed(before)
        assert file.name in visitor.page.locator("#w2w-stage").inner_text()
        visitor.until("(name) => !document.querySelector('#w2w-upload').innerText.includes(name)", file.stem)
    hostile = tmp_path / "evil.safetensors"
    hostile.write_bytes(pickle.dumps(print))
    visitor.page.locator("#w2w-upload input[type=file]").set_input_files(hostile)
    assert "evil.safetensors" in visitor.message()
    assert visitor.pictures() == before
    assert not [path for path in app.files.rglob("*") if path.is_file()]


def test_a_person_is_searched_in_a_picture_with_previews_until_stopped(
    visit: Visit,  # noqa: F811
    address: str,
    app: Any,
    tmp_path: Path,
) -> None:
    Image.radial_gradient("L").convert("RGB").save(tmp_path / "somebody.jpg")
    visitor = visit(address)
    visitor.tab("Person")
    visitor.page.get_by_role("button", name="Somebody in a picture").click()
    before = visitor.pictures()
    visitor.page.locator("#w2w-picture input[type=file]").set_input_files(tmp_path / "somebody.jpg")
    visitor.page.locator("#w2w-inversion svg").wait_for()
    assert visitor.page.locator("#w2w-inversion figure").count() == 2
    visitor.look("inversion")
    visitor.page.locator("#w2w-stop").click()
    visitor.until_changed(before)
    step = visitor.page.locator("#w2w-inversion [role=status]").inner_text()
    assert int(step.split()[1]) < 200
    assert "Person in the picture" in visitor.page.locator("#w2w-stage").inner_text()
    visitor.until("() => !document.querySelector('#w2w-picture').innerText.includes('somebody')")
    assert not [path for path in app.files.rglob("*") if path.is_file()]
    (tmp_path / "fake.png").write_bytes(b"%!PS-Adobe-3.0")
    visitor.page.locator("#w2w-picture input[type=file]").set_input_files(tmp_path / "fake.png")
    assert "fake.png" in visitor.message()


# ---------------------------------------------------------------- the other tabs
def test_components_are_sliders_with_a_contact_sheet(visit: Visit, address: str) -> None:  # noqa: F811
    visitor = visit(address)
    before = visitor.pictures()
    panel = visitor.tab("Components")
    panel.get_by_label("Component 1", exact=True).fill("3")
    before = visitor.until_changed(before)
    panel.get_by_role("button", name="Draw a sheet").click()
    visitor.page.locator("#w2w-components-sheet figure").nth(23).wait_for()
    visitor.look("components")
    panel.get_by_label("From number").fill("399")
    panel.get_by_role("button", name="Show these").click()
    panel.get_by_text("Component 400").wait_for()


def test_people_are_compared_and_mixed(visit: Visit, address: str) -> None:  # noqa: F811
    visitor = visit(address)
    before = visitor.pictures()
    panel = visitor.tab("Compare")
    panel.get_by_role("button", name="Add the person").click()
    panel.locator("figure").first.wait_for()
    panel.locator("#compare-row").fill("person-0007")
    panel.get_by_role("button", name="Add by name").click()
    panel.locator("table").first.wait_for()
    assert "1.00" in panel.inner_text()
    visitor.look("compare")
    panel.get_by_label("Share of person-0007").fill("80")
    panel.get_by_role("button", name="Mix them").click()
    visitor.until_changed(before)
    assert "Mix of" in visitor.page.locator("#w2w-stage").inner_text()
    other = visit(address + visitor.link())
    assert other.pictures() == visitor.pictures()
    assert other.tab("Compare").locator("figure").count() == 2


def test_rows_are_filtered_paged_and_opened(visit: Visit, address: str) -> None:  # noqa: F811
    visitor = visit(address)
    before = visitor.pictures()
    panel = visitor.tab("Dataset")
    panel.get_by_text("Choose by label").click()
    panel.get_by_label("Bald").select_option("yes")
    panel.get_by_text("64 of 1,056 people").wait_for()
    panel.get_by_role("button", name="Next").click()
    panel.get_by_text("Page 2 of 3").wait_for()
    visitor.look("dataset")
    name = panel.locator("button.link").first.inner_text()
    panel.locator("button.link").first.click()
    visitor.until_changed(before)
    assert name in visitor.page.locator("#w2w-stage").inner_text()


@pytest.mark.parametrize("kind", KINDS)
def test_a_person_is_exported(visit: Visit, address: str, tmp_path: Path, kind: str) -> None:  # noqa: F811
    visitor = visit(address)
    before = visitor.pictures()
    control(visitor, "Full_Beard").get_by_role("radio", name="Yes").check()
    visitor.until_changed(before)
    visitor.page.get_by_role("button", name="Take it along").click()
    visitor.page.get_by_label("As", exact=True).click()
    visitor.page.get_by_role("option", name=kind).click()
    with visitor.page.expect_download() as waiting:
        visitor.page.locator("#w2w-make").click()
    file = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(file)
    assert re.search(r"person|slider", file.name)
    if kind == "Point":
        assert json.loads(file.read_text())["format"] == "w2w-point"
    elif kind == "Picture":
        assert Image.open(file).size == (64, 64)
    else:
        if file.suffix == ".zip":
            zipfile.ZipFile(file).extractall(tmp_path / "lora")
            file = tmp_path / "lora"
        assert read_adapter(file)


def test_what_is_drawn_can_be_changed(visit: Visit, address: str) -> None:  # noqa: F811
    visitor = visit(address)
    before = visitor.pictures()
    visitor.page.get_by_role("button", name="What is drawn").click()
    visitor.page.get_by_label("Prompt").fill("sks person smiling red hoodie")
    visitor.page.get_by_label("Picture number").fill("3")
    visitor.page.locator("#w2w-draw").click()
    visitor.until_changed(before)
    assert "smiling+red" in visitor.link()


# ---------------------------------------------------------------- for everybody
def test_two_visitors_at_once_have_their_own_people(visit: Visit, address: str) -> None:  # noqa: F811
    one, two = visit(address), visit(address)
    before = one.pictures()
    assert two.pictures() == before
    control(one, "Full_Beard").get_by_role("radio", name="Yes").check()
    control(two, "Wearing_Hat").get_by_role("radio", name="Yes").check()
    mine, other = one.until_changed(before), two.until_changed(before)
    assert mine[0] == other[0]
    assert mine[1] != other[1]
    assert "Full_Beard" in one.link()
    assert "Full_Beard" not in two.link()


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_no_serious_fault_in_any_tab(visit: Visit, address: str, dark: bool) -> None:  # noqa: F811
    script = axe_script()
    visitor = visit(address + ("?__theme=dark" if dark else ""))
    before = visitor.pictures()
    control(visitor, "Full_Beard").get_by_role("radio", name="Yes").check()
    visitor.until_changed(before)
    for summary in visitor.page.locator("#w2w-edit summary").all()[:2]:
        summary.click()
    for name in ("What is drawn", "Take it along"):
        visitor.page.get_by_role("button", name=name).click()
    visitor.page.evaluate(script)
    faults = []
    for tab in TABS:
        visitor.tab(tab)
        visitor.page.wait_for_timeout(300)
        found = visitor.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        faults += [
            f"{tab}: {each['id']}: {node['html'][:160]}"
            for each in found["violations"]
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"]
        ]
    assert not faults


def test_a_phone_shows_every_tab_without_scrolling_sideways(visit: Visit, address: str) -> None:  # noqa: F811
    visitor = visit(address, PHONE)
    before = visitor.pictures()
    control(visitor, "Full_Beard").get_by_role("radio", name="Yes").check()
    visitor.until_changed(before)
    for tab in TABS:
        visitor.tab(tab)
        assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 390, tab
        visitor.look(f"phone-{tab.lower()}")
    visitor.tab("Edit")
    control(visitor, "hair_color").scroll_into_view_if_needed()
    top = visitor.page.locator("#w2w-stage").bounding_box()["y"]
    assert 0 <= top < 100  # the pictures are still in sight


def test_a_page_with_hostile_names_runs_nothing(
    visit: Visit,  # noqa: F811
    tiny_space: Path,
) -> None:
    studio = Studio.open(tiny_space)
    found = list(studio.space.directions.values())
    names = [
        "<img src=x onerror=alert(1)>",
        "${alert(2)}{{alert(3)}}</div><script>alert(4)</script>",
        "\"'` onclick=alert(5)",
    ]
    hostile = {name: replace(each, attribute=name) for name, each in zip(names, found, strict=True)}
    studio.pipe.attach(replace(studio.space, name=names[0], directions=hostile, population_model=None), verify=False)
    with served(build_app(studio)) as address:
        visitor = visit(address)
        assert visitor.page.locator("#w2w-edit .control").count() == 3
        for summary in visitor.page.locator("#w2w-edit summary").all():
            if summary.locator("..").get_attribute("open") is None:
                summary.click()
        before = visitor.pictures()
        visitor.page.locator("#w2w-edit input[type=range]").first.fill("3")
        visitor.until_changed(before)
        time.sleep(0.5)
        assert visitor.page.locator("#w2w-edit img, script:text('alert')").count() == 0
