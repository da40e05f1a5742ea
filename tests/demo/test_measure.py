"""The demo's figures beside their definitions, on pictures whose every factor is known."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from w2w_hub.demo.judge import Judge, identity_score, real_score
from w2w_hub.demo.measure import (
    IdentityScorer,
    able_to_gain,
    attribute_shown,
    edit_figures,
    kept_factors,
    others_kept,
    same_person,
    tensor,
)
from w2w_hub.demo.report import (
    cells,
    data_url,
    edits_reached,
    evaluated_edits,
    measured_on,
    reached,
    width_of,
    wished_beside_reached,
)
from w2w_hub.models.pictures import to_picture

from ..tiny_world import EVALUATION

FACTORS = {"top": ("bald", "short", "hat"), "hair_color": ("brown", "gray", "red"), "glasses": ("no", "yes")}
RULES: dict[str, Any] = {
    "Gray_Hair": {"hair_color": ("gray",), "top": ("short",)},
    "Glasses": {"glasses": ("yes",)},
    "Covered": {"top": ("short", "hat")},
}


class Known(Judge):
    """Reads each factor from a channel of the first pixel, and the identity from the last row."""

    def forward(self, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        assert images.shape[1:] == (3, 64, 64)
        shown = (images[:, :, 0, 0] + 1) / 2 * 10
        logits = [
            -((shown[:, [j]] - torch.arange(len(options))) ** 2) for j, options in enumerate(self.factors.values())
        ]
        return logits, images[:, :, -1, :4].flatten(1)


JUDGE = Known(FACTORS, RULES, width=1, embedding=2)
looks = st.tuples(*(st.integers(0, len(options) - 1) for options in FACTORS.values()))


def picture(look: tuple[int, ...], person: int = 0) -> np.ndarray:
    found = np.zeros((64, 64, 3), np.float32)
    found[0, 0] = np.array(look) / 10
    found[-1, :4] = np.random.default_rng(person).random((4, 3))
    return found


def options_of(look: tuple[int, ...]) -> dict[str, str]:
    return {name: options[i] for (name, options), i in zip(FACTORS.items(), look, strict=True)}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(looks, looks), min_size=1, max_size=6))
def test_an_attribute_is_shown_by_all_its_factors_and_an_edit_keeps_what_can_be_seen_of_the_others(
    pairs: list[tuple[tuple[int, ...], tuple[int, ...]]],
) -> None:
    before, after = (np.stack([picture(pair[i]) for pair in pairs])[:, None] for i in (0, 1))
    looked = [tuple(map(options_of, pair)) for pair in pairs]
    for name, rule in RULES.items():
        shown = [all(old[factor] in options for factor, options in rule.items()) for old, _ in looked]
        np.testing.assert_array_equal(attribute_shown(JUDGE, before, name), np.array(shown)[:, None])
        kept = [
            [
                old[factor] == new[factor]
                or (factor == "hair_color" and not old["top"] == new["top"] == "short")  # the only one with hair
                for old, new in looked
            ]
            for factor in FACTORS
            if factor != next(iter(rule))
        ]
        np.testing.assert_array_equal(kept_factors(JUDGE, before, after, name), np.array(kept)[..., None])
        np.testing.assert_allclose(others_kept(JUDGE, before, after, name), np.mean(kept, axis=0)[:, None])


def test_a_color_of_hair_counts_always_where_no_attribute_says_when_it_shows() -> None:
    judge = Known(FACTORS, {"Glasses": RULES["Glasses"]}, width=1, embedding=2)
    before, after = picture((0, 0, 0))[None], picture((0, 1, 0))[None]
    np.testing.assert_array_equal(kept_factors(judge, before, after, "Glasses"), [[True], [False]])


def test_people_are_able_to_gain_what_they_lack_and_what_their_other_factors_allow() -> None:
    labels = pd.DataFrame({
        "Gray_Hair": [False, False, True, None, False], "top": ["short", "bald", "short", "short", "hat"],
        "hair_color": ["brown"] * 5, "Glasses": [True, False, False, False, True],
    }, index=list("abcde"))  # fmt: skip
    assert able_to_gain(JUDGE, labels, "Gray_Hair") == ["a"]
    assert able_to_gain(JUDGE, labels, "Glasses") == ["b", "c", "d"]


def unit(rng: np.random.Generator, count: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(count, 5)) + 1), dim=1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 6))
def test_scores_are_cosines_to_the_mean_of_the_real_pictures_and_those_leave_themselves_out(
    seed: int, count: int
) -> None:
    rng = np.random.default_rng(seed)
    real, others = unit(rng, count), unit(rng, 3)

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    expected = [cosine(x, real.numpy().mean(0)) for x in others.numpy()]
    np.testing.assert_allclose(identity_score(others, real), expected)
    expected = [cosine(real.numpy()[i], np.delete(real.numpy(), i, 0).mean(0)) for i in range(count)]
    np.testing.assert_allclose(real_score(real), expected)


def test_people_are_scored_against_their_own_pictures_and_strangers_against_the_next_persons() -> None:
    real = {name: np.stack([picture((0, 0, 0), 10 * i + j) for j in range(3)]) for i, name in enumerate("abc")}
    scorer = IdentityScorer(JUDGE, real)
    embedded = {name: JUDGE.embed(tensor(pictures)) for name, pictures in real.items()}
    for vectors in embedded.values():
        np.testing.assert_allclose(vectors.norm(dim=1), 1, rtol=1e-5)
    assert scorer.real_id_score == pytest.approx(np.mean([real_score(e).mean() for e in embedded.values()]), rel=1e-6)
    cross = [identity_score(embedded[a], embedded[b]).mean() for a, b in ("ab", "bc", "ca")]
    assert scorer.cross_id_score == pytest.approx(np.mean(cross), rel=1e-6)
    people = ["c", "a"]
    pictures = np.stack([np.stack([picture((0, 0, 0), s), picture((1, 0, 1), s + 1)]) for s in (20, 40)])
    scores = [identity_score(JUDGE.embed(tensor(p)), embedded[n]).mean() for p, n in zip(pictures, people, strict=True)]
    assert scorer.id_score(pictures, people) == pytest.approx(np.mean(scores), rel=1e-6)
    assert scorer.id_score(pictures, people) != pytest.approx(scorer.id_score(pictures, people[::-1]), rel=1e-3)
    assert scorer.relative(scorer.real_id_score) == pytest.approx(1)
    assert scorer.relative(scorer.cross_id_score) == pytest.approx(0)
    assert scorer.relative(2 * scorer.real_id_score - scorer.cross_id_score) == pytest.approx(2)


def test_an_edit_counts_the_worst_kept_factor_and_both_in_one_picture() -> None:
    before = np.stack([[picture((1, 0, 0)), picture((1, 0, 0))], [picture((1, 2, 0)), picture((1, 2, 0))]])
    after = np.stack([[picture((1, 0, 1)), picture((2, 0, 1))], [picture((1, 0, 1)), picture((1, 2, 0))]])
    found = edit_figures(JUDGE, before, after, "Glasses")
    assert found == {
        "before": 0.0, "after": 0.75, "other_attributes_kept": pytest.approx((3 + 3) / 8),
        "each_other_factor_kept": 0.75, "seen_and_all_kept": 0.25,
    }  # fmt: skip
    edits = {"a": {"after": 0.8, "each_other_factor_kept": 0.8}, "b": {"after": 1.0, "each_other_factor_kept": 0.79}}
    assert reached(edits, 0.8) == ["a"]


def test_pictures_of_one_person_are_compared_with_each_other_and_not_with_themselves() -> None:
    same = np.stack([[picture((0, 0, 0), person)] * 3 for person in range(4)])
    alike, different = same_person(JUDGE, same)
    assert alike == pytest.approx(1, abs=1e-6)
    means = [JUDGE.embed(tensor(pictures)).numpy().mean(0) for pictures in same]
    pairs = [float(a @ b) for i, a in enumerate(means) for j, b in enumerate(means) if i != j]
    assert different == pytest.approx(np.mean(pairs), abs=1e-5)
    mixed = np.stack([[picture((0, 0, 0), 2 * person + case) for case in range(2)] for person in range(2)])
    assert same_person(JUDGE, mixed)[0] == pytest.approx(
        np.mean([JUDGE.embed(tensor(p)).numpy()[0] @ JUDGE.embed(tensor(p)).numpy()[1] for p in mixed]), abs=1e-5
    )


def test_a_judge_reads_every_picture_of_many_and_is_the_same_from_its_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    judge = Judge(FACTORS, RULES, width=2, embedding=3)
    for module in judge.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    judge.save(tmp_path / "judge.safetensors")
    found = Judge.load(tmp_path / "judge.safetensors")
    assert (found.factors, found.attributes, found.width, found.embedding) == (FACTORS, RULES, 2, 3)
    assert not found.training
    assert not any(p.requires_grad for p in found.parameters())
    for name, values in judge.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], values, rtol=1e-3, atol=1e-3)
    images = torch.rand((258, 3, 64, 64), generator=torch.Generator().manual_seed(1))
    embedded, read = found.embed(images), found.read(images)
    logits, vectors = found(images[-2:] * 2 - 1)
    torch.testing.assert_close(embedded[-2:], vectors / vectors.norm(dim=1, keepdim=True), rtol=1e-3, atol=1e-4)
    assert len(embedded) == 258
    for values, (name, options) in zip(logits, FACTORS.items(), strict=True):
        assert read[name].shape == (258, len(options))
        torch.testing.assert_close(read[name][-2:], values.exp() / values.exp().sum(1, keepdim=True))


# ---------------------------------------------------------------- the report
WISHES: dict[tuple[str, str], float] = {
    ("scale", "real"): 0.95, ("loras", "relative_score"): 0.8, ("loras", "top"): 0.85, ("loras", "skin_color"): 0.85,
    ("loras", "facial_hair"): 0.85, ("loras", "accessory"): 0.85, ("loras", "hair_color"): 0.75,
    ("inversion", "relative_score"): 0.45,
}  # fmt: skip


def changed(evaluation: dict[str, Any], part: str, name: str, value: Any) -> dict[str, Any]:
    return {**evaluation, part: {**evaluation[part], name: value}}


@pytest.mark.parametrize("where", [*WISHES, ("scale", "strangers")], ids="-".join)
def test_a_figure_is_reached_at_its_wish_and_missed_just_beside_it(where: tuple[str, str]) -> None:
    wish, sign = WISHES.get(where, 0.62), 1 if where in WISHES else -1
    verdicts = []
    for value in (wish, wish - 1e-6 * sign, wish + 1e-6 * sign):
        rows = wished_beside_reached(changed(EVALUATION, *where, value))
        [row] = [row for row in rows if row[2] == value]
        assert row[1] == f"{'>=' if sign > 0 else '<='} {wish:g}"
        verdicts.append(row[3])
    assert verdicts == ["reached", "missed", "reached"]


def test_readings_and_edits_are_counted_from_their_wishes_on() -> None:
    readings: dict[str, Any] = {f"a{i}": {"auc": 0.95 if i < 9 else 0.9499, "positives": 0.3} for i in range(12)}
    readings["none"] = {"auc": None, "positives": 0.3}
    for good, verdict in ((9, "missed"), (10, "reached")):
        if good == 10:
            readings["a9"] = {"auc": 0.95, "positives": 0.3}
        rows = wished_beside_reached({**EVALUATION, "reading": readings})
        assert [row[2:] for row in rows if "AUC" in row[0]] == [(good, verdict)]
    edits = {
        "both": {"4.5": {"after": 0.8, "each_other_factor_kept": 0.8}},
        "unseen": {"4.5": {"after": 0.79, "each_other_factor_kept": 1.0}},
        "spilled": {"4.5": {"after": 1.0, "each_other_factor_kept": 0.79}},
    }
    assert edits_reached(edits, "4.5") == ["both"]
    assert edits_reached(edits, "4.5", 0.79) == list(edits)
    rows = wished_beside_reached({**EVALUATION, "edits": edits})
    assert [row[1:] for row in rows if "edited" in row[0]] == [(">= 3", 1.0, "missed")]
    without = {name: part for name, part in EVALUATION.items() if name != "edits"}
    assert len(wished_beside_reached(without)) == len(rows) - 1


def test_evaluated_edits_have_a_row_for_each_that_has_the_strength() -> None:
    edit = {"before": 0.1, "after": 0.9, "each_other_factor_kept": 0.7}
    evaluation = {
        "edits": {"A": {"people": 8, "3": edit}, "B": {"people": 9, "4.5": edit}},
        "reading": {"A": {"auc": 0.97, "positives": 0.4}, "B": {"auc": 0.5, "positives": 0.2}},
    }
    found = evaluated_edits(evaluation, "3")
    assert found.rows == [("A", 0.97, 0.4, 8, 0.1, 0.9, 0.7)]
    assert len(found.header) == 7


def test_machines_are_named_once_and_with_their_parts_where_there_are_several() -> None:
    assert measured_on({"setting": {"machines": {"scale": "one", "edits": "one"}}}) == "one"
    several = measured_on({"setting": {"machines": {"scale": "one", "edits": "two", "loras": "one"}}})
    assert several == "one (scale, loras) and two (edits)"


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        ([0.0, 0.5, 12.0], ["0.00", "0.50", "12.00"]), ([0.0052, 0.5], ["0.01", "0.50"]),
        ([0.00123, -1.239, 0.0], ["0.001", "-1.239", "0.000"]), ([-0.0002, 1.0], ["-0.0002", "1.0000"]),
        ([12345, 7], ["12,345", "7"]), (["a", "missed"], ["a", "missed"]), ([18, 0.25], ["18", "0.25"]),
        ([float("inf"), 1e-30], ["inf", "0.000000"]),
    ],
)  # fmt: skip
def test_the_numbers_of_a_column_have_one_format_that_shows_the_smallest(column: list[Any], texts: list[str]) -> None:
    found = cells([("name", value) for value in column])
    assert [row[1] for row in found] == list(zip(texts, column, strict=True))


def test_a_picture_in_the_page_is_the_picture_itself() -> None:
    drawn, file = to_picture(np.random.default_rng(0).random((5, 4, 3))), io.BytesIO()
    drawn.save(file, "PNG")
    assert width_of(file.getvalue()) == 4
    head, _, data = data_url(file.getvalue()).partition(",")
    assert head == "data:image/png;base64"
    found = Image.open(io.BytesIO(base64.b64decode(data)))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(drawn))
