from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from w2w_hub import Direction, W2WPipeline, WeightDataset, WeightSpace, build_space, fit_slider
from w2w_hub.cli import main
from w2w_hub.errors import CorruptFileError, InvalidInputError
from w2w_hub.models import sliders
from w2w_hub.models.contrasts import PromptContrast
from w2w_hub.models.pictures import save_picture, to_picture
from w2w_hub.release import diff

PROMPTS = {"positive": "a man with a hat", "negative": "a dog"}
SHORT: dict[str, Any] = {"num_steps": 5, "batch_size": 4, "learning_rate": 0.4, "prompt": "sks"}


@pytest.fixture(autouse=True)
def quick(pipe: W2WPipeline, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Few people and samples, drawn in one step."""
    monkeypatch.setattr(sliders, "PEOPLE", 8)
    monkeypatch.setattr(sliders, "SCORED", 4)
    monkeypatch.setattr(sliders, "RANDOM", 4)
    pipe.generation = {"num_inference_steps": 1, "guidance_scale": 1.0}
    yield
    pipe.generation = {}


@pytest.fixture(scope="module")
def kept() -> dict[str, Direction]:
    return {}


@pytest.fixture
def hat(quick: None, pipe: W2WPipeline, kept: dict[str, Direction]) -> Direction:
    """One slider for many tests."""
    if not kept:
        pipe.identity = person = pipe.space.row("person-0001")
        kept["hat"] = fit_slider(pipe, **PROMPTS, **SHORT)
        assert pipe.identity.point == person
        assert all(p.requires_grad for p in pipe.unet.parameters())
    return kept["hat"]


@pytest.fixture
def pairs(pipe: W2WPipeline) -> dict[str, list[np.ndarray]]:
    """Pictures of people before and after a strong push along a component."""
    people = [pipe.space.row(f"person-{i:04d}") for i in range(6)]
    after = [pipe.space.edit(person, {"PC1": 6.0}) for person in people]
    drawn = pipe.render([*people, *after], [("sks", 0)])[:, 0]
    return {"before": list(drawn[:6]), "after": list(drawn[6:])}


def test_a_slider_of_prompts_explains_their_contrast_where_random_directions_do_not(hat: Direction) -> None:
    found = hat
    assert np.linalg.norm(found.editing) == pytest.approx(1, abs=1e-5)
    assert found.r2 is not None
    assert found.null is not None
    assert found.null[1] < found.r2 < 1
    assert found.p_value == pytest.approx(1 / 5)  # of four random directions
    assert found.unreliable  # for so few
    assert found.slider is not None
    assert {**PROMPTS, "prompt": "sks", "eta": 2.0, "steps": 5, "seed": 0}.items() <= found.slider.items()
    assert found.typical == found.slider["strength"] > 0
    assert (found.kind, found.editing_method, found.held_out_rows, found.rows) == ("float", "slider, prompts", 2, 6)


def test_the_same_seed_gives_the_same_slider_and_swapped_prompts_the_opposite(
    pipe: W2WPipeline, hat: Direction
) -> None:
    first, again = hat, fit_slider(pipe, **PROMPTS, **SHORT)
    assert first == again
    swapped = fit_slider(pipe, positive=PROMPTS["negative"], negative=PROMPTS["positive"], **SHORT)
    assert first.editing @ swapped.editing == pytest.approx(-1, abs=0.02)
    other = fit_slider(pipe, **PROMPTS, **{**SHORT, "seed": 1})
    assert other.editing @ first.editing > 0.5


def test_a_slider_of_pictures_moves_from_those_before_to_those_after(
    pipe: W2WPipeline, pairs: dict[str, list[np.ndarray]]
) -> None:
    found = fit_slider(pipe, **pairs, **SHORT)
    assert found.slider is not None
    assert found.slider["pairs"] == 6
    assert found.editing_method == "slider, pictures"
    back = fit_slider(pipe, before=pairs["after"], after=pairs["before"], **SHORT)
    assert found.editing @ back.editing < -0.9


def test_a_slider_reads_where_a_point_is_along_it(pipe: W2WPipeline) -> None:
    found = fit_slider(pipe, **PROMPTS, k=5, **SHORT)
    space = pipe.space.with_direction("hat", found)
    assert found.components == 5
    assert not found.editing[5:].any()
    mean = space.mean_point()
    assert space.read(mean, "hat") == pytest.approx(0, abs=1e-4)
    assert space.read(space.edit(mean, {"hat": 2.5}), "hat") == pytest.approx(2.5, abs=1e-3)
    assert space.population is not None
    read = [space.read(row, "hat") for row in space.population.fitted_ids]
    assert np.std(read, ddof=1) == pytest.approx(1, abs=1e-3)


def test_a_space_keeps_its_slider_and_the_next_version_is_a_minor_one(
    pipe: W2WPipeline, hat: Direction, tmp_path: Path
) -> None:
    found = hat
    space = pipe.space.with_direction("hat", found)
    assert "hat" not in pipe.space.directions
    opened = WeightSpace.open(space.save(tmp_path / "space"))
    assert opened.directions["hat"] == found
    opened.verify()
    assert "| hat |" in (tmp_path / "space" / "README.md").read_text("utf-8")
    pipe.space.save(tmp_path / "plain")
    assert diff(tmp_path / "plain", tmp_path / "space").level == "minor"
    for name in ("hat", "PC3", "", " ", "a\nb"):
        with pytest.raises(InvalidInputError):
            opened.with_direction(name, found)
    with pytest.raises(InvalidInputError):
        WeightSpace.open(tmp_path / "space", k=3).with_direction("other", found)


def test_without_a_population_people_are_sampled(pipe: W2WPipeline) -> None:
    space = pipe.space
    try:
        pipe.attach(space.without_population())
        found = fit_slider(pipe, **PROMPTS, **SHORT)
    finally:
        pipe.attach(space)
    assert found.sd > 0


def test_stored_facts_about_a_slider_are_checked(hat: Direction) -> None:
    found = hat
    for broken in ([], {}, {"strength": -1}, {"strength": "1"}, {"strength": 1, "a": []}, {"strength": float("nan")}):
        with pytest.raises(CorruptFileError, match="slider"):
            Direction.from_evidence(found.editing, found.reading, {**found.evidence(), "slider": broken}, "hat")


@pytest.mark.parametrize("given", [
    {}, {"positive": "a"}, {"negative": "a"}, {"positive": "a", "negative": "a"}, {"positive": " ", "negative": "a"},
    {**PROMPTS, "before": [], "after": []}, {"before": [1] * 4}, {"before": [], "after": []},
    {"before": [1] * 4, "after": [1] * 5}, {"before": [1] * 4, "after": [1] * 4}, {"before": "abcd", "after": "abcd"},
    {"before": [np.zeros((9, 9, 3))] * 4, "after": [np.zeros((9, 9, 3))] * 4}, {**PROMPTS, "num_steps": 0},
    {**PROMPTS, "eta": -1}, {**PROMPTS, "k": 10_000}, {**PROMPTS, "prompt": ""}, {**PROMPTS, "learning_rate": "fast"},
])  # fmt: skip
def test_what_a_slider_cannot_be_trained_on_is_refused(pipe: W2WPipeline, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        fit_slider(pipe, **given)


def test_a_loss_that_is_not_finite_is_an_error(pipe: W2WPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PromptContrast, "losses", lambda *given: given[2].sum(-1).expand(4) * float("nan"))
    with pytest.raises(InvalidInputError, match="not finite"):
        fit_slider(pipe, **PROMPTS, **SHORT)


# ------------------------------------------------------------------ w2w slider
def w2w(*words: object) -> Any:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.mark.slow
def test_the_command_writes_a_space_with_one_more_direction(
    tiny_space: Path, tmp_path: Path, pairs: dict[str, list[np.ndarray]]
) -> None:
    out, steps = tmp_path / "out", ("--steps", 3, "--batch-size", 2)
    prompts = ("--positive", PROMPTS["positive"], "--negative", PROMPTS["negative"])
    done = w2w("slider", tiny_space, "--name", "hat", *prompts, *steps, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["direction"]["slider"]["positive"] == PROMPTS["positive"]
    W2WPipeline.from_pretrained(out).edit  # noqa: B018
    for side, pictures in pairs.items():
        for i, picture in enumerate(pictures):
            save_picture(to_picture(picture), tmp_path / side / f"{i}.png")
    folders = ("--before", tmp_path / "before", "--after", tmp_path / "after")
    done = w2w("slider", out, "--name", "bright", *folders, *steps, "--out", tmp_path / "both")
    assert done.exit_code == 0, done.output
    assert {"hat", "bright"} <= WeightSpace.open(tmp_path / "both").directions.keys()
    for words in (
        (tiny_space, "--name", "Full_Beard", *prompts), (tiny_space, "--name", "PC1", *prompts),
        (tiny_space, "--name", "x", "--positive", "a"), (tiny_space, "--name", "x", *prompts, *folders),
        (tiny_space, "--name", "x", "--before", tmp_path / "nowhere", "--after", tmp_path / "after"),
        (tmp_path, "--name", "x", *prompts),
    ):  # fmt: skip
        done = w2w("slider", *words, *steps, "--out", tmp_path / "new")
        assert done.exit_code == 2
        assert len(done.stderr.strip().splitlines()) == 1
        assert not (tmp_path / "new").exists()


# -------------------------------------------------------------- on the avatars
@pytest.fixture(scope="module")
def avatars() -> W2WPipeline:
    from w2w_hub.demo.assets import Assets

    space = build_space(WeightDataset.open(Assets().rows), 200)
    pipe: W2WPipeline = W2WPipeline.from_base(Assets().base, space)
    pipe.set_progress_bar_config(disable=True)
    pipe.generation = {"num_inference_steps": 10, "guidance_scale": 2.0}
    return pipe


def gained(pipe: W2WPipeline, slider: Direction, attribute: str) -> tuple[float, float]:
    """Of 16 held-out people without an attribute, who has it after a push of the trained strength; others kept."""
    from w2w_hub.demo.measure import read_avatars

    space = pipe.space.with_direction("slider", slider)
    assert space.population is not None
    assert slider.typical is not None
    people = [i for i, used in zip(space.population.ids, space.population.fitted, strict=True) if not used][:16]
    before, after = (
        read_avatars(pipe.render([space.edit(p, {"slider": s}) for p in people], [("sks person", 1)])[:, 0])
        for s in (0.0, slider.typical)
    )
    without = ~before[attribute]
    others = [name for name in before if name not in ("Eyeglasses", "Sunglasses", attribute)]
    kept = float(np.mean([(before[name] == after[name])[without].mean() for name in others]))
    return float(after[attribute][without].mean()), kept


@pytest.mark.slow
def test_on_the_avatars_a_slider_of_prompts_puts_glasses_on(
    avatars: W2WPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("PEOPLE", 16), ("SCORED", 8), ("RANDOM", 24)):
        monkeypatch.setattr(sliders, name, value)
    prompts = {"positive": "sks person glasses", "negative": "sks person"}
    found = fit_slider(avatars, **prompts, num_steps=40, batch_size=6, learning_rate=0.1)
    assert not found.unreliable
    shown, kept = gained(avatars, found, "Eyeglasses")
    assert shown > 0.7
    assert kept > 0.9


@pytest.mark.slow
def test_on_the_avatars_a_slider_of_pictures_before_and_after_gives_a_beard(avatars: W2WPipeline) -> None:
    space = avatars.space
    assert space.population is not None
    without = [i for i in space.population.fitted_ids[:40] if space.read(i, "Full_Beard") < 0.5][:10]
    pairs = [[space.row(i) for i in without], [space.edit(i, {"Full_Beard": 4.5}) for i in without]]
    before, after = (list(avatars.render(people, [("sks person", 5)])[:, 0]) for people in pairs)
    found = fit_slider(avatars, before=before, after=after, num_steps=80, batch_size=8, learning_rate=0.1)
    assert found.editing @ space.directions["Full_Beard"].editing > 0.5
    shown, kept = gained(avatars, found, "Full_Beard")
    assert shown > 0.3
    assert kept > 0.8
