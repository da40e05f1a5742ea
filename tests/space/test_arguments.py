"""Arguments that mean nothing: each is refused by one typed line that names the parameter."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch

from w2w_hub import ParameterLayout, WeightDataset, WeightSpace, build_space
from w2w_hub.errors import InvalidInputError, W2WError
from w2w_hub.lora.adapter import Target
from w2w_hub.lora.canonical import canonicalise
from w2w_hub.space import DaskEngine, Krylov, NumpyEngine, TorchEngine, fit_directions
from w2w_hub.training import kaiming_start, train_identities

from .test_directions import labelled

NAN, INF = float("nan"), float("inf")
NOT_WHOLE = [True, np.True_, 1.5, 2.0, np.float32(2), "2", b"2", [2], NAN, Decimal(2), np.array(2), 2j]
NOT_A_NUMBER = [True, np.False_, "0.5", [0.5], NAN, INF, -INF, np.float32("nan"), 10**400, np.array(0.5), 1j, {}]
NOT_A_FLAG = [0, 1, "True", "no", None, [], np.int64(1)]
NOT_A_TEXT = [7, b"x", ["x"], 1.5, True, {}]
NOT_NAMES = ["Beard", b"Beard", 7, [7], ["Beard", None], {"Beard": 1}, True, 1.5]
UNCHECKED = None  # an object of another library, used as it is

BUILD = {
    "dataset": ["people", None, 7],
    "k": [*NOT_WHOLE, 0, -1, 10**6],
    "split": [*NOT_A_TEXT, None, "nope"],
    "rows": [*NOT_NAMES, ["nobody"], []],
    "name": NOT_A_TEXT,
    "version": [*NOT_A_TEXT, None],
    "directions": NOT_A_FLAG,
    "population_model": NOT_A_FLAG,
    "groups": [7, True, "Beard", ["Beard"], {"hair": "Beard"}, {7: ["Beard"]}, {"hair": ["Halo", "Wings"]}],
    "standardize": NOT_A_FLAG,
    "canonical": [True, 7, "qr", ["svd"]],
    "solver": [7, True, "magic", ["magic"], [], [7], {"gram": 1}, Krylov],
    "engine": [7, None, "jax", ["numpy"], NumpyEngine],
    "checkpoint": [7, True, b"x", ["x"], "a\0b"],
}
KRYLOV = {
    "block": [*NOT_WHOLE, 0, -1],
    "tolerance": [*NOT_A_NUMBER, None, 0, 1, -1e-6, 2.0],
    "max_passes": [*NOT_WHOLE, None, 0, -1],
    "seed": [*NOT_WHOLE, None, -1],
}
BLOCK_ROWS = [*NOT_WHOLE, 0, -1]
NUMPY = {"block_rows": BLOCK_ROWS}
TORCH = {"devices": [7, True, [7]], "memory": [*NOT_WHOLE, -1], "block_rows": BLOCK_ROWS}
DASK = {
    "scheduler": [7, True, ["tcp://a:1"]],
    "client": [7, "tcp://a:1"],
    "workers": [*NOT_WHOLE, 0, -1],
    "block_rows": BLOCK_ROWS,
}
FIT = {
    "space": UNCHECKED,
    "dataset": ["people", None, 7],
    "attributes": [*NOT_NAMES, ["Halo"]],
    "reading": [*NOT_A_TEXT, None, "svm"],
    "editing": [*NOT_A_TEXT, None, "none"],
    "whiten": NOT_A_FLAG,
    "preserve": ["Beard", 7, [7], {"Age": "Beard"}, {"Age": [7]}, {7: ["Beard"]}, ["Halo"], True],
    "components": [True, 1.5, 3.0, "all", [3], NAN, 0, -1, 10**6],
    "regularization": [*NOT_A_NUMBER, None, 0, -1.0],
    "seed": [*NOT_WHOLE, None, -1],
}
SAMPLE = {
    "count": [*NOT_WHOLE, None, 0, -1],
    "seed": [*NOT_WHOLE, None, -1],
    "truncation": [*NOT_A_NUMBER, None, -0.1],
    "covariance": [*NOT_A_TEXT, "none"],
    "method": [*NOT_A_TEXT, "none"],
    "attributes": [7, True, "Beard", ["Beard"], {"Halo": True}, {7: True}],
}
NEAREST = {
    "point": ["nobody", None, 7, [], [[0.0]], [NAN], ["a"], {}, object()],
    "count": [*NOT_WHOLE, None, 0, -1],
}
TRAIN = {
    "unet": UNCHECKED,
    "layout": ["unet", None],
    "scheduler": UNCHECKED,
    "latents": [None, [1.0], np.zeros((1, 1, 4, 4, 4)), torch.zeros(1, 4, 4, 4), torch.full((1, 1, 4, 4, 4), NAN)],
    "text": [None, "a face", torch.zeros(4), torch.full((2, 4), INF)],
    "start": [None, 0, torch.zeros(3), torch.full((6,), NAN)],
    "steps": [*NOT_WHOLE, None, 0, -1],
    "batch_size": [*NOT_WHOLE, None, 0, -1],
    "learning_rate": [*NOT_A_NUMBER, None, 0, -1e-3],
    "average_last": [*NOT_A_NUMBER, None, 3.0, 1.01, -0.25],
    "seed": [*NOT_WHOLE, None, -1],
    "engine": [*NOT_A_TEXT, None, "auto", "jax"],
    "autocast_dtype": UNCHECKED,
    "on_step": UNCHECKED,
}
START = {"layout": ["unet", None], "seed": [*NOT_WHOLE, None, -1, 2**64]}
CANONICALISE = {
    "adapter": ["lora", None, 7],
    "method": ["qr", None, 7, ["svd"]],
    "rank": [*NOT_WHOLE, 0, -1],
    "scale": [*NOT_A_NUMBER, None, 0, -1.0],
}
LAYOUT = ParameterLayout({Target("unet", "to_q"): (1, 3, 3)}, 1.0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> WeightDataset:
    return labelled(tmp_path_factory.mktemp("d") / "people")


@pytest.fixture(scope="module")
def space(dataset: WeightDataset) -> WeightSpace:
    return build_space(dataset, 3, directions=False)


def given(space: WeightSpace, dataset: WeightDataset) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Each function with arguments that are good, up to where the work would begin."""
    tensors = {"latents": torch.zeros(1, 1, 4, 4, 4), "text": torch.zeros(2, 4), "start": torch.zeros(6)}
    return {
        "build_space": (build_space, {"dataset": dataset}),
        "Krylov": (Krylov, {}),
        "NumpyEngine": (NumpyEngine, {}),
        "TorchEngine": (TorchEngine, {}),
        "DaskEngine": (DaskEngine, {}),
        "fit_directions": (fit_directions, {"space": space, "dataset": dataset}),
        "sample": (space.sample, {}),
        "nearest": (space.nearest, {"point": space.mean_point()}),
        "train_identities": (train_identities, {"unet": None, "layout": LAYOUT, "scheduler": None, **tensors}),
        "kaiming_start": (kaiming_start, {"layout": LAYOUT, "seed": 0}),
        "canonicalise": (canonicalise, {"adapter": LAYOUT.unflatten(np.ones(6))}),
    }


TABLES: dict[str, dict[str, Any]] = {
    "build_space": BUILD, "Krylov": KRYLOV, "NumpyEngine": NUMPY, "TorchEngine": TORCH, "DaskEngine": DASK,
    "fit_directions": FIT, "sample": SAMPLE, "nearest": NEAREST, "train_identities": TRAIN,
    "kaiming_start": START, "canonicalise": CANONICALISE,
}  # fmt: skip


@pytest.mark.parametrize(("name", "parameter"), [(name, p) for name, table in TABLES.items() for p in table])
def test_a_value_that_an_argument_cannot_have_is_refused(
    space: WeightSpace, dataset: WeightDataset, name: str, parameter: str
) -> None:
    function, good = given(space, dataset)[name]
    for value in TABLES[name][parameter] or ():
        with pytest.raises(W2WError) as caught:
            function(**{**good, parameter: value})
        assert isinstance(caught.value, (InvalidInputError, KeyError)), value
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", TABLES)
def test_every_parameter_has_a_row_in_the_table(space: WeightSpace, dataset: WeightDataset, name: str) -> None:
    function, _ = given(space, dataset)[name]
    assert set(inspect.signature(function).parameters) == set(TABLES[name])


def test_numpys_numbers_do_as_pythons_do(dataset: WeightDataset) -> None:
    plain = build_space(dataset, 3, solver=Krylov(block=8, seed=2), directions=False)
    solver = Krylov(block=np.uint8(8), seed=np.int32(2), tolerance=np.float32(1e-6))
    numpys = build_space(
        dataset, np.int64(3), solver=solver, engine=NumpyEngine(block_rows=np.int16(50)), standardize=np.True_,
        directions=np.False_,
    )  # fmt: skip
    assert numpys.digest == plain.digest
    assert {type(numpys.recipe[name]) for name in ("k", "block", "seed")} == {int}
    ids = np.array(dataset.ids)[dataset.where(split="train")]
    assert build_space(dataset, 3, rows=ids, directions=False) == build_space(
        dataset, 3, rows=list(ids), directions=False
    )
