"""Drawing, inverting, uploading and exporting without a browser."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from w2w_hub import read_adapter
from w2w_hub.errors import InvalidInputError, W2WError
from w2w_hub.explore.files import EXPORTS, export, export_slider, read_adapter_upload, read_picture_upload, uploaded
from w2w_hub.explore.people import people_of
from w2w_hub.explore.snippet import python_of
from w2w_hub.explore.state import Mixed, Row, Sampled, Saved, State
from w2w_hub.explore.studio import PREVIEW_STEPS, StoppedError, Studio, dataset_beside
from w2w_hub.space import make_slider

pytestmark = pytest.mark.slow

QUICK = {"steps": 2, "guidance": 1.0}
ONE_STEP = {"num_inference_steps": 1}


def drawn(studio: Studio, state: State) -> np.ndarray:
    return np.asarray(studio.draw([people_of(studio.space, state).after], state.case, state.settings)[0])


@pytest.mark.parametrize(
    "state",
    [
        State(Sampled(3, 0.7, {"Sunglasses": True}), **QUICK),
        State(
            Row("person-0003"),
            wanted={"Full_Beard": True},
            pushes={"Dark_Skin": -1.5},
            preserve=("Sunglasses",),
            **QUICK,
        ),
        State(Row("person-0004"), wanted={"Full_Beard": False}, factor=0.5, start=0.5, prompt="it's", seed=4, **QUICK),
        State(Mixed(((Row("person-0003"), 25.0), (Sampled(1), 75.0))), pushes={"PC2": 2.0}, **QUICK),
    ],
)
def test_the_python_of_a_state_draws_its_picture(
    studio: Studio, state: State, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(python_of(state, studio.source), "snippet", "exec"), {})
    found = np.asarray(Image.open(tmp_path / "person.png")).astype(int)
    assert np.abs(found - drawn(studio, state)).max() <= 1


def test_the_python_of_an_inverted_person_reads_the_exported_point(
    studio: Studio, tmp_path: Path, monkeypatch: Any
) -> None:
    point = studio.space.sample(1, seed=5)[0]
    state = State(Saved(tuple(point.coefficients.tolist())), **QUICK)
    export(studio.space, people_of(studio.space, state).after, "point", tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(compile(python_of(state, studio.source), "snippet", "exec"), {})
    assert np.abs(np.asarray(Image.open("person.png")).astype(int) - drawn(studio, state)).max() <= 1


def test_a_picture_is_drawn_once(studio: Studio, monkeypatch: Any) -> None:
    state = State(Row("person-0010"), **QUICK)
    first = drawn(studio, state)
    monkeypatch.setattr(studio, "_render", lambda *given: pytest.fail("drawn again"))
    assert np.array_equal(drawn(studio, state), first)


def test_a_drawing_reports_its_steps_and_stops_when_asked(studio: Studio) -> None:
    person = people_of(studio.space, State(Row("person-0011"))).after
    seen: list[float] = []
    studio.draw([person], ("sks person", 1), {"num_inference_steps": 4}, seen.append)
    assert seen == [0.25, 0.5, 0.75, 1.0]

    def stop(fraction: float) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        studio.draw([person], ("sks person", 2), {"num_inference_steps": 4}, stop)
    assert len(studio.draw([person], ("sks person", 2), {"num_inference_steps": 2})) == 1


def test_an_inversion_shows_previews_and_ends_as_a_plain_call_does(studio: Studio) -> None:
    picture = studio.draw([people_of(studio.space, State(Row("person-0012"))).after], ("sks person", 0), ONE_STEP)[0]
    found = list(studio.invert(picture, steps=30, prompt="sks person", stop=lambda: False))
    assert [len(each.losses) for each, _ in found] == [1, 20, 30]
    plain = studio.pipe.invert(picture, num_steps=30, seed=0)
    assert found[-1][0].point == plain.point
    expected = studio.draw([studio.pipe.resolve(plain)], ("sks person", 0), {"num_inference_steps": PREVIEW_STEPS})[0]
    assert np.abs(np.asarray(found[-1][1]).astype(int) - np.asarray(expected)).max() <= 1


@pytest.mark.slow
def test_a_stopped_inversion_returns_what_it_found(studio: Studio) -> None:
    picture = studio.draw([None], ("sks person", 0), ONE_STEP)[0]
    seen: list[int] = []
    for found, _ in studio.invert(picture, steps=400, prompt="sks person", stop=lambda: len(seen) > 0):
        seen.append(len(found.losses))
    assert 1 <= seen[-1] < 400


@pytest.mark.slow
def test_an_inversion_that_is_left_ends_in_its_thread(studio: Studio) -> None:
    picture = studio.draw([None], ("sks person", 0), ONE_STEP)[0]
    running = studio.invert(picture, steps=100_000, prompt="sks person", stop=lambda: False)
    next(running)
    running.close()  # waits for the thread
    assert len(studio.draw([None], ("sks person", 9), {"num_inference_steps": 1})) == 1


def test_the_decorator_of_a_gpu_gets_both_functions_that_run_the_model(studio: Studio) -> None:
    seen: list[str] = []

    def gpu(function: Any) -> Any:
        seen.append(function.__name__)
        return function

    decorated = Studio(studio.pipe, source=studio.source, gpu=gpu)
    assert len(seen) == 2
    # what it is called with can be sent to another process, so no callback is
    (picture,) = decorated.draw([None], ("sks person", 0), ONE_STEP, lambda fraction: pytest.fail("called"))
    found = list(decorated.invert(picture, steps=400, prompt="sks person", stop=lambda: True))
    assert [len(each.losses) for each, _ in found] == [1]


# ---------------------------------------------------------------- files
@pytest.mark.parametrize("kind", ["peft", "diffusers", "kohya", "point"])
def test_an_export_is_uploaded_again_as_the_same_person(studio: Studio, kind: str, tmp_path: Path) -> None:
    person = people_of(studio.space, State(Row("person-0003"), pushes={"Full_Beard": 2.0})).after
    made = export(studio.space, person, kind, tmp_path)
    paths = [made]
    if made.suffix == ".zip":
        zipfile.ZipFile(made).extractall(tmp_path / "peft")
        paths = sorted((tmp_path / "peft").iterdir())
    found, name, _ = read_adapter_upload(studio.space, paths)
    assert name
    np.testing.assert_allclose(found.vector, person.vector, atol=1e-5)


def test_all_exports_are_named_and_no_other(studio: Studio, tmp_path: Path) -> None:
    person = people_of(studio.space, State(Row("person-0003"))).after
    picture = studio.draw([person], ("sks person", 0), {"num_inference_steps": 1})[0]
    assert all(export(studio.space, person, kind, tmp_path, picture).is_file() for kind in EXPORTS if kind != "slider")
    with pytest.raises(InvalidInputError):
        export(studio.space, person, "../evil", tmp_path)


def test_a_slider_is_the_largest_push_or_else_the_set(studio: Studio, tmp_path: Path) -> None:
    state = State(Row("person-0003"), pushes={"Full_Beard": 1.0, "Dark_Skin": -2.0})
    before = people_of(studio.space, state).before
    expected = make_slider(studio.space, "Dark_Skin", at=before)
    made = read_adapter(export_slider(studio.space, before, state, tmp_path))
    for target, pair in expected.adapter.factors.items():
        found = made.factors[target]
        np.testing.assert_allclose(found.scale * found.B @ found.A, pair.scale * pair.B @ pair.A, atol=1e-5)
    assert export_slider(studio.space, before, State(wanted={"Full_Beard": True}), tmp_path).is_file()
    with pytest.raises(InvalidInputError):
        export_slider(studio.space, before, State(), tmp_path)


def test_the_files_of_an_upload_are_deleted_even_if_it_is_refused(tmp_path: Path, studio: Studio) -> None:
    file = tmp_path / "person.safetensors"
    file.write_bytes(b"broken")
    with pytest.raises(W2WError), uploaded([file]) as found:
        read_adapter_upload(studio.space, found)
    assert not file.exists()


def hostile(folder: Path) -> dict[str, Path]:
    import pickle

    found = {
        "person.pt": pickle.dumps(print), "person.bin": pickle.dumps(print), "person.ckpt": b"\x80\x04.",
        "huge.safetensors": (2**62).to_bytes(8, "little") + b"{}", "empty.safetensors": b"",
        "deep.json": b"[" * 100_000,
        "other.json": json.dumps({"format": "w2w-point", "format_version": 99}).encode(), "page.html": b"<script>",
    }  # fmt: skip
    for name, data in found.items():
        (folder / name).write_bytes(data)
    (folder / "link.safetensors").symlink_to("/etc/passwd")
    return {name: folder / name for name in [*found, "link.safetensors"]}


def test_hostile_uploads_are_refused_without_a_path_of_the_server(studio: Studio, tmp_path: Path) -> None:
    for path in hostile(tmp_path).values():
        with pytest.raises(InvalidInputError) as refused:
            read_adapter_upload(studio.space, [path])
        assert "/" not in str(refused.value).replace("w2w-", "").replace(" / ", "").partition(";")[0], path
        assert str(tmp_path) not in str(refused.value)
    with pytest.raises(InvalidInputError):
        read_adapter_upload(studio.space, [])
    with pytest.raises(InvalidInputError):
        read_adapter_upload(studio.space, [tmp_path / "deep.json"] * 5)


def test_an_uploaded_picture_is_cut_to_the_size_of_the_model(studio: Studio, tmp_path: Path) -> None:
    Image.new("RGB", (300, 200), "red").save(tmp_path / "wide.jpg")
    assert read_picture_upload(tmp_path / "wide.jpg", studio.picture_size).size == (64, 64)
    data = io.BytesIO()
    Image.new("1", (9_000, 9_000)).save(data, "PNG")
    (tmp_path / "bomb.png").write_bytes(data.getvalue())
    (tmp_path / "text.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0")
    for name in ("bomb.png", "text.png"):
        with pytest.raises(InvalidInputError) as refused:
            read_picture_upload(tmp_path / name, studio.picture_size)
        assert str(tmp_path) not in str(refused.value)


# ---------------------------------------------------------------- the dataset
def test_the_dataset_beside_a_space_is_found_by_its_digest_only(labeled: Any, tmp_path: Path) -> None:
    import shutil

    from w2w_hub import WeightSpace

    space, dataset = labeled
    space.save(tmp_path / "space")
    opened = WeightSpace.from_pretrained(tmp_path / "space")
    assert dataset_beside(opened) is None
    shutil.copytree(dataset.path, tmp_path / "people")
    found = dataset_beside(opened)
    assert found is not None
    assert found.manifest.digest == dataset.manifest.digest
    opened.recipe["dataset"] = "../people"
    assert dataset_beside(opened) is None


def test_an_adapter_of_another_layout_is_refused(studio: Studio, labeled: Any, tmp_path: Path) -> None:
    from w2w_hub import write_adapter

    write_adapter(labeled[1].adapter("p03"), tmp_path / "lora", ("diffusers",))
    (file,) = (tmp_path / "lora").iterdir()
    assert read_adapter(file)
    with pytest.raises(InvalidInputError):
        read_adapter_upload(studio.space, [file])
