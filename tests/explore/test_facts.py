"""What the page says beside its controls, computed without a browser and without torch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from w2w_hub import WeightDataset, WeightSpace
from w2w_hub.explore.comparison import compare_people, overlaps
from w2w_hub.explore.evidence import (
    changes_of,
    controls_of,
    distance_note,
    in_words,
    neighbors_of,
    strip_values,
    usual_similarity,
)
from w2w_hub.explore.people import people_of, point_of
from w2w_hub.explore.rows import Table
from w2w_hub.explore.state import Mixed, Row, Sampled, Saved, State

Labeled = tuple[WeightSpace, WeightDataset]


def test_each_kind_of_attribute_has_its_control(labeled: Labeled) -> None:
    found = {control.name: control for control in controls_of(labeled[0])}
    assert {name: control.kind for name, control in found.items()} == {
        "Full_Beard": "switch", "hair_color": "choice", "Age": "number",
    }  # fmt: skip
    assert {level for level, _ in found["hair_color"].levels} == {"RED", "GREY", "DARK"}
    assert (found["Age"].low, found["Age"].high) == pytest.approx((20, 70), abs=2)


def test_a_slider_states_its_score_and_where_it_reaches_and_saturates(labeled: Labeled) -> None:
    (slider,) = next(control for control in controls_of(labeled[0]) if control.name == "Full_Beard").sliders
    direction = labeled[0].directions["Full_Beard"]
    assert f"{direction.auc:.2f}" in slider.reading
    assert direction.curve is not None
    assert direction.curve.reaches == pytest.approx({word: at for at, word in slider.marks}["shows"], abs=0.05)
    assert direction.removal_curve is not None
    assert -direction.removal_curve.reaches == pytest.approx({word: at for at, word in slider.marks}["gone"], abs=0.05)
    assert slider.limit >= max(abs(at) for at, _ in slider.marks)


def test_a_space_without_a_population_model_has_pushes_only(labeled: Labeled) -> None:
    controls = controls_of(replace(labeled[0], population_model=None))
    assert {control.kind for control in controls} == {"push"}
    assert {slider.name for control in controls for slider in control.sliders} == set(labeled[0].directions)


def test_what_changed_lists_the_wanted_attribute_first(labeled: Labeled) -> None:
    space = labeled[0]
    row = next(r for r in space.population.ids if not labeled[1].labels.loc[r, "Full_Beard"])
    people = people_of(space, State(Row(row), wanted={"Full_Beard": True}))
    first = changes_of(space, people.before, people.after, ["Full_Beard"])[0]
    assert (first.name, first.wanted) == ("Full_Beard", True)
    assert first.after > 0.5 > first.before
    assert changes_of(space, people.before, people.before, []) == []


def test_people_are_what_the_space_makes_of_them(labeled: Labeled) -> None:
    space = labeled[0]
    sampled = space.sample(1, 7, 0.5, attributes={"Full_Beard": True})[0]
    assert point_of(space, Sampled(7, 0.5, {"Full_Beard": True})) == sampled
    assert point_of(space, Row("p03")) == space.row("p03")
    mixed = point_of(space, Mixed(((Row("p03"), 1.0), (Sampled(7, 0.5, {"Full_Beard": True}), 3.0))))
    assert mixed == space.interpolate([space.row("p03"), sampled], [1, 3])
    edited = people_of(space, State(Row("p03"), pushes={"Age": 2.0}, preserve=("Full_Beard",))).after
    assert edited.point == space.edit("p03", {"Age": 2.0}, preserve=["Full_Beard"])
    assert point_of(space, Saved(tuple(edited.point.coefficients.tolist()))) == edited.point


def test_a_copy_of_a_row_is_warned_of_but_not_the_row_itself(labeled: Labeled) -> None:
    space = labeled[0]
    usual = usual_similarity(space.population)
    row = space.row("p03")
    nearly = people_of(space, State(Saved(tuple((row.coefficients * 0.99).tolist())))).before
    found = neighbors_of(space, nearly, usual)
    assert found is not None
    assert found.rows[0][0] == "p03"
    assert "p03" in found.warning
    itself = neighbors_of(space, people_of(space, State(Row("p03"))).before, usual)
    assert itself is not None
    assert itself.warning == ""
    claimed = replace(nearly, point=replace(nearly.point, history={"row": "p04"}))  # as an uploaded file may
    assert "p03" in neighbors_of(space, claimed, usual).warning


def test_the_usual_similarity_is_the_largest_of_held_out_rows(labeled: Labeled) -> None:
    space = labeled[0]
    held = [row for row, fitted in zip(space.population.ids, space.population.fitted, strict=True) if not fitted]
    expected = max(space.nearest(row)[0][1] for row in held)
    assert usual_similarity(space.population) == pytest.approx(expected, abs=1e-5)


def test_a_space_without_its_people_has_no_neighbors_and_no_table(labeled: Labeled) -> None:
    space = labeled[0].without_population()
    person = people_of(space, State(Sampled(1))).before
    assert neighbors_of(space, person, usual_similarity(space.population)) is None
    assert Table.of(space, None) is None
    assert distance_note(space, person) == ""


def test_a_person_farther_than_everybody_is_noted(labeled: Labeled) -> None:
    space = labeled[0]
    assert distance_note(space, people_of(space, State(Row("p03"), pushes={"PC1": 60.0})).after)
    assert not distance_note(space, people_of(space, State(Row("p03"))).after)


def test_a_strip_pushes_along_a_direction_or_component_from_low_to_high(labeled: Labeled) -> None:
    for name in ("Full_Beard", "PC2"):
        values = strip_values(labeled[0], name)
        assert len(values) == 9
        assert values == sorted(values)
        assert values[0] < 0 < values[-1]


def test_people_are_compared_by_cosines_and_by_what_they_differ_in(labeled: Labeled) -> None:
    space = labeled[0]
    points = [space.row("p03"), space.row("p03"), space.row("p04")]
    found = compare_people(space, points)
    assert np.allclose(np.diag(found.cosines), 1)
    assert found.cosines[0, 1] == pytest.approx(1)
    assert found.distances[2] == space.distance("p04")
    assert all(len(set(values)) > 1 for _, values in found.differing)
    assert compare_people(space, points[:2]).differing == ()


def test_overlaps_pair_directions_of_different_attributes(labeled: Labeled) -> None:
    found = overlaps(labeled[0])
    assert found
    attributes = {name: direction.attribute for name, direction in labeled[0].directions.items()}
    assert all(attributes[one] != attributes[other] for one, other, _ in found)


def test_rows_are_chosen_by_label_number_and_name(labeled: Labeled) -> None:
    space, dataset = labeled
    table = Table.of(space, dataset)
    assert table is not None
    labels = dataset.labels
    wanted = labels[(labels["Full_Beard"] == True) & (labels["Age"] >= 40)]  # noqa: E712
    assert list(table.chosen({"Full_Beard": "yes", "Age": "40.."}).index) == list(wanted.index)
    assert list(table.chosen({}, "P07").index) == ["p07"]
    assert len(table.chosen({"no such": "x"})) == 0
    assert len(table.chosen({"Age": "forty..fifty"})) == 0


def test_pages_hold_all_chosen_rows_once_and_counts_add_up(labeled: Labeled) -> None:
    table = Table.of(*labeled)
    assert table is not None
    first = table.page({})
    ids = [row for number in range(first.pages) for row, _ in table.page({}, number).rows]
    assert ids == list(labeled[1].labels.index)
    assert table.page({}, 10**9).page == first.pages - 1
    assert all(sum(count for _, count in each.bars) == 90 for each in first.histograms)


@pytest.mark.parametrize(
    ("name", "words"), [("Full_Beard", "Full beard"), ("BLONDE_GOLDEN", "Blonde golden"), ("_", "_")]
)
def test_names_are_shown_in_words(name: str, words: str) -> None:
    assert in_words(name) == words
