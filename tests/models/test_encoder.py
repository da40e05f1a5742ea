"""Fitting encoders on pictures that a pipeline draws, and inversions that start from their guesses or other points."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.numpy import load_file, save_file

from tests.space.encoders import random_encoder
from w2w_hub import Encoder, Point, W2WPipeline, WeightSpace, fit_encoder
from w2w_hub.cli import main
from w2w_hub.errors import InvalidInputError, LayoutMismatchError, MissingPathError, UnknownNameError
from w2w_hub.models.encoder import evidence, pairs, training
from w2w_hub.models.encoder.clock import Clock
from w2w_hub.models.encoder.evidence import held_out_points, measure
from w2w_hub.models.encoder.network import EncoderNetwork
from w2w_hub.models.encoder.pairs import Pairs, Plan, draw_chunk, varied_points
from w2w_hub.models.encoder.training import EncoderTrainer, varied
from w2w_hub.models.pictures import to_picture
from w2w_hub.space import Spread
from w2w_hub.space.encoder.network import forward
from w2w_hub.space.encoder.stated import stored_bytes
from w2w_hub.store.tensorfile import read_header

SMALL: dict[str, Any] = {
    "pictures": 12, "steps": 6, "batch_size": 4, "width": 2, "hidden": 3, "prompts": ["x"], "draw_batch_size": 8,
}  # fmt: skip


@pytest.fixture
def drawing(pipe: W2WPipeline, monkeypatch: pytest.MonkeyPatch) -> W2WPipeline:
    """The tiny pipeline, which draws few pictures in one step each."""
    monkeypatch.setattr(pairs, "CHUNK", 8)
    monkeypatch.setattr(evidence, "MOST", 4)
    monkeypatch.setattr(pipe, "_generation", {"num_inference_steps": 1, "guidance_scale": 1.0})
    monkeypatch.setattr(pipe, "_space", WeightSpace.from_pretrained(pipe.space.path))
    return pipe


@pytest.fixture(scope="module")
def picture(loaded: W2WPipeline) -> np.ndarray:
    return loaded.render(["person-0005"], [("x", 1)], num_inference_steps=1, guidance_scale=1.0)[0, 0]


def same(first: Encoder, second: Encoder) -> bool:
    """Whether two fits gave one encoder; products of matrices depend in their last bits on where memory lies."""
    close = [np.allclose(first.tensors[name], second.tensors[name], atol=1e-3) for name in first.tensors]
    return all(close) and first.recipe == second.recipe


# ------------------------------------------------------------------ fitting
def test_the_same_seed_gives_the_same_encoder_which_says_what_it_was_made_of(drawing: W2WPipeline) -> None:
    drawing.identity = "person-0003"
    before = drawing.identity
    first = fit_encoder(drawing, **SMALL)
    assert drawing.identity is before
    assert same(fit_encoder(drawing, **SMALL), first)
    assert not same(fit_encoder(drawing, **SMALL, seed=1), first)
    assert first.basis_digest == drawing.space.digest
    assert first.base_digest == drawing.space.compatibility.base_digest
    assert (first.k, first.size, first.factor) == (drawing.space.k, (64, 64), 1)
    assert (first.recipe["pictures"], first.recipe["steps"]) == (12, 6)
    assert first.recipe["generation"] == drawing.generation
    found = first.evidence
    assert (found["of"], found["people"], found["pictures"]) == ("held-out rows", 4, 8)
    assert [step for step, _ in found["loss"]] == [1, 2, 3, 4, 5, 6]


def test_a_fit_that_was_interrupted_gives_what_an_uninterrupted_one_does(
    drawing: W2WPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit_encoder(drawing, **SMALL)
    drawn: list[int] = []
    first = pairs.draw_chunk

    def counted(pipe: Any, plan: Any, rows: Any, chunk: int) -> Pairs:
        if chunk == 1 and not drawn.count(1):
            drawn.append(chunk)
            raise KeyboardInterrupt
        drawn.append(chunk)
        return first(pipe, plan, rows, chunk)

    advance = EncoderTrainer.advance

    def stopped(self: EncoderTrainer, progress: float) -> torch.Tensor:
        if self.step == 4 and "stopped" not in drawn:
            drawn.append("stopped")  # type: ignore[arg-type]
            raise KeyboardInterrupt
        return advance(self, progress)

    monkeypatch.setattr(pairs, "draw_chunk", counted)
    monkeypatch.setattr(EncoderTrainer, "advance", stopped)
    for _ in range(2):  # one while it draws, one while it trains
        with pytest.raises(KeyboardInterrupt):
            fit_encoder(drawing, **SMALL, work=tmp_path / "work")
    assert len(list((tmp_path / "work").iterdir())) == 3
    found = fit_encoder(drawing, **SMALL, work=tmp_path / "work")
    assert same(found, whole)
    assert drawn == [0, 1, 1, "stopped"]
    assert (
        fit_encoder(drawing, **SMALL | {"steps": 3}, work=tmp_path / "work").recipe["steps"] == 3
    )  # on the same pictures
    assert drawn == [0, 1, 1, "stopped"]


def test_damaged_pictures_of_an_earlier_run_are_drawn_again(drawing: W2WPipeline, tmp_path: Path) -> None:
    whole = fit_encoder(drawing, **SMALL, work=tmp_path)
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:100])
    assert same(fit_encoder(drawing, **SMALL, work=tmp_path), whole)


def test_a_limited_time_ends_drawing_and_training(drawing: W2WPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    found = fit_encoder(drawing, **SMALL | {"pictures": 10**6, "steps": 10**6}, minutes=0.02)
    assert 8 <= found.recipe["pictures"] < 10**6
    assert 0 < found.recipe["steps"] < 10**6
    assert np.isfinite(found.evidence["cosine"])


def test_a_fit_that_diverges_says_so(drawing: W2WPipeline) -> None:
    with pytest.raises(InvalidInputError, match="learning_rate"):
        fit_encoder(drawing, **SMALL, learning_rate=1e30)


def test_a_network_of_too_many_pixels_is_refused_before_anything_is_drawn(
    drawing: W2WPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("w2w_hub.models.encoder.fit.MAX_ENCODER_PIXELS", 1000)
    with pytest.raises(InvalidInputError, match="resolution"):
        fit_encoder(drawing, **SMALL)


@pytest.mark.parametrize("large", [{"hidden": 65_536, "width": 32}, {"hidden": 16_384, "width": 256}])
def test_an_encoder_too_large_to_be_read_again_is_refused_before_anything_is_drawn(
    drawing: W2WPipeline, monkeypatch: pytest.MonkeyPatch, large: dict[str, int]
) -> None:
    monkeypatch.setattr("w2w_hub.models.encoder.fit.draw_pairs", lambda *_: pytest.fail("drawn"))
    with pytest.raises(InvalidInputError, match="hidden") as error:
        fit_encoder(drawing, **SMALL | large)
    assert "\n" not in str(error.value)


def test_the_size_that_is_checked_before_a_fit_is_that_of_the_file(drawing: W2WPipeline, tmp_path: Path) -> None:
    encoder = fit_encoder(drawing, **SMALL, k=3)
    size = read_header(encoder.save(tmp_path / "e.safetensors")).size
    assert size == stored_bytes(encoder.size, SMALL["width"], SMALL["hidden"], 3)


def test_fewer_components_are_predicted_where_asked(drawing: W2WPipeline, picture: np.ndarray) -> None:
    drawing.space.encoder = found = fit_encoder(drawing, **SMALL, k=3)
    assert found.k == 3
    assert drawing.encode(picture).coefficients.shape == (3,)
    with pytest.raises(InvalidInputError):
        fit_encoder(drawing, **SMALL, k=1000)


def test_larger_pictures_are_averaged(drawing: W2WPipeline, picture: np.ndarray) -> None:
    drawing.space.encoder = found = fit_encoder(drawing, **SMALL, resolution=16)
    assert found.factor == 4
    assert len(drawing.encode(picture).coefficients) == drawing.space.k


def test_an_encoder_learns_to_tell_points_whose_pictures_differ() -> None:
    """The pictures are plain colors that the first three of four coefficients decide."""
    rng = np.random.default_rng(0)
    coefficients = rng.normal(size=(256, 4)).astype(np.float32)
    colors = 0.5 + 0.2 * np.tanh(coefficients[:, None, None, :3])
    shown = (np.broadcast_to(colors, (256, 8, 8, 3)) * 255).round().astype(np.uint8)
    torch.manual_seed(0)
    network = EncoderNetwork((8, 8), 4, 16, 4)
    trainer = EncoderTrainer(
        network, Pairs(shown[:200], coefficients[:200]), np.zeros(4), np.ones(4), batch_size=64, learning_rate=5e-3,
        seed=0, device=torch.device("cpu"),
    )  # fmt: skip
    for step in range(150):
        trainer.advance(step / 150)
    guess = forward(network.folded(), shown[200:] / np.float32(255))
    explained = 1 - np.square(guess - coefficients[200:]).mean(0) / coefficients[200:].var(0)
    assert (explained[:3] > 0.6).all()  # light is changed on purpose
    assert explained[3] < 0.3


def test_the_network_without_torch_is_the_one_that_was_trained() -> None:
    torch.manual_seed(0)
    network = EncoderNetwork((12, 20), 3, 5, 7)
    shown = torch.rand(6, 3, 12, 20)
    network(shown)  # moves the running means
    with torch.no_grad():
        for normalization in network.normalizations:
            normalization.weight.uniform_(0.5, 2)
            normalization.bias.normal_()
    network.eval()
    with torch.no_grad():
        expected = network(shown).numpy()
    found = forward(network.folded(), shown.permute(0, 2, 3, 1).numpy())
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=5e-3)  # weights are rounded to float16


def _trainer() -> EncoderTrainer:
    rng = np.random.default_rng(0)
    shown = Pairs(rng.integers(0, 256, (6, 8, 8, 3)).astype(np.uint8), rng.normal(size=(6, 3)).astype(np.float32))
    torch.manual_seed(0)
    return EncoderTrainer(
        EncoderNetwork((8, 8), 2, 3, 3), shown, np.zeros(3), np.ones(3), batch_size=4, learning_rate=1e-3, seed=0,
        device=torch.device("cpu"),
    )  # fmt: skip


STATES: dict[str, Any] = {
    "losses": None, "step": None, "network.first.weight": None, "optimizer.0.exp_avg": None,
    "network.second.bias": np.zeros(4, np.float32), "optimizer.1.exp_avg_sq": np.zeros(1, np.float32),
    "optimizer.99.exp_avg": np.zeros(1, np.float32), "optimizer.x": np.zeros(1, np.float32),
    "another": np.zeros(1, np.float32), "losses ": np.zeros(1), "step ": np.array([2, 3]),
}  # fmt: skip


@pytest.mark.parametrize("name", STATES)
def test_a_readable_state_with_missing_or_other_tensors_starts_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    file, clock = tmp_path / "state.safetensors", Clock(None)
    expected = training.train(_trainer(), 4, clock, None)
    advance = EncoderTrainer.advance

    def stopped(self: EncoderTrainer, progress: float) -> torch.Tensor:
        if self.step == 2:
            raise KeyboardInterrupt
        return advance(self, progress)

    monkeypatch.setattr(EncoderTrainer, "advance", stopped)
    with pytest.raises(KeyboardInterrupt):
        training.train(_trainer(), 4, clock, file)
    state = {n: v for n, v in load_file(file).items() if n != name.strip()}
    if STATES[name] is not None:
        state[name.strip()] = STATES[name]
    save_file(state, file)
    again = _trainer()
    steps: list[int] = []
    monkeypatch.setattr(EncoderTrainer, "advance", lambda self, p: (steps.append(self.step), advance(self, p))[1])
    found = training.train(again, 4, clock, file)
    assert steps == [0, 1, 2, 3]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_pictures_are_varied_in_place_light_and_noise_but_little() -> None:
    shown = torch.full((4, 8, 8, 3), 128, dtype=torch.uint8)
    first, again = (varied(shown, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == (4, 3, 8, 8)
    assert 0 < float((first - 128 / 255).abs().mean()) < 0.15


# ------------------------------------------------------------------ points and evidence
def test_points_to_draw_are_varied_rows_and_samples_of_fitted_people_only(pipe: W2WPipeline) -> None:
    space = pipe.space
    rows, held_out = held_out_points(space, 0)
    population = space.population
    assert len(rows) == population.fitted.sum()
    assert held_out.what == "held-out rows"
    others = population.coefficients[~population.fitted]
    assert all((np.abs(others - point).max(1) < 1e-5).any() for point in held_out.points)
    points = varied_points(space, rows, 400, np.random.default_rng(0))
    spread = points.std(0) / space.spread.std
    assert 0.7 < np.median(spread) < 1.6
    assert np.abs((points.mean(0) - space.spread.mean) / space.spread.std).max() < 0.4


def test_a_space_without_held_out_rows_sets_some_aside_and_one_without_rows_draws_samples(pipe: W2WPipeline) -> None:
    population = pipe.space.population
    fitted = replace(
        population, ids=tuple(np.array(population.ids)[population.fitted]), squared_norms=None,
        splits=population.splits[population.fitted], coefficients=population.coefficients[population.fitted],
    )  # fmt: skip
    rows, held_out = held_out_points(replace(pipe.space, population=fitted), 0)
    assert held_out.what == "rows that were set aside"
    assert len(rows) + len(held_out.points) == len(fitted)
    assert not any((np.abs(rows - point).max(1) < 1e-9).any() for point in held_out.points)
    rows, held_out = held_out_points(pipe.space.without_population(), 0)
    assert (len(rows), held_out.what) == (0, "samples")


def test_evidence_of_perfect_constant_and_shuffled_guesses() -> None:

    rng = np.random.default_rng(0)
    points = rng.normal(size=(20, 5))

    def measured(guess: np.ndarray) -> dict[str, Any]:
        encoder = Encoder({}, Spread(np.zeros(5), np.ones(5), 20), "", None, (1, 1), 1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(evidence, "forward", lambda tensors, pictures: guess)
            return measure(encoder, np.zeros((40, 1, 1, 3), np.uint8), points)

    perfect, shuffled = measured(np.repeat(points, 2, 0)), measured(np.repeat(np.roll(points, 1, 0), 2, 0))
    assert (perfect["cosine"], perfect["nearest"], perfect["explained_variance"]) == (1, 1, 1)
    assert perfect["cosine_interval"] == [1, 1]
    assert abs(perfect["cosine_shuffled"]) < 0.3
    assert shuffled["nearest"] == 0
    assert abs(shuffled["cosine"]) < 0.4
    mean = measured(np.zeros((40, 5)))
    assert (mean["explained_variance"], mean["cosine"]) == (0, 0)


def test_a_chunk_of_pictures_is_the_same_whatever_the_batch(drawing: W2WPipeline) -> None:
    rows, _ = held_out_points(drawing.space, 0)
    plans = [Plan(["x", "y"], 1, 0, drawing.generation, size) for size in (8, 3)]
    first, second = (draw_chunk(drawing, plan, rows, 1) for plan in plans)
    np.testing.assert_array_equal(first.coefficients, second.coefficients)
    assert np.abs(first.pictures.astype(int) - second.pictures).max() <= 1
    other = draw_chunk(drawing, plans[0], rows, 2)
    assert np.abs(first.coefficients - other.coefficients).max() > 0


# ------------------------------------------------------------------ starts of inversions
def z(space: WeightSpace, coefficients: Any) -> np.ndarray:
    return (np.asarray(coefficients, np.float64) - space.spread.mean) / space.spread.std


def test_an_inversion_stays_near_the_point_that_it_starts_from(pipe: W2WPipeline, picture: np.ndarray) -> None:
    space = pipe.space
    row = space.row("person-0001")
    for start in ("person-0001", row, row.coefficients, pipe.resolve("person-0001")):
        found = pipe.invert(picture, start=start, num_steps=1, learning_rate=1e-6).point
        np.testing.assert_allclose(z(space, found.coefficients), z(space, row.coefficients), atol=1e-4)
        assert found.history["start"]
    assert pipe.invert(picture, start="person-0001", num_steps=1).point.history["start"] == {"row": "person-0001"}
    default, mean = (pipe.invert(picture, num_steps=2, **start) for start in ({}, {"start": "mean"}))
    np.testing.assert_array_equal(default.point.coefficients, mean.point.coefficients)
    assert "start" not in default.point.history


def test_an_inversion_starts_from_the_encoder_s_guess(drawing: W2WPipeline, picture: np.ndarray) -> None:
    space = drawing.space
    space.encoder = random_encoder(space, size=(64, 64), factor=4)
    pictures = [picture, picture[::-1].copy()]
    guess = drawing.encode(pictures)
    found = drawing.invert(pictures, start="encoded", num_steps=1, learning_rate=1e-6).point
    np.testing.assert_allclose(z(space, found.coefficients), z(space, guess.coefficients), atol=1e-3)
    assert found.history["start"] == dict(guess.history)


def test_several_people_have_one_start_each_or_one_for_all(pipe: W2WPipeline, picture: np.ndarray) -> None:
    space, people = pipe.space, [[picture], [picture]]
    options: dict[str, Any] = {"num_steps": 1, "learning_rate": 1e-6}
    for start, expected in (
        (["person-0001", "mean"], [space.row("person-0001"), space.mean_point()]),
        ("person-0002", [space.row("person-0002")] * 2),
        (
            np.stack([space.row(f"person-000{i}").coefficients for i in (3, 4)]),
            [space.row("person-0003"), space.row("person-0004")],
        ),
    ):
        found = pipe.invert(people, start=start, **options)
        for one, point in zip(found, expected, strict=True):
            np.testing.assert_allclose(z(space, one.point.coefficients), z(space, point.coefficients), atol=1e-3)
    for wrong in (["mean"] * 3, []):
        with pytest.raises(InvalidInputError, match="start"):
            pipe.invert(people, start=wrong, **options)


def test_fewer_components_start_from_the_first_of_the_start_and_restarts_near_it(
    pipe: W2WPipeline, picture: np.ndarray
) -> None:
    space = pipe.space
    row = space.row("person-0001").coefficients
    found = pipe.invert(picture, start="person-0001", k=3, num_steps=1, learning_rate=1e-6).point
    np.testing.assert_allclose(found.coefficients, row[:3], rtol=1e-3, atol=1e-4)
    padded = pipe.invert(picture, start=row[:3], num_steps=1, learning_rate=1e-6).point
    np.testing.assert_allclose(padded.coefficients[:3], row[:3], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(padded.coefficients[3:], 0, atol=1e-4)
    again = pipe.invert(picture, start="person-0001", restarts=3, num_steps=1, learning_rate=1e-6).point
    apart = np.abs(z(space, again.coefficients) - z(space, row)).max()
    assert apart < 1e-3 if again.history["restart"] == 0 else 0.1 < apart < 3


@pytest.mark.parametrize(
    ("start", "kind"),
    [("nobody", UnknownNameError), (None, InvalidInputError), (3, InvalidInputError), ("encoded", InvalidInputError)],
)
def test_a_start_that_is_no_identity_is_one_line(
    drawing: W2WPipeline, picture: np.ndarray, start: Any, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as told:
        drawing.invert(picture, start=start, num_steps=1)
    assert "\n" not in str(told.value)


def test_a_start_of_another_space_is_refused(pipe: W2WPipeline, picture: np.ndarray) -> None:
    with pytest.raises(LayoutMismatchError):
        pipe.invert(picture, start=Point(np.zeros(3), "0" * 64), num_steps=1)


def test_paths_of_pictures_and_masks_are_what_they_hold(pipe: W2WPipeline, picture: np.ndarray, tmp_path: Path) -> None:
    shown, mask = tmp_path / "picture.png", tmp_path / "mask.png"
    to_picture(picture).save(shown)
    half = np.zeros((64, 64), np.uint8)
    half[:32] = 255
    Image.fromarray(half).save(mask)
    expected = pipe.invert(Image.open(shown), mask=half, num_steps=2).point.coefficients
    for form, masked in ((shown, mask), (str(shown), str(mask)), ([shown], [mask])):
        found = pipe.invert(form, mask=masked, num_steps=2).point.coefficients
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(MissingPathError):
        pipe.invert(tmp_path / "gone.png", num_steps=1)


# ------------------------------------------------------------------ the command
def w2w(*words: Any) -> Any:
    return CliRunner().invoke(main, list(map(str, words)))


@pytest.mark.slow
def test_the_command_stores_an_encoder_where_it_is_asked_to(
    tiny_space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: np.ndarray
) -> None:
    monkeypatch.setattr(pairs, "CHUNK", 8)
    monkeypatch.setattr(evidence, "MOST", 4)
    space = shutil.copytree(tiny_space, tmp_path / "space")
    small = ["--pictures", 12, "--steps", 3, "--batch-size", 4, "--width", 2, "--prompt", "x"]
    small += ["--num-inference-steps", 1, "--guidance-scale", 1]
    file, copy = tmp_path / "e.safetensors", tmp_path / "copy"
    for where in (["--out", file], ["--out", copy]):
        done = w2w("fit-encoder", space, *small, *where, "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["evidence"]["people"] == 4
    done = w2w("fit-encoder", space, *small, "--store")
    assert done.exit_code == 0, done.output
    assert "w2w invert" in done.output
    assert w2w("fit-encoder", space, *small, "--store").exit_code == 2  # there is one already
    assert not list(tmp_path.glob(".*"))
    for folder in (space, copy):
        assert w2w("verify", folder).exit_code == 0
        assert same(WeightSpace.open(folder).encoder, Encoder.load(file))
    assert (copy / "unet").is_dir()
    to_picture(picture).save(tmp_path / "p.png")
    words = [tmp_path / "p.png", "--steps", 1, "--start", "encoded", "--out", tmp_path / "points"]
    assert w2w("invert", tiny_space, *words).exit_code == 2  # which has no encoder
    done = w2w("invert", tiny_space, *words, "--encoder", file)
    assert done.exit_code == 0, done.output


def test_the_command_says_at_once_that_it_lacks_a_place_for_the_result(tiny_space: Path, tmp_path: Path) -> None:
    assert w2w("fit-encoder", tiny_space).exit_code == 2
    assert w2w("fit-encoder", tiny_space, "--store", "--out", tmp_path / "e.safetensors").exit_code == 2
    (tmp_path / "e.safetensors").touch()
    done = w2w("fit-encoder", tiny_space, "--out", tmp_path / "e.safetensors")
    assert done.exit_code == 2
    assert "--force" in done.output


def test_the_learning_rate_rises_in_a_tenth_of_the_steps_and_falls_to_zero() -> None:
    rates = [training.schedule(step / 100) for step in range(101)]
    assert rates[10] == max(rates) == pytest.approx(1)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-9)
