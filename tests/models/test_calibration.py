from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from tests.tiny_world import TinyWorld
from w2w_hub import W2WPipeline, WeightSpace, calibrate, calibrate_sets
from w2w_hub.cli import main
from w2w_hub.errors import AlreadyExistsError, InvalidInputError, UnknownNameError
from w2w_hub.release import diff

DRAWN: dict[str, Any] = {"num_inference_steps": 1, "guidance_scale": 1.0}
SHORT: dict[str, Any] = {"people": 4, "strengths": (2.0, 50.0), **DRAWN}
CASES = (("a", 0), ("b", 1))


def test_curves_are_measured_on_pictures_and_the_pipeline_stays_as_it_is(pipe: W2WPipeline) -> None:
    person = pipe.identity = pipe.space.row("person-0003")
    before = dict(pipe.space.directions)
    found = calibrate(pipe, lambda pictures: {"Sunglasses": np.zeros(len(pictures), bool)}, cases=CASES, **SHORT)
    curve = found.directions["Sunglasses"].picture_curve
    assert curve is not None
    assert curve.shown == (0.0, 0.0, 0.0)
    assert curve.strengths == (0.0, 2.0, 50.0)
    assert curve.rows == 4
    assert curve.cases == CASES
    assert curve.settings == DRAWN
    assert curve.inside[0] == 1
    assert curve.inside[-1] == 0
    assert found.directions["Sunglasses"].typical is None  # the pictures' curve says more than that of coefficients
    assert found.directions["Full_Beard"] == before["Full_Beard"]
    assert pipe.space.directions == before
    assert pipe.identity.point == person


def test_a_curve_says_what_the_judge_saw(pipe: W2WPipeline) -> None:
    calls = []

    def judge(pictures: np.ndarray) -> dict[str, Any]:
        """Everybody shows it from the second strength on, and all lose the other attribute at the last."""
        calls.append(len(pictures))
        strength = max(0, len(calls) - 2)  # the first two calls are people as they are
        seen = {"Dark_Skin": 0.9 if strength >= 2 else 0.1, "Sunglasses": strength >= 3}
        return {name: np.full(len(pictures), value) for name, value in seen.items()}

    found = calibrate(pipe, judge, ["Dark_Skin"], people=3, strengths=(1, 2, 3), batch_size=3, **DRAWN)
    curve = found.directions["Dark_Skin"].picture_curve
    assert curve is not None
    assert curve.shown == (0, 0, 1, 1)
    assert curve.least_kept == (1, 1, 1, 0)
    assert curve.others == ("Sunglasses",)
    assert curve.breaks == pytest.approx(2.2)
    assert curve.reaches == pytest.approx(1.8)
    assert sum(calls) == 6 + 3 * 3


def test_held_out_people_come_first_and_without_a_population_people_are_sampled(pipe: W2WPipeline) -> None:
    names = []
    space = pipe.space
    try:
        pipe.attach(space.without_population())
        found = calibrate(pipe, lambda p: {"Dark_Skin": np.zeros(len(p), bool)}, **SHORT)
        curve = found.directions["Dark_Skin"].picture_curve
        assert curve is not None
        assert curve.inside == (1, 1, 1)  # not known
    finally:
        pipe.attach(space)
    real = pipe.render

    def watched(identities: Any, *args: Any, **options: Any) -> Any:
        names.extend(identity.history.get("row") for identity in identities)
        return real(identities, *args, **options)

    pipe.render = watched  # type: ignore[method-assign]
    try:
        calibrate(pipe, lambda p: {"Dark_Skin": np.zeros(len(p), bool)}, **SHORT)
    finally:
        del pipe.render
    assert space.population is not None
    held_out = [i for i, used in zip(space.population.ids, space.population.fitted, strict=True) if not used]
    assert names[:8] == held_out[:8]


@pytest.mark.parametrize("answer", [
    lambda n: [True] * n, lambda n: {"Dark_Skin": [True]}, lambda n: {"Dark_Skin": np.full(n, 2.0)},
    lambda n: {"Dark_Skin": np.full(n, np.nan)}, lambda n: {"Dark_Skin": ["yes"] * n}, lambda n: {3: np.zeros(n, bool)},
    lambda n: {"Dark_Skin": np.zeros((n, 2), bool)}, lambda n: {"Nothing": np.zeros(n, bool)}, lambda n: {},
    lambda n: None,
])  # fmt: skip
def test_a_judge_that_does_not_return_what_it_should_is_refused(pipe: W2WPipeline, answer: Any) -> None:
    with pytest.raises(InvalidInputError):
        calibrate(pipe, lambda pictures: answer(len(pictures)), **SHORT)


def test_an_attribute_without_a_direction_is_refused_before_anything_is_drawn(pipe: W2WPipeline) -> None:
    with pytest.raises(UnknownNameError):
        calibrate(pipe, lambda pictures: pytest.fail("drawn"), ["Bear"], **SHORT)


# ------------------------------------------------------------------------ sets
def test_the_strength_of_sets_is_that_with_the_best_pictures_of_fitted_people(pipe: W2WPipeline) -> None:
    calls: list[int] = []
    drawn: list[Any] = []
    real = pipe.render

    def watched(identities: Any, *args: Any, **options: Any) -> Any:
        drawn.extend(getattr(identity, "history", {}).get("row") for identity in identities)
        return real(identities, *args, **options)

    def judge(pictures: np.ndarray) -> dict[str, Any]:
        """The attribute shows from the second strength on; the third costs everybody the other one."""
        calls.append(len(pictures))
        strength = max(0, len(calls) - 2)  # the first two calls are people as they are
        seen = {"Sunglasses": strength >= 2, "Dark_Skin": strength >= 3}
        return {name: np.full(len(pictures), value) for name, value in seen.items()}

    pipe.render = watched  # type: ignore[method-assign]
    try:
        found = calibrate_sets(pipe, judge, ["Sunglasses"], people=3, strengths=(1, 2, 3), batch_size=3, **DRAWN)
    finally:
        del pipe.render
    assert pipe.space.population is not None
    assert pipe.space.population_model is not None
    assert found.population_model is not None
    fitted = {i for i, used in zip(pipe.space.population.ids, pipe.space.population.fitted, strict=True) if used}
    assert set(drawn[:6]) <= fitted
    assert found.population_model.strength == 2
    assert found.population_model.evidence["pictures"]["shown"] == [0, 1, 1]
    assert found.population_model.evidence["pictures"]["kept"] == [1, 1, 0]
    assert pipe.space.population_model.strength != 2  # the pipeline's stays
    point = pipe.space.row("person-0003")
    step = found.population_model.step(point.coefficients, {"Sunglasses": True})
    assert step == pytest.approx(pipe.space.population_model.step(point.coefficients, {"Sunglasses": True}, 2.0))


def test_sets_are_not_calibrated_by_what_cannot_be_set_or_seen(pipe: W2WPipeline) -> None:
    for attributes, kind in ((["Sunglases"], UnknownNameError), (["Sunglasses"], InvalidInputError)):
        with pytest.raises(kind):
            calibrate_sets(pipe, lambda pictures: {"Nothing": np.zeros(len(pictures), bool)}, attributes, **SHORT)
    with pytest.raises(InvalidInputError):
        calibrate_sets(pipe, lambda pictures: {"Sunglasses": np.ones(len(pictures), bool)}, **SHORT)
    space = pipe.space
    try:
        pipe.attach(space.without_population())
        with pytest.raises(InvalidInputError):
            calibrate_sets(pipe, lambda pictures: pytest.fail("drawn"), **SHORT)
    finally:
        pipe.attach(space)


# --------------------------------------------------------------- w2w calibrate
JUDGE = """
import numpy as np
def read(pictures):
    return {"Sunglasses": pictures.mean((1, 2, 3)) > 2}
broken, number = (lambda pictures: 1), 3
"""
OPTIONS = ("--people", "2", "--strengths", "3,6", "--num-inference-steps", "1", "--guidance-scale", "1")


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "somebodys_judge.py").write_text(JUDGE)
    (tmp_path / "raising_judge.py").write_text("raise RuntimeError('no\\nway')")
    monkeypatch.syspath_prepend(tmp_path)
    return "somebodys_judge:read"


def w2w(*words: object) -> Any:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_the_command_writes_a_space_that_differs_in_its_evidence_alone(
    tiny_space: Path, judge: str, tmp_path: Path
) -> None:
    out = tmp_path / "calibrated"
    done = w2w("calibrate", tiny_space, "--judge", judge, *OPTIONS, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)["curves"]["Sunglasses"]
    assert told["judge"] == judge
    assert told["settings"] == {"num_inference_steps": 1, "guidance_scale": 1.0}
    old, new = WeightSpace.open(tiny_space), WeightSpace.open(out)
    new.verify()
    assert new.digest == old.digest
    assert new.directions["Sunglasses"].picture_curve is not None
    assert new.directions["Sunglasses"].curve == old.directions["Sunglasses"].curve
    assert diff(tiny_space, out).level == "minor"
    same = [p.relative_to(tiny_space) for p in tiny_space.rglob("*") if p.is_file()]
    changed = [str(p) for p in same if (tiny_space / p).read_bytes() != (out / p).read_bytes()]
    assert sorted(changed) == ["README.md", "directions.json", "manifest.json"]
    W2WPipeline.from_pretrained(out)
    assert w2w("calibrate", tiny_space, "--judge", judge, *OPTIONS, "--out", out).exit_code == 2


def test_a_space_without_a_base_model_is_measured_with_another_and_one_beside_it_is_still_found(
    tiny_space: Path, tiny_world: TinyWorld, judge: str, tmp_path: Path
) -> None:
    WeightSpace.open(tiny_space).save(tmp_path / "bare")
    words = ("--judge", judge, *OPTIONS)
    assert w2w("calibrate", tmp_path / "bare", *words, "--out", tmp_path / "a").exit_code == 2
    done = w2w("calibrate", tmp_path / "bare", "--base", tiny_world.base, *words, "--out", tmp_path / "a")
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "a" / "w2w_pipeline.json").exists()
    from tests.space.population import restate
    from w2w_hub.space.resaving import resave
    from w2w_hub.store.atomic import write_json

    shutil.copytree(tiny_world.base, tmp_path / "base")
    write_json(tmp_path / "bare" / "w2w_pipeline.json", {"base_model": "../base"})
    data = json.loads((tmp_path / "bare" / "manifest.json").read_text())
    restate(tmp_path / "bare", files={**data["files"], "w2w_pipeline.json": {}})
    (tmp_path / "deep").mkdir()
    resave(WeightSpace.open(tmp_path / "bare"), tmp_path / "deep" / "copy")
    assert json.loads((tmp_path / "deep" / "copy" / "w2w_pipeline.json").read_text()) == {"base_model": "../../base"}
    W2WPipeline.from_pretrained(tmp_path / "deep" / "copy")


def test_the_command_writes_the_strength_of_sets(tiny_space: Path, judge: str, tmp_path: Path) -> None:
    out = tmp_path / "calibrated"
    words = ("--people", "2", "--strengths", "1,2", *OPTIONS[4:])
    done = w2w("calibrate", tiny_space, "--sets", "--judge", judge, *words, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    new = WeightSpace.open(out)
    new.verify()
    assert new.population_model is not None
    assert told["strength"] == new.population_model.strength == 1  # nobody shows it at any: nothing is gained
    assert told["pictures"] == new.population_model.evidence["pictures"]
    assert new.digest == WeightSpace.open(tiny_space).digest
    assert diff(tiny_space, out).level == "minor"


@pytest.mark.parametrize("name", [
    "read", "no_such_module_anywhere:read", "somebodys_judge:nothing", "somebodys_judge:number", "raising_judge:read",
    "somebodys_judge:read()", "../somebodys_judge:read", "somebodys_judge:broken", "",
])  # fmt: skip
def test_a_judge_that_cannot_be_called_is_one_line(tiny_space: Path, judge: str, tmp_path: Path, name: str) -> None:
    done = w2w("calibrate", tiny_space, "--judge", name, *OPTIONS, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_base_model_in_the_spaces_own_folder_is_copied_and_keeps_its_name(tiny_space: Path, tmp_path: Path) -> None:
    from tests.space.population import restate
    from w2w_hub.space.resaving import resave
    from w2w_hub.store.atomic import write_json

    old, new = WeightSpace.open(tiny_space).save(tmp_path / "old"), tmp_path / "deep" / "new"
    (old / "base").mkdir()
    (old / "base" / "model_index.json").write_text("{}")
    write_json(old / "w2w_pipeline.json", {"base_model": "base"})
    names = ("base/model_index.json", "w2w_pipeline.json")
    files = json.loads((old / "manifest.json").read_text())["files"]
    restate(old, files={**files, **{name: {} for name in names}})
    new.parent.mkdir()
    resave(WeightSpace.open(old), new)
    assert [(new / name).read_bytes() for name in names] == [(old / name).read_bytes() for name in names]


def test_the_space_itself_and_an_existing_folder_are_no_output(tiny_space: Path, tmp_path: Path) -> None:
    from w2w_hub.space.resaving import resave

    space = WeightSpace.open(tiny_space)
    with pytest.raises(InvalidInputError):
        resave(space, tiny_space, overwrite=True)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    with pytest.raises(AlreadyExistsError):
        resave(space, tmp_path / "there")
