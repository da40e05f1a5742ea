"""Renamed public names of 0.1: they work for one release, with a DeprecationWarning that names the new one."""

from __future__ import annotations

import pytest
import torch

from w2w_hub import ParameterLayout
from w2w_hub.models import injection, inversion

RENAMED = {"identity_shown": "inject", "rows_attached": "inject_hooks", "weights_rewritten": "inject_weights",
           "weights_differentiable": "inject_differentiable"}  # fmt: skip


@pytest.mark.parametrize("old", sorted(RENAMED))
def test_an_old_name_injects_as_the_new_one_does_and_warns_with_it(old: str) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2)).requires_grad_(False)
    layout = ParameterLayout.from_model(model, ["0"], rank=1, scale=1.0)
    row, inputs = torch.ones(layout.size), torch.ones(1, 3)
    vectors = row[None] if old == "rows_attached" else row
    with pytest.warns(DeprecationWarning, match=rf"{old}.*\b{RENAMED[old]}\b"):
        block = getattr(injection, old)(model, layout, vectors)
    with block:
        found = model(inputs)
        with pytest.warns(DeprecationWarning, match=r"base_shown.*\buse_base\b"):
            base = injection.base_shown(model)
        with base:
            assert torch.equal(model(inputs), inputs @ model[0].weight.T + model[0].bias)
    with getattr(injection, RENAMED[old])(model, layout, vectors):
        assert torch.equal(found, model(inputs))


def test_the_old_name_of_the_settings_of_an_inversion_warns() -> None:
    with pytest.warns(DeprecationWarning, match="InversionSettings"):
        assert inversion.Settings is inversion.InversionSettings
