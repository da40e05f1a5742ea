"""What an unfinished run keeps, and what it refuses to go on with."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from w2w_hub import ParameterLayout
from w2w_hub.errors import InvalidInputError
from w2w_hub.training import train_identity, train_many
from w2w_hub.training.runs import unfinished
from w2w_hub.training.trainer import Trainer

from ..tiny_world import TinyWorld
from .test_refusals import vector
from .test_runs import QUICK, portrait


def interrupt(monkeypatch: pytest.MonkeyPatch, step: int, *, batch: int = 1, times: int = 1) -> Callable[[], None]:
    """Press Ctrl-C in a step of the n-th trainer, after the weights were updated; return what ends that."""
    work, seen = Trainer.work, list[Trainer]()

    def interrupted(self: Trainer, drawn: object) -> None:
        work(self, drawn)  # type: ignore[arg-type]
        if self not in seen:
            seen.append(self)
        if len(seen) == batch and self.step == step:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "work", interrupted)
    return lambda: monkeypatch.setattr(Trainer, "work", work)


def test_an_interrupt_that_does_not_wait_for_a_steps_end_keeps_the_steps_before_it(
    tiny_world: TinyWorld, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr("w2w_hub.training.runs.SAVE_SECONDS", 0.0)
    recipe = replace(QUICK, steps=2)
    whole = train_identity(people / "ann", tiny_world.base, recipe=recipe)
    again = interrupt(monkeypatch, step=1, times=2)
    with pytest.raises(KeyboardInterrupt):
        train_identity(people / "ann", tiny_world.base, tmp_path / "out", recipe=recipe)
    again()
    steps: list[int] = []
    train_identity(
        people / "ann", tiny_world.base, tmp_path / "out", recipe=recipe, resume=True,
        on_step=lambda step, _: steps.append(step),
    )  # fmt: skip
    assert steps == [2]
    layout = ParameterLayout.from_adapter(whole)
    np.testing.assert_array_equal(vector(tmp_path / "out"), layout.flatten(whole))


def test_a_picture_that_went_from_one_person_to_the_next_is_noticed(
    tiny_world: TinyWorld, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    portrait(people / "ann" / "1.png", seed=5)
    (people / "bob" / "0.png").rename(people / "bob" / "2.png")
    again = interrupt(monkeypatch, step=1)
    with pytest.raises(KeyboardInterrupt):
        train_many(people, tiny_world.base, tmp_path / "out", recipe=QUICK)
    again()
    before = sorted(path.name for path in unfinished(tmp_path / "out").iterdir())
    (people / "ann" / "1.png").rename(people / "bob" / "1.png")
    with pytest.raises(InvalidInputError, match="pictures") as caught:
        train_many(people, tiny_world.base, tmp_path / "out", recipe=QUICK, resume=True)
    assert caught.value.path == unfinished(tmp_path / "out")
    assert sorted(path.name for path in unfinished(tmp_path / "out").iterdir()) == before


@pytest.mark.slow
@pytest.mark.parametrize("limit", [-1, "two"], ids=str)
def test_a_limit_of_memory_that_is_no_number_of_people_is_not_used(
    tiny_world: TinyWorld, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: object
) -> None:  # fmt: skip
    recipe = replace(QUICK, steps=2)
    again = interrupt(monkeypatch, step=0)
    with pytest.raises(KeyboardInterrupt):
        train_many(people, tiny_world.base, tmp_path / "out", recipe=recipe)
    again()
    (unfinished(tmp_path / "out") / "limit.json").write_text(json.dumps({"identities": limit}), "utf-8")
    assert train_many(people, tiny_world.base, tmp_path / "out", recipe=recipe, resume=True).batch_sizes == [3]


@pytest.mark.slow
def test_what_is_kept_are_the_rows_of_finished_batches_and_the_state_of_the_one_in_work(
    tiny_world: TinyWorld, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr("w2w_hub.training.runs.SAVE_SECONDS", 0.0)
    recipe, out = replace(QUICK, steps=2), tmp_path / "out"
    again = interrupt(monkeypatch, step=1, batch=2)
    with pytest.raises(KeyboardInterrupt):
        train_many(people, tiny_world.base, out, recipe=recipe, at_once=1)
    again()
    assert sorted(path.name for path in unfinished(out).iterdir()) == [
        "plan.json", "rows-000000-000001.safetensors", "state-000001-000002.safetensors",
    ]  # fmt: skip
    with pytest.raises(InvalidInputError, match="at_once") as caught:
        train_many(people, tiny_world.base, out, recipe=recipe, at_once=2, resume=True)
    assert caught.value.path == unfinished(out)
    trained = list[str]()
    monkeypatch.setattr(Trainer, "rows", kept(Trainer.rows, trained))
    found = train_many(people, tiny_world.base, out, recipe=recipe, at_once=1, resume=True)
    assert len(trained) == 2  # the first is not trained again
    whole = train_many(people, tiny_world.base, tmp_path / "whole", recipe=recipe, at_once=1)
    assert found.dataset.manifest.digest == whole.dataset.manifest.digest
    assert not unfinished(out).exists()


def kept(function: Callable[[Trainer], Any], calls: list[str]) -> Callable[[Trainer], Any]:
    def counted(self: Trainer) -> Any:
        calls.append("a batch")
        return function(self)

    return counted
