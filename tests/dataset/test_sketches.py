"""Sketches and the initialization of a dataset: estimates, files, and how they follow changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load

from tests.hub.conftest import reseal
from w2w_hub import (
    ParameterLayout,
    WeightDataset,
    read_adapter,
    relabel_rows,
    remove_rows,
    write_adapter,
    write_dataset,
)
from w2w_hub.dataset import add_rows, check
from w2w_hub.dataset.initialization import FILE as START_FILE
from w2w_hub.dataset.initialization import FILES as START_FILES
from w2w_hub.dataset.initialization import KOHYA_FILE, initialization_files, initialization_of
from w2w_hub.dataset.sketches import (
    FILE,
    WIDTH,
    Sketches,
    near_units,
    norm_and_concentration,
    quantized,
    read_sketches,
    sample_of,
    sketch,
    sketches_of,
)
from w2w_hub.errors import CorruptFileError, InitializationError
from w2w_hub.lora.adapter import Target
from w2w_hub.store.hashing import entry_of
from w2w_hub.store.tensorfile import read_safetensors, safetensors_bytes

LAYOUT = ParameterLayout(
    {Target("unet", f"mid_block.attentions.{i}.transformer_blocks.0.attn1.to_q"): (2, 1280, 1280) for i in range(3)},
    3.0,
)


def start() -> np.ndarray:
    values = np.random.default_rng(7).normal(size=LAYOUT.size).astype(np.float32)
    for slot in LAYOUT.slots:
        values[slot.b_offset : slot.end] = 0
    return values


def rows(count: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(count, LAYOUT.size)).astype(np.float32)
    return start() + np.float32(0.3) * noise


def of(values: np.ndarray) -> Sketches:
    digests = [hashlib.sha256(row.tobytes()).hexdigest() for row in values]
    return Sketches.of_sketches(sketch(values), *norm_and_concentration(LAYOUT, values[sample_of(digests)]))


def near(made: Sketches, row: np.ndarray) -> list[tuple[int, float]]:
    return near_units(made.units, made.units_of(row[None])[0], row.size)


# ---------------------------------------------------------------- estimates
def test_a_sketch_is_the_sum_of_signed_numbers_as_FORMAT_says() -> None:
    row = np.random.default_rng(0).normal(size=200).astype(np.float32)
    bits = hashlib.shake_256(b"w2w-sketch-v1\n").digest(25)
    wanted = np.zeros(WIDTH)
    for j, value in enumerate(row.tolist()):
        wanted[j % WIDTH] += -value if bits[j // 8] >> (j % 8) & 1 else value
    assert np.allclose(sketch(row[None])[0], wanted)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32), st.floats(0, 0.13))
def test_a_near_duplicate_of_any_row_is_found_and_unrelated_rows_are_not(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(40, 5000)).astype(np.float32)
    made = Sketches.of_sketches(sketch(values), np.ones(1), np.ones(1))
    which = int(rng.integers(40))
    own = values[which] - values.mean(0)
    other = rng.normal(size=5000)
    moved = values[which] + noise * np.linalg.norm(own) / np.linalg.norm(other) * other  # cosine above 0.99
    assert near(made, moved)[0][0] == which
    assert near(made, rng.normal(size=5000)) == []


def test_short_rows_are_their_own_sketch() -> None:
    values = np.random.default_rng(0).normal(size=(9, 20)).astype(np.float32)
    assert np.allclose(np.abs(sketch(values)[:, :20]), np.abs(values))


def test_norm_and_concentration_are_those_of_the_singular_values(layout: ParameterLayout) -> None:
    values = np.random.default_rng(0).normal(size=(3, layout.size))
    norm, ratio = norm_and_concentration(layout, values)
    for i, row in enumerate(values):
        pairs = layout.unflatten(row).factors.values()
        s = np.concatenate([np.linalg.svd(p.scale * p.B.astype(float) @ p.A, compute_uv=False)[:2] for p in pairs])
        assert norm[i] == pytest.approx(np.sqrt((s**2).sum()), rel=1e-5)
        assert ratio[i] == pytest.approx((s**2).sum() ** 2 / (s**4).sum(), rel=1e-5)
    assert [found.tolist() for found in norm_and_concentration(layout, 0 * values[:1])] == [[0], [0]]


def test_outliers_are_outside_of_the_population_and_of_eight_robust_deviations() -> None:
    made = of(rows(30))
    usual = float(np.median(made.norm))
    assert made.outlier("norm", usual) is made.outlier("norm", float(made.norm.max())) is None
    low, high = made.outlier("norm", 100 * usual) or (0, 0)
    assert low < usual < high
    assert made.outlier("norm", usual / 100) == (low, high)
    assert of(rows(7)).outlier("norm", 100 * usual) is None  # too few to say


# -------------------------------------------------------------------- files
@pytest.fixture
def people(tmp_path: Path) -> WeightDataset:
    ids = [f"p{i}" for i in range(40)]
    return write_dataset(rows(40), tmp_path / "people", layout=LAYOUT, ids=ids, start_adapter=LAYOUT.unflatten(start()))


def again(dataset: WeightDataset) -> np.ndarray:
    """The sketches of all rows about the published center."""
    found = sketches_of(dataset)
    assert found is not None
    return quantized(sketch(dataset[:].astype(np.float32)), found.center)


def test_a_large_dataset_publishes_both_and_keeps_them_right_through_every_change(
    people: WeightDataset, tmp_path: Path
) -> None:
    assert {FILE, START_FILE, KOHYA_FILE} <= set(people.manifest.files)
    assert check(people.path).ok
    first = people.manifest.files[FILE]
    relabeled = relabel_rows(people.path, license="mit")
    assert relabeled.manifest.files[FILE] == first  # of the same rows
    write_adapter(LAYOUT.unflatten(rows(1, seed=1)[0]), tmp_path / "new", ("peft",))
    grown = add_rows(people.path, tmp_path / "new")  # no --initialization is needed: A is compared
    fewer = remove_rows(people.path, ["p3", "p20"])
    for state in (grown, fewer):
        assert state.manifest.files[START_FILE] == people.manifest.files[START_FILE]
    found = sketches_of(fewer)
    assert found is not None
    assert found.centered_rows == 40
    assert np.array_equal(found.values, again(fewer))
    assert np.array_equal(initialization_of(fewer), start())
    assert check(fewer.path).ok


def test_the_digest_covers_neither_and_a_small_dataset_has_no_sketches(
    make_dataset: Callable[..., WeightDataset], people: WeightDataset, tmp_path: Path
) -> None:
    assert not {FILE, *START_FILES} & set(make_dataset("small").manifest.files)
    plain = write_dataset(rows(40), tmp_path / "plain", layout=LAYOUT, ids=people.ids)
    assert plain.manifest.digest == people.manifest.digest
    assert not set(START_FILES) & set(plain.manifest.files)
    assert plain.manifest.files[FILE] == people.manifest.files[FILE]  # equal rows, equal bytes


def test_rows_of_another_initialization_are_refused_and_named(people: WeightDataset, tmp_path: Path) -> None:
    other = np.random.default_rng(5).normal(size=LAYOUT.size)
    write_adapter(LAYOUT.unflatten(other), tmp_path / "stray", ("peft",))
    before = (people.path / "manifest.json").read_bytes()
    with pytest.raises(InitializationError) as caught:
        add_rows(people.path, tmp_path / "stray")
    assert caught.value.name == "stray"
    assert (people.path / "manifest.json").read_bytes() == before
    with pytest.raises(InitializationError):
        relabel_rows(people.path, start_adapter=LAYOUT.unflatten(other))  # publishes another one already


def test_another_name_of_the_initialization_drops_its_files(people: WeightDataset) -> None:
    renamed = relabel_rows(people.path, initialization="other", overwrite=True)
    assert not set(START_FILES) & set(renamed.manifest.files)
    assert not (people.path / START_FILE).exists()


def test_the_start_file_is_read_by_peft_and_kohyas_rules_with_alpha_and_all_zeros(people: WeightDataset) -> None:
    tensors, header = load((people.path / START_FILE).read_bytes()), read_safetensors(people.path / START_FILE)[1]
    assert len(tensors) == 2 * len(LAYOUT.slots)
    assert '"unet.lora_alpha": 6' in header["lora_adapter_metadata"]
    for name in START_FILES:
        adapter = read_adapter(people.path / name)
        assert np.array_equal(LAYOUT.flatten(adapter), start())
        assert {pair.scale for pair in adapter.factors.values()} == {3.0}
    # sd-scripts: lora_unet_ + path with underscores; scale = alpha / rank of lora_down
    kohya = load((people.path / KOHYA_FILE).read_bytes())
    for slot in LAYOUT.slots:
        name = f"lora_unet_{slot.target.module.replace('.', '_')}"
        down, up = kohya.pop(f"{name}.lora_down.weight"), kohya.pop(f"{name}.lora_up.weight")
        assert np.array_equal(down.ravel(), start()[slot.offset : slot.b_offset])
        assert not up.any()
        assert kohya.pop(f"{name}.alpha") / down.shape[0] == 3.0
    assert not kohya


def forge(change: Callable[[dict[str, Any], dict[str, str]], object]) -> Callable[[WeightDataset], None]:
    def forged(dataset: WeightDataset) -> None:
        path = dataset.path / FILE
        tensors, metadata = read_safetensors(path)
        change(tensors, metadata)
        path.write_bytes(safetensors_bytes(tensors, metadata))
        reseal(dataset.path, files=dataset.manifest.files | {FILE: entry_of(path)})

    return forged


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, metadata: metadata.update(format_version="one"),
        lambda tensors, metadata: metadata.update(rows_sha256="0" * 64),
        lambda tensors, metadata: metadata.update(centered_rows="-1"),
        lambda tensors, metadata: tensors.update(sketches=tensors["sketches"][:-1].copy()),
        lambda tensors, metadata: tensors.update(center=tensors["center"] * np.nan),
        lambda tensors, metadata: tensors.update(norm=np.ones(300, np.float32), concentration=np.ones(300, np.float32)),
        lambda tensors, metadata: tensors.pop("norm"),
    ],
)
def test_forged_sketches_are_refused(people: WeightDataset, change: Callable[..., object]) -> None:
    forge(change)(people)
    opened = WeightDataset.open(people.path)
    with pytest.raises(CorruptFileError):
        sketches_of(opened)
    assert not check(people.path).ok


def test_sketches_of_a_later_version_are_ignored(people: WeightDataset) -> None:
    forge(lambda tensors, metadata: metadata.update(format_version="2"))(people)
    opened = WeightDataset.open(people.path)
    assert read_sketches(opened.manifest, opened.find, opened.labels["row_sha256"].tolist()) is None
    assert check(people.path).ok


def test_a_start_file_that_does_not_fit_is_refused(people: WeightDataset, layout: ParameterLayout) -> None:
    other = initialization_files(layout, np.ones(layout.size, np.float32))[START_FILE]
    (people.path / START_FILE).write_bytes(other)
    reseal(people.path, files=people.manifest.files | {START_FILE: entry_of(people.path / START_FILE)})
    with pytest.raises(CorruptFileError):
        initialization_of(WeightDataset.open(people.path))
    assert not check(people.path).ok


def test_a_manifest_that_lists_a_contribution_is_found(people: WeightDataset) -> None:
    place = people.path / "contributions" / "0123456789abcdef" / "labels.jsonl"
    place.parent.mkdir(parents=True)
    place.write_text("{}\n")
    name = place.relative_to(people.path).as_posix()
    reseal(people.path, files=people.manifest.files | {name: entry_of(place)})
    assert not check(people.path).ok


def test_sketches_of_other_values_are_found_by_verification(people: WeightDataset) -> None:
    def swap(tensors: dict[str, Any], _: dict[str, str]) -> None:
        tensors["sketches"] = tensors["sketches"][::-1].copy()

    forge(swap)(people)
    assert sketches_of(WeightDataset.open(people.path)) is not None
    assert check(people.path, deep=False).ok
    assert not check(people.path).ok


def test_the_bytes_of_a_file_depend_on_its_content_alone() -> None:
    tensors = {"b": np.ones((2, 3), np.float16), "a": np.arange(5, dtype=np.int8), "c": np.ones(2)}
    metadata = {"z": "1", "a": "2"}
    made = safetensors_bytes(tensors, metadata)
    assert made == safetensors_bytes(dict(reversed(tensors.items())), dict(reversed(metadata.items())))
    read = load(made)
    assert all(np.array_equal(read[name], value) and read[name].dtype == value.dtype for name, value in tensors.items())
