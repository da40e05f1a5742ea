from __future__ import annotations

import json
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.space.population import dataset_of
from w2w_hub import WeightSpace, build_space, fit_directions
from w2w_hub.cli import main
from w2w_hub.errors import CorruptFileError
from w2w_hub.space.directions import StrengthCurve
from w2w_hub.space.report.figures import figures
from w2w_hub.space.report.page import page

FRACTIONS = st.floats(0, 1).map(lambda value: round(value, 6))
GAP = 6.0  # from people without the attribute to those with it, where others spread by 1


def curve(shown: list[float], least: list[float] | None = None, **fields: Any) -> StrengthCurve:
    """One with a step of 1 sd."""
    kept = tuple(least or [1.0] * len(shown))
    strengths = tuple(float(i) for i in range(len(shown)))
    return StrengthCurve(strengths, tuple(shown), kept, kept, (1.0,) * len(shown), rows=10, **fields)


@st.composite
def curves(draw: st.DrawFn) -> StrengthCurve:
    count = draw(st.integers(1, 8))
    steps = draw(st.lists(st.floats(0.1, 5).map(lambda v: round(v, 3)), min_size=count - 1, max_size=count - 1))
    columns = [tuple(draw(st.lists(FRACTIONS, min_size=count, max_size=count))) for _ in range(4)]
    return StrengthCurve(
        tuple(np.round(np.cumsum([0.0, *steps]), 6).tolist()), *columns, rows=draw(st.integers(1, 100)),
        others=tuple(draw(st.lists(st.text(), max_size=2))), cases=tuple(draw(st.lists(
            st.tuples(st.text(), st.integers(0, 9)), max_size=2))),
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(curves())
def test_a_curve_is_the_same_from_its_json_and_what_follows_lies_on_it(found: StrengthCurve) -> None:
    again = StrengthCurve.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found
    assert again.to_json() == found.to_json()
    end = found.strengths[-1]
    for strength in (found.typical, found.reaches, found.saturates, found.breaks):
        assert strength is None or 0 <= strength <= end
    if found.reaches is not None:
        assert found.at(found.reaches)["shown"] == pytest.approx(max(0.8, found.shown[0]))
    if found.reaches is None:
        assert max(found.shown) < 0.8
    if found.breaks is None:
        assert min(found.least_kept) >= 0.8 - 1e-9
    if found.typical is not None:
        there = found.at(found.typical)
        assert min(there["shown"], there["least_kept"]) >= 0.5 - 0.03
        assert there["inside"] >= 0.5 - 1e-9
    assert found.smoothness is None or 0 <= found.smoothness <= 1


def test_the_typical_strength_is_where_the_attribute_shows_as_often_as_the_others_stay() -> None:
    crossing = curve([0, 0.2, 0.6, 1, 1, 1], [1, 1, 0.95, 0.9, 0.5, 0.1])
    assert crossing.typical == pytest.approx(2.8, abs=0.1)
    free = curve([0, 0.5, 1, 1, 1, 1])
    assert free.typical == pytest.approx(2, abs=0.1)  # no stronger than it must be
    assert (free.reaches, free.saturates, free.breaks) == (pytest.approx(1.6), pytest.approx(1.9), None)
    assert curve([0, 0.1, 0.2]).typical is None
    assert curve([0, 0.1, 0.2]).saturates is None  # still rises
    left = replace(free, inside=(1.0, 1.0, 0.0, 0.0, 0.0, 0.0))
    assert left.typical is not None
    assert left.typical <= 1.5  # beyond, more than half of the people leave the population


def test_a_straight_curve_is_smooth_and_a_jump_is_not() -> None:
    straight, jump = curve([0, 0.25, 0.5, 0.75, 1, 1]), curve([0, 0, 0, 1, 1, 1])
    assert straight.smoothness == pytest.approx(1, abs=0.06)
    assert jump.smoothness is not None
    assert jump.smoothness < 0.5
    looks_equal = [jump.strength_of(share) for share in (0.25, 0.5, 0.75)]
    assert looks_equal == pytest.approx([2.25, 2.5, 2.75])


# ------------------------------------------------------------ measured
def clusters(folder: Path, people: int = 160, label: np.ndarray | None = None) -> Any:
    """People of two independent attributes, each along an axis of its own, and an age that nothing moves with."""
    rng = np.random.default_rng(0)
    beard = np.arange(people) % 2 == 1
    hat = np.arange(people) // 2 % 2 == 1
    rows = 0.5 + 1e-3 * rng.normal(size=(people, 40))
    rows[:, 0] += 1e-3 * GAP * beard
    rows[:, 1] += 1e-3 * GAP * hat
    columns = {"Beard": beard if label is None else label, "Hat": hat, "Age": rng.random(people)}
    return dataset_of(folder, rows.astype(np.float32), held_out=10, columns=columns)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> WeightSpace:
    root = tmp_path_factory.mktemp("curves")
    found = build_space(clusters(root / "people"), 12, standardize=False)
    return WeightSpace.open(found.save(root / "space"))


def test_a_push_by_the_gap_of_the_classes_shows_the_attribute_and_keeps_the_independent_one(space: WeightSpace) -> None:
    direction = space.directions["Beard"]
    found = direction.curve
    assert found is not None
    assert set(found.others) == {"Hat", "Age"}
    assert found.shown[0] < 0.1
    assert found.shown[-1] > 0.95
    gap = GAP / (1 + GAP**2 / 4) ** 0.5  # in standard deviations of the whole population
    half = found.strength_of(0.5)
    assert half is not None
    assert gap / 2 < half < gap
    assert found.typical is not None
    assert gap / 2 < found.typical < 2 * gap
    assert direction.typical == found.typical
    assert found.at(gap)["inside"] == 1
    assert found.inside[-1] < 0.5


def test_a_push_the_other_way_removes_the_attribute_from_people_who_have_it(space: WeightSpace) -> None:
    direction = space.directions["Beard"]
    found, adding = direction.removal_curve, direction.curve
    assert found is not None
    assert adding is not None
    assert found.others == adding.others
    assert found.rows == direction.positives
    assert found.shown[0] < 0.1
    assert found.shown[-1] > 0.95
    half, gap = found.strength_of(0.5), GAP / (1 + GAP**2 / 4) ** 0.5
    assert half is not None
    assert gap / 2 < half < gap
    assert found.least_kept[0] == 1
    entry = {**direction.evidence(), "removal_curve": {"strengths": [0]}}
    with pytest.raises(CorruptFileError, match=r"'Beard'.*removal_curve"):
        type(direction).from_evidence(direction.editing, direction.reading, entry, "Beard")
    assert space.path is not None
    facts = json.loads(CliRunner().invoke(main, ["inspect", str(space.path), "--json"]).stdout)
    assert StrengthCurve.from_json(facts["removal curves"]["Beard"]) == found
    assert f"removed by -{found.typical:.1f}" in unescape(page(json.loads(json.dumps(figures(space)))))


def test_rows_without_a_label_count_for_neither_class(tmp_path: Path) -> None:
    label = np.array([bool(i % 2) if i % 5 else None for i in range(160)], object)
    found = build_space(clusters(tmp_path / "people", label=label), 12, standardize=False).directions["Beard"].curve
    assert found is not None
    assert found.rows <= sum(value is False for value in label)
    assert found.shown[-1] > 0.95


def test_curves_are_the_same_again_and_those_of_some_attributes_are_those_of_all(
    space: WeightSpace, tmp_path: Path
) -> None:
    people = clusters(tmp_path / "people")
    assert fit_directions(space, people)["Beard"].curve == space.directions["Beard"].curve
    hat = fit_directions(space, people, attributes=["Hat"])["Hat"].curve
    assert hat is not None
    assert hat.others == ("Beard", "Age")


def test_a_stored_curve_that_is_none_is_refused_by_its_name(space: WeightSpace) -> None:
    direction = space.directions["Beard"]
    for broken in (
        [], {}, {"strengths": [0, 1]}, {"strengths": [1, 2]}, {"shown": [2.0] * 17}, {"shown": [float("nan")] * 17},
        {"rows": 0}, {"judge": "a b"}, {"cases": [["x"]]}, {"cases": [["x", -1]]}, {"others": "Hat"},
        {"settings": {"a": "b"}}, {"strengths": list(range(2000))}, {"strengths": [0.0] * 17},
    ):  # fmt: skip
        entry = direction.evidence()
        entry["curve"] = {**entry["curve"], **broken} if isinstance(broken, dict) and broken else broken
        with pytest.raises(CorruptFileError, match=r"'Beard'.*curve"):
            type(direction).from_evidence(direction.editing, direction.reading, entry, "Beard")


def test_card_page_and_inspection_show_the_curve(space: WeightSpace) -> None:
    assert space.path is not None
    typical = f"{space.directions['Beard'].typical:.1f}"
    row = next(
        line for line in (space.path / "README.md").read_text("utf-8").splitlines() if line.startswith("| Beard")
    )
    assert f"| {typical} |" in row
    assert "\u2588" in row
    data = json.loads(json.dumps(figures(space)))
    html = unescape(page(data))
    assert f"typical {typical} sd" in html
    assert html.count("share of people by the strength of a push") == 3
    done = CliRunner().invoke(main, ["inspect", str(space.path), "--json"])
    facts = json.loads(done.stdout)
    assert StrengthCurve.from_json(facts["strength curves"]["Beard"]) == space.directions["Beard"].curve
    assert facts["typical push, sd"]["Beard"] == pytest.approx(space.directions["Beard"].typical, abs=0.01)
