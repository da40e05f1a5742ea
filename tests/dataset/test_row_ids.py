"""What the rows of checkpoints are called, and lists that are given as one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from w2w_hub import ParameterLayout, add_rows, pack_adapters, write_adapter, write_dataset
from w2w_hub.dataset import relabel_rows
from w2w_hub.errors import InvalidInputError, UnknownNameError
from w2w_hub.lora.adapter import Target

SMALL = ParameterLayout({Target("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"): (1, 1, 1)}, 1.0)


@pytest.fixture
def loras(tmp_path):
    """Write a PEFT folder, or a file in it, at each of these paths."""

    def write(*names: str):
        for i, name in enumerate(names):
            folder = tmp_path / (name.rpartition("/")[0] if name.endswith(".safetensors") else name)
            folder.parent.mkdir(parents=True, exist_ok=True)
            write_adapter(SMALL.unflatten(np.array([i + 1.0, 2.0])), folder, ("peft",))
            if not name.endswith("adapter_model.safetensors") and name.endswith(".safetensors"):
                (folder / "adapter_model.safetensors").rename(tmp_path / name)
        return [tmp_path / name for name in names]

    return write


def pack(paths, tmp_path, **options):
    return pack_adapters(paths, tmp_path / "people", parquet_view=False, shard_size="1MB", **options)


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["anna/unet", "bert/unet"], ["anna", "bert"]),
        (["anna/checkpoint-800", "bert/checkpoint-600"], ["anna", "bert"]),
        (["anna/checkpoint-800/unet", "bert/checkpoint-600/unet"], ["anna", "bert"]),
        (["anna/unet", "bert/checkpoint-800/unet", "carl"], ["anna", "bert", "carl"]),
        (["anna/text_encoder", "bert/transformer"], ["anna", "bert"]),
        (["anna/adapter_model.safetensors", "bert/adapter_model.safetensors"], ["anna", "bert"]),
        (["anna/checkpoint-400", "anna/checkpoint-800"], ["checkpoint-400", "checkpoint-800"]),
        (["anna/unet"], ["anna"]),
        (["anna", "bert.v2"], ["anna", "bert.v2"]),
    ],
    ids=str,
)
def test_rows_have_the_names_that_tell_checkpoints_apart(loras, tmp_path, names, ids):
    assert pack(loras(*names), tmp_path).ids == tuple(ids)


@pytest.mark.parametrize("names", [["anna/final", "bert/final"], ["anna/v1/unet", "bert/v1/unet"]], ids=str)
def test_where_all_names_are_the_same_the_folders_above_give_them_and_that_is_said(loras, tmp_path, names):
    with pytest.warns(UserWarning, match="'anna', 'bert'"):
        assert pack(loras(*names), tmp_path).ids == ("anna", "bert")


@pytest.mark.parametrize(
    "names", [["old/anna", "old/bert", "new/anna"], ["a/v1/unet", "a/v2/unet", "b/v1/unet"]], ids=str
)
def test_names_that_do_not_tell_rows_apart_are_refused_and_ids_help(loras, tmp_path, names):
    paths = loras(*names)
    with pytest.raises(InvalidInputError, match="ids="):
        pack(paths, tmp_path)
    assert not (tmp_path / "people").exists()
    assert pack(paths, tmp_path, ids=["x", "y", "z"]).ids == ("x", "y", "z")


def test_added_rows_are_named_alike_and_by_ids(loras, tmp_path):
    first, second, third = loras("anna/unet", "bert/unet", "carl/unet")
    pack([first], tmp_path)
    assert add_rows(tmp_path / "people", [second]).ids == ("anna", "bert")
    table = pd.DataFrame({"id": ["c"], "Age": [2.5]})
    grown = add_rows(tmp_path / "people", third, ids="c", labels=table)
    assert grown.ids == ("anna", "bert", "c")
    assert grown.labels["Age"]["c"] == 2.5


@pytest.mark.parametrize("ids", [["x"], ["x", "x"], ["x", None], ["x", b"y"], ["x", "a/b"], {"x": 1, "y": 2}, 3, "xy"])
def test_ids_that_do_not_fit_are_refused(loras, tmp_path, ids):
    with pytest.raises(InvalidInputError):
        pack(loras("anna", "bert"), tmp_path, ids=ids)
    assert not (tmp_path / "people").exists()


def test_one_thing_as_text_is_one_and_not_its_letters(loras, tmp_path):
    (path,) = loras("anna")
    ds = pack(str(path), tmp_path, labels=pd.DataFrame({"id": ["anna"], "Beard": [0.5], "B": [1.5]}))
    assert ds.ids == ("anna",)
    with pytest.raises(InvalidInputError):
        ds.torch(columns=3)
    assert ds.torch(columns="Beard")[0]["Beard"] == 0.5
    assert relabel_rows(ds.path, drop_columns="Beard").attributes == ("B",)
    with pytest.raises(UnknownNameError, match="'Beard'"):
        relabel_rows(ds.path, drop_columns="Beard")


@pytest.mark.parametrize("paths", [3, None, b"anna", [3], ["a\0b"], {"anna": 1}, []], ids=repr)
def test_what_is_no_list_of_paths_is_refused(make_dataset, tmp_path, paths):
    for call in (lambda: pack(paths, tmp_path), lambda: add_rows(make_dataset().path, paths)):
        with pytest.raises(InvalidInputError):
            call()


# ------------------------------------------------------------- weights given
def given(tmp_path, weights, **options):
    return write_dataset(weights, tmp_path / "d", layout=SMALL, parquet_view=False, **options)


VALUES = np.array([[0.5, -2.0], [1.25, 3.0], [0.0, 7.0]], np.float32)


class DlpackOnly:
    def __dlpack__(self, **options):
        return VALUES.__dlpack__(**options)

    def __dlpack_device__(self):
        return VALUES.__dlpack_device__()


class ArrayOnly:
    def __array__(self, dtype=None, copy=None):
        return VALUES if dtype is None else VALUES.astype(dtype)


@pytest.mark.parametrize(
    "weights",
    [
        VALUES, VALUES.astype(np.float64), VALUES.tolist(), list(VALUES), VALUES.astype(">f4"),
        np.asfortranarray(VALUES),
        np.ma.array(VALUES), pd.DataFrame(VALUES), pd.DataFrame(VALUES).astype("Float32"), DlpackOnly(), ArrayOnly(),
    ],
    ids=lambda w: type(w).__name__,
)  # fmt: skip
def test_numbers_are_taken_from_whatever_holds_them(tmp_path, weights):
    ds = given(tmp_path, weights)
    assert ds.manifest.dtype == "float32"
    np.testing.assert_array_equal(ds[:], VALUES)


def test_tensors_are_taken_without_a_change(tmp_path):
    torch = pytest.importorskip("torch")
    values = torch.from_numpy(VALUES)
    for i, weights in enumerate(
        [values, values.bfloat16(), values.double(), values.clone().requires_grad_(), values.T.contiguous().T,
         list(values), [row.bfloat16().requires_grad_() for row in values], torch.nn.Parameter(values),
         torch.conj(values * 1j).imag * -1, values.to(torch.float8_e5m2)]
    ):  # fmt: skip
        ds = write_dataset(weights, tmp_path / str(i), layout=SMALL, parquet_view=False)
        np.testing.assert_array_equal(ds[:], VALUES)
    assert write_dataset(values.half(), tmp_path / "half", layout=SMALL).manifest.dtype == "float16"
    for i, weights in enumerate([values * 1j, values.to_sparse(), values.to("meta"), values[0], values * np.inf]):
        with pytest.raises(ValueError) as caught:
            write_dataset(weights, tmp_path / f"bad{i}", layout=SMALL)
        assert type(caught.value).__module__ == "w2w_hub.errors"


@pytest.mark.parametrize(
    "weights",
    [
        "abc", b"ab", None, 3.0, {}, {"a": [1, 2]}, object(), [[1.0, 2.0], [3.0]], [["a", "b"]], VALUES.astype(complex),
        VALUES.astype(object), np.zeros(2, [("a", "f4"), ("b", "f4")]), np.ma.array(VALUES, mask=VALUES > 2),
        VALUES.astype(str), np.array([[2**24 + 1, 0]]), np.array([[2**63 - 1, 0]]),
        np.array([[2**64 - 1, 0]], np.uint64),
        pd.DataFrame({"a": [1.0], "b": ["x"]}), pd.DataFrame({"a": [1.0], "b": pd.array([None], "Float32")}),
        np.array(["2020-01-01"], "datetime64[D]"), [[np.nan, 1.0]], [[np.inf, 1.0]], np.full((1, 2), 1e300),
    ],
    ids=lambda w: f"{type(w).__name__}-{getattr(w, 'dtype', '')}",
)  # fmt: skip
def test_what_is_no_matrix_of_finite_numbers_is_one_typed_line(tmp_path, weights):
    with pytest.raises(ValueError) as caught:
        given(tmp_path, weights)
    assert type(caught.value).__module__ == "w2w_hub.errors"
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "d").exists()


def test_the_text_index_of_a_frame_names_the_rows(tmp_path):
    frame = pd.DataFrame(VALUES, index=["b", "a", "c"])
    table = pd.DataFrame({"id": ["a", "b", "c"], "x": [1.5, 2.5, 3.5]})
    ds = given(tmp_path, frame, labels=table)
    assert ds.ids == ("b", "a", "c")
    np.testing.assert_array_equal(ds["a"], VALUES[1])
    assert ds.labels["x"]["a"] == 1.5
    assert write_dataset(frame, tmp_path / "e", layout=SMALL, ids=list("xyz")).ids == ("x", "y", "z")
    assert write_dataset(frame[1:].reset_index(drop=True), tmp_path / "f", layout=SMALL).ids[0] == "row-000000"
    for ids in ("xyz", b"xyz", 3, [1.5, 2, 3], ["a", None, "b"]):
        with pytest.raises(InvalidInputError):
            write_dataset(frame, tmp_path / "g", layout=SMALL, ids=ids)
