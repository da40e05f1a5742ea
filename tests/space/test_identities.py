"""What stands for an identity, what it says of itself, and what is kept of it on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from w2w_hub import (
    Adapter,
    ParameterLayout,
    Point,
    Target,
    WeightDataset,
    WeightSpace,
    build_space,
    read_adapter,
    write_adapter,
)
from w2w_hub.errors import (
    AlreadyExistsError,
    BaseModelMismatchError,
    InvalidInputError,
    LayoutMismatchError,
    UnknownNameError,
    W2WError,
)
from w2w_hub.space.identity import Identity, adapter_of, edited, resolve, resolve_several
from w2w_hub.space.keeping import distinct, export_identities, save_identity

from ..hostile.hostile_names import HOSTILE, require_shown_safely
from .population import dataset_of, decaying

K, ROW = 4, "p00003"
MODULE = Target("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
LAYOUT = ParameterLayout({MODULE: (1, 50, 30)}, 27.0)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> WeightDataset:
    rows = decaying(40, 80)
    return dataset_of(
        tmp_path_factory.mktemp("identities") / "people", rows, held_out=8, layout=LAYOUT,
        columns={"Beard": rows[:, 0] > np.median(rows[:, 0])},
    )  # fmt: skip


@pytest.fixture(scope="module")
def space(people: WeightDataset) -> WeightSpace:
    return build_space(people, K)


# ---------------------------------------------------------------- a row, and its own LoRA
def test_a_rows_id_is_its_point_and_says_what_that_keeps(space: WeightSpace) -> None:
    lost = dict(zip(space.population.ids, space.population.reconstruction_error(), strict=True))
    for row in (ROW, "p00039"):  # fitted, held out
        identity = resolve(space, row)
        assert not identity.exact
        np.testing.assert_array_equal(identity.vector, space.decode(space.row(row)))
        assert identity.explained_ratio == pytest.approx(1 - lost[row], abs=1e-5)
        assert 0 < identity.explained_ratio < 1
        for text in (identity.note, repr(identity), repr(space.row(row)), identity._repr_html_()):
            assert row in text
            assert f"{100 * identity.explained_ratio:.3g} %" in text


@pytest.mark.parametrize(
    "own",
    [
        lambda people, space: people[ROW],
        lambda people, space: people[ROW].astype(np.float64),
        lambda people, space: people[ROW].tolist(),
        lambda people, space: people.adapter(ROW),
        lambda people, space: resolve(space, ROW, people),
    ],
)
def test_a_rows_own_weights_are_injected_whole(
    people: WeightDataset, space: WeightSpace, own: Callable[[WeightDataset, WeightSpace], Any]
) -> None:
    identity = resolve(space, own(people, space))
    assert identity.exact
    np.testing.assert_array_equal(identity.vector, people[ROW])
    np.testing.assert_allclose(identity.point.coefficients, space.row(ROW).coefficients, atol=1e-4)
    assert identity.explained_ratio == pytest.approx(space.population.explained_ratio(ROW), abs=1e-3)
    exported = adapter_of(space, identity)
    np.testing.assert_array_equal(space.layout.flatten(exported), people[ROW])


def test_with_a_dataset_an_id_is_its_row_and_never_silently_the_point(
    people: WeightDataset, space: WeightSpace, tmp_path: Path
) -> None:
    identity = resolve(space, ROW, people)
    assert ROW in identity.note
    assert identity.note != resolve(space, ROW).note
    few = dataset_of(tmp_path / "few", decaying(3, 80), layout=LAYOUT)
    with pytest.raises(UnknownNameError, match="p00030"):
        resolve(space, "p00030", few)
    other = dataset_of(tmp_path / "other", decaying(4, 90))
    with pytest.raises(LayoutMismatchError, match="other"):
        resolve(space, ROW, other)
    point = space.sample()[0].save(tmp_path / "p.json")
    assert resolve(space, str(point), people) == resolve(space, point)  # paths mean what they do without it
    based = replace(space, compatibility=replace(space.compatibility, base_digest="a" * 64))
    stranger = dataset_of(
        tmp_path / "based",
        decaying(3, 80),
        layout=LAYOUT,
        compatibility=replace(space.compatibility, base_digest="b" * 64),
    )
    with pytest.raises(BaseModelMismatchError, match="based"):
        resolve(based, "p00001", stranger)


# ---------------------------------------------------------------- what stands for a point
def ways(people: WeightDataset, space: WeightSpace, folder: Path) -> dict[str, Any]:
    """The same point, given in every way."""
    write_adapter(people.adapter(ROW), folder / "lora")
    point = space.row(ROW)
    return {
        "id": ROW, "point": point, "coefficients": point.coefficients, "list": point.coefficients.tolist(),
        "path of a point": point.save(folder / "p.json"), "the same as text": str(folder / "p.json"),
        "adapter": people.adapter(ROW), "path of an adapter": folder / "lora", "weights": people[ROW],
        "identity": resolve(space, ROW), "inversion": SimpleNamespace(point=point),
    }  # fmt: skip


def test_every_call_that_takes_a_point_takes_all_that_stands_for_one(
    people: WeightDataset, space: WeightSpace, tmp_path: Path
) -> None:
    calls: list[Callable[[Any], Any]] = [
        lambda p: space.coefficients_of(p), lambda p: space.distance(p), lambda p: space.mahalanobis(p),
        lambda p: space.read(p, "Beard"), lambda p: space.decode(p),
        lambda p: list(space.read_all(p).values()), lambda p: space.edit(p, {"Beard": 1.0}).coefficients,
        lambda p: space.interpolate([p, p], [1, 2]).coefficients, lambda p: resolve(space, p).point.coefficients,
        lambda p: space.layout.flatten(space.adapter(p)),
    ]  # fmt: skip
    given = ways(people, space, tmp_path)
    for call in calls:
        expected = call(given.pop("point") if "point" in given else space.row(ROW))
        for value in given.values():
            np.testing.assert_allclose(call(value), expected, atol=2e-3)


@pytest.mark.parametrize(
    "wrong",
    [
        3, 2.5, None, True, object(), "nobody", Path("nowhere"), "", "gone.json", b"p00003", np.zeros(K + 1), [],
        np.zeros((2, 3, 4)), {"p00003": 1}, np.full(80, np.nan), Point(np.ones(2), "another space"), np.zeros(79), int,
    ],
)  # fmt: skip
def test_what_stands_for_nothing_is_one_typed_line(space: WeightSpace, wrong: Any) -> None:
    for call in (lambda: resolve(space, wrong), lambda: space.nearest(wrong), lambda: space.edit(wrong, {"PC1": 1.0})):
        with pytest.raises(W2WError) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_dataset_or_space_is_not_read_as_numbers(people: WeightDataset, space: WeightSpace) -> None:
    for wrong in (people, space, Adapter):
        with pytest.raises(InvalidInputError):
            resolve(space, wrong)


# ---------------------------------------------------------------- saving and loading
def test_several_at_once_are_what_each_is_alone(people: WeightDataset, space: WeightSpace) -> None:
    each = [*people.ids[:20], None, people[ROW], space.sample(1)[0], [0.5], np.ones(K), resolve(space, ROW)]
    found = resolve_several(space, each)
    assert len(found) == len(each)
    for item, one in zip(each, found, strict=True):
        if item is None:
            assert one is None
            continue
        alone = resolve(space, item)
        assert one is not None
        assert (one.point, one.exact) == (alone.point, alone.exact)
        np.testing.assert_allclose(one.vector, alone.vector, rtol=1e-5, atol=1e-6)
    with pytest.raises(UnknownNameError):
        resolve_several(space, [ROW, "nobody"])


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_point_saves_loads_and_is_replaced_on_request(space: WeightSpace, suffix: str, tmp_path: Path) -> None:
    point, path = space.edit(ROW, {"Beard": 2.0}), tmp_path / f"p{suffix}"
    assert point.save(path) == path
    again = Point.load(path)
    assert again == point
    assert again.history == point.history
    assert again.explained_ratio == pytest.approx(point.explained_ratio, abs=1e-6)
    with pytest.raises(AlreadyExistsError, match="p"):
        point.save(path)
    other = space.sample(seed=1)[0]
    other.save(path, overwrite=True)
    assert Point.load(path) == other


def test_a_saved_identity_is_set_again_by_its_path(people: WeightDataset, space: WeightSpace, tmp_path: Path) -> None:
    point = edited(space, resolve(space, ROW), {"Beard": 1.5})
    own = edited(space, resolve(space, ROW, people), {"Beard": 1.5})
    for name, identity in (("a.json", point), ("a.safetensors", point), ("point", point), ("own", own)):
        path = save_identity(space, identity, tmp_path / name)
        assert path == tmp_path / name
        np.testing.assert_allclose(resolve(space, path).vector, identity.vector, atol=1e-5)
        with pytest.raises(AlreadyExistsError, match=name):
            save_identity(space, identity, path)
        save_identity(space, point, path, overwrite=True)
        np.testing.assert_allclose(resolve(space, path).vector, point.vector, atol=1e-5)
    with pytest.raises(InvalidInputError, match=r"a\.txt"):
        save_identity(space, point, tmp_path / "a.txt")


def test_a_point_that_keeps_less_than_the_identity_warns(
    people: WeightDataset, space: WeightSpace, tmp_path: Path
) -> None:
    late = edited(space, resolve(space, ROW), {"Beard": 1.5}, start=0.5)
    for name, identity in (("own.json", resolve(space, people[ROW])), ("late.json", late)):
        with pytest.warns(UserWarning, match=name):
            save_identity(space, identity, tmp_path / name)
        assert Point.load(tmp_path / name) == identity.point


def test_several_identities_are_a_folder_each_named_by_row_or_position(
    people: WeightDataset, space: WeightSpace, tmp_path: Path
) -> None:
    given = [resolve(space, what) for what in (ROW, people[ROW], ROW, space.sample()[0])]
    made = export_identities(space, given, tmp_path / "all")
    assert [path.name for path in made] == [ROW, "identity-001", f"{ROW}-2", "identity-003"]
    for path, identity in zip(made, given, strict=True):
        np.testing.assert_allclose(resolve(space, path).vector, identity.vector, atol=1e-6)
    with pytest.raises(AlreadyExistsError, match="all"):
        export_identities(space, given, tmp_path / "all")
    with pytest.raises(AlreadyExistsError, match=rf"identity-003|{ROW}-2"):  # an adapter of another name is not lost
        export_identities(space, given[:2], tmp_path / "all", overwrite=True)
    export_identities(space, given, tmp_path / "all", dialects=("kohya",), overwrite=True)
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == sorted(path.name for path in made)
    assert {read_adapter(path).dialect for path in made} == {"kohya"}
    (tmp_path / "all" / "mine.txt").write_text("x")
    with pytest.raises(AlreadyExistsError, match=r"mine\.txt"):
        export_identities(space, given, tmp_path / "all", overwrite=True)


@pytest.mark.parametrize("row", ["../up", "a/b", "..", ".hidden", "-x", "", "nul\0", HOSTILE, "x" * 300])
def test_an_id_that_no_folder_can_have_is_a_position(space: WeightSpace, row: str, tmp_path: Path) -> None:
    identity = Identity(space.decode("p00001"), space.point_with(np.ones(K), {"row": row}))
    [made] = export_identities(space, [identity], tmp_path / "out")
    assert made.name == "identity-000"
    assert read_adapter(made).factors
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_repeated_names_are_numbered_also_where_case_does_not_count() -> None:
    assert distinct(["a", "b", "A", "a", "a-2"]) == ["a", "b", "A-2", "a-3", "a-2-2"]


# ---------------------------------------------------------------- points of strangers
@pytest.mark.parametrize(
    "history",
    [
        {"row": HOSTILE}, {"row": 3}, {"made": ["x"]}, {"made": "sample", "seed": 10**400},
        {"edits": 3}, {"edits": [1]}, {"edits": {HOSTILE: HOSTILE, "Beard": 10**400, "b": None, "c": True}},
        {"preserved": 3},
        {"preserved": [3, None, "Beard"]}, {"self": 1, "coefficients": 2, "history": 3, "space": []},
    ],
)  # fmt: skip
def test_a_history_of_a_stranger_is_shown_as_text_and_edited(
    space: WeightSpace, history: dict[str, Any], tmp_path: Path
) -> None:
    head = {"format": "w2w-point", "format_version": 1, "basis_digest": space.digest, "coefficients": [1.0]}
    (tmp_path / "p.json").write_text(json.dumps({**head, "history": history}), "utf-8")
    identity = resolve(space, tmp_path / "p.json")
    again = edited(space, identity, {"PC1": 1.0}, preserve=["Beard"])
    for shown in (identity, identity.point, again):
        require_shown_safely(repr(shown))
        require_shown_safely(shown._repr_html_())
    assert again.point.history["edits"]["PC1"] == 1.0
    assert "Beard" in again.point.history["preserved"]


@pytest.mark.parametrize("stated", [10**400, "x", None, [], 1.5, -0.1, True, "nan"])
def test_a_share_that_is_none_is_not_known(space: WeightSpace, stated: Any, tmp_path: Path) -> None:
    head = {"format": "w2w-point", "format_version": 1, "basis_digest": space.digest, "coefficients": [1.0]}
    (tmp_path / "p.json").write_text(json.dumps({**head, "history": {"row": ROW}, "explained_ratio": stated}), "utf-8")
    found = Point.load(tmp_path / "p.json")
    assert found.explained_ratio is None or stated is True
    assert ROW in repr(found)
