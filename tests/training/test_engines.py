"""Engines: each gives the eager result, compiles once, and is chosen or refused by what there is."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.models.activations import GEGLU

from w2w_hub import ParameterLayout, WeightDataset
from w2w_hub.common.progress import logged_progress
from w2w_hub.errors import InvalidInputError
from w2w_hub.training import TrainingRecipe, engines, kaiming_start, train_identity, train_many
from w2w_hub.training.data import Prompts, TrainingData
from w2w_hub.training.engines import ENGINES, Capture, Engine, engine_for
from w2w_hub.training.objective import objective_of
from w2w_hub.training.runs import COMPILING
from w2w_hub.training.trainer import Trainer

from ..small_denoiser import LAYOUT, Denoiser, pictures, prompt
from ..tiny_world import TinyWorld
from .test_runs import QUICK, portrait
from .test_trainer import data, flow_transformer, layout, random, run, scheduler, unet  # noqa: F401, two fixtures


def trained(model: Any, layout: ParameterLayout, people: TrainingData, engine: Engine, sampler: Any = None) -> Any:  # noqa: F811
    recipe = TrainingRecipe(steps=4, learning_rate=1e-3, batch_size=2)
    found = Trainer(
        model, layout, objective_of(sampler or scheduler()), people, kaiming_start(layout, 0), recipe, engine=engine
    )
    return found, run(found)


def sharing() -> Engine:
    engine = Engine("eager")
    engine.shares_text = True
    return engine


# ---------------------------------------------------------------- projections of prompts
@pytest.mark.parametrize("targets", [("to_q", "to_v"), ("to_k", "to_v"), ("to_q",)], ids=str)
def test_projections_of_prompts_computed_once_give_the_same_rows(unet: Any, targets: tuple[str, ...]) -> None:  # noqa: F811
    adapted = ParameterLayout.from_model(unet, targets, 1, 27.0)
    people = data([1, 1, 1], classes=2)
    _, plain = trained(unet, adapted, people, Engine("eager"))
    found, rows = trained(unet, adapted, people, sharing())
    kept = {name.rpartition(".")[2] for name, m in unet.named_modules() if m in found._text.layers}
    assert kept == {"to_k", "to_v"}  # of cross-attention; what is adapted is added to the frozen part
    moved = (plain - kaiming_start(adapted, 0)).abs().max()
    assert (rows - plain).abs().max() < 1e-3 * moved
    assert not any("forward" in vars(module) for module in unet.modules())


def test_prompts_that_no_two_samples_share_are_not_kept(unet: Any, layout: ParameterLayout) -> None:  # noqa: F811
    found, _ = trained(unet, layout, data([4]), sharing())  # four captions, two samples a step
    assert found._text is None


def test_projections_of_a_transformers_prompts_are_kept_too() -> None:
    model = flow_transformer()
    adapted = ParameterLayout.from_model(model, rank=2, scale=1.0, component="transformer")
    one = data([1, 1])
    added = {"pooled_projections": random(len(one.prompts.text), 8, seed=8)}
    people = TrainingData(one.latents, one.captions, Prompts(one.prompts.text, added))
    _, plain = trained(model, adapted, people, Engine("eager"), FlowMatchEulerDiscreteScheduler())
    found, rows = trained(model, adapted, people, sharing(), FlowMatchEulerDiscreteScheduler())
    assert [name for name, m in model.named_modules() if m in found._text.layers] == ["context_embedder"]
    torch.testing.assert_close(rows, plain, rtol=1e-3, atol=1e-6)


# ---------------------------------------------------------------- gates of feed-forward blocks
@pytest.mark.parametrize(
    ("targets", "split"), [(("to_q", "to_v"), True), (("to_q", "net.0.proj"), False)], ids=["frozen", "adapted"]
)
def test_gates_split_in_two_products_give_the_same_rows(unet: Any, targets: tuple[str, ...], split: bool) -> None:  # noqa: F811
    adapted = ParameterLayout.from_model(unet, targets, 1, 27.0)
    engine = Engine("eager")
    engine.splits_gates = True
    _, plain = trained(unet, adapted, data([1, 1]), Engine("eager"))
    gates = [module for module in unet.modules() if isinstance(module, GEGLU)]
    with counted_calls(gates[0].proj) as calls:
        _, rows = trained(unet, adapted, data([1, 1]), engine)
    assert bool(calls) != split  # the whole projection runs only where it is adapted
    moved = (plain - kaiming_start(adapted, 0)).abs().max()
    assert (rows - plain).abs().max() < 1e-3 * moved
    assert not any("forward" in vars(module) for module in unet.modules())


@contextmanager
def counted_calls(module: torch.nn.Module) -> Iterator[list[int]]:
    calls: list[int] = []
    handle = module.register_forward_hook(lambda *_: calls.append(1))
    yield calls
    handle.remove()


# ---------------------------------------------------------------- compilation
@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The sizes of the first input of each graph that is compiled, by a backend that runs it as it is."""
    found: list[int] = []

    def backend(graph: Any, inputs: Any) -> Callable[..., Any]:
        found.append(len(graph.graph.nodes))
        return graph.forward  # type: ignore[no-any-return]

    torch._dynamo.reset()
    monkeypatch.setattr(engines, "BACKEND", backend)
    yield found
    torch._dynamo.reset()


@pytest.fixture
def five(tmp_path: Path) -> Path:
    """Folders of five people with a picture each."""
    for i in range(5):
        portrait(tmp_path / "folders" / f"p{i}" / "0.png", seed=i)
    return tmp_path / "folders"


@pytest.mark.slow
def test_many_people_compile_one_graph(tiny_world: TinyWorld, five: Path, tmp_path: Path, graphs: list[int]) -> None:
    train_many(five, tiny_world.base, tmp_path / "out", recipe=QUICK, at_once=2, engine="compiled")
    assert len(graphs) == 1


def test_many_people_share_one_compiled_model_whose_batches_have_one_size(
    tiny_world: TinyWorld, five: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[set[int]] = []

    def compiled(model: torch.nn.Module, **options: Any) -> Any:
        seen: set[int] = set()
        sizes.append(seen)
        return lambda noisy, *args, **kwargs: (seen.add(len(noisy)), model(noisy, *args, **kwargs))[1]

    monkeypatch.setattr(torch, "compile", compiled)
    lines: list[str] = []
    with logged_progress(lines.append):
        found = train_many(five, tiny_world.base, tmp_path / "out", recipe=QUICK, at_once=2, engine="compiled")
    assert sizes == [{2}]
    assert lines.count(COMPILING) == 1
    assert found.batch_sizes == [2, 2, 1]
    [record] = WeightDataset.open(tmp_path / "out").manifest.training
    assert record["engine"] == "compiled"
    assert record["batches"] == [
        {"together": 2, "ids": ["p0", "p1"]}, {"together": 2, "ids": ["p2", "p3"]}, {"together": 2, "ids": ["p4"]}
    ]  # fmt: skip
    alone = train_identity(five / "p4", tiny_world.base, recipe=QUICK)
    expected = found.dataset.layout.flatten(alone)
    assert np.abs(found.dataset["p4"] - expected).max() < 0.02 * np.abs(expected).max()


def test_a_compilation_that_fails_is_one_line_that_names_another_engine() -> None:
    def backend(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler here\nand more")

    with pytest.raises(InvalidInputError, match="eager") as caught:
        small(Engine("compiled", backend))
    assert "\n" not in str(caught.value)


def small(engine: Engine) -> torch.Tensor:
    """Train two people of a denoiser of one layer."""
    latents = pictures(2)
    captions = torch.zeros((latents.shape[1], 1), dtype=torch.long)
    people = TrainingData(tuple(latents), (captions, captions), Prompts(prompt()[None]))
    torch._dynamo.reset()
    model = Denoiser().requires_grad_(False)
    model.seen = _Nothing()  # a list that grows would be compiled anew in each step
    return trained(model, LAYOUT, people, engine)[1]


class _Nothing(list):  # type: ignore[type-arg]
    def append(self, _: Any) -> None:
        """Keep nothing."""


@pytest.mark.slow
def test_a_compiled_trainer_gives_the_eager_rows(unet: Any, layout: ParameterLayout) -> None:  # noqa: F811
    """Bounds: 1e-3 of the largest change for what autograd's tracing does, and for generated code."""
    people = data([2, 1], classes=2)
    torch._dynamo.reset()
    _, eager = trained(unet, layout, people, Engine("eager"))
    _, compiled = trained(unet, layout, people, Engine("compiled", "aot_eager"))
    moved = (eager - kaiming_start(layout, 0)).abs().max()
    assert (compiled - eager).abs().max() < 1e-3 * moved
    if shutil.which("g++"):
        plain = small(Engine("eager"))
        moved = (plain - kaiming_start(LAYOUT, 0)).abs().max()
        assert (small(Engine("compiled", "inductor")) - plain).abs().max() < 1e-3 * moved


# ---------------------------------------------------------------- captured steps
class Recorded:
    """A CUDA graph's stand-in: what is called while it records is called again on replay."""

    now: Recorded | None = None

    def __init__(self) -> None:
        self.work: Callable[[], None] | None = None

    def replay(self) -> None:
        assert self.work is not None
        self.work()


class Stream:
    def wait_stream(self, _: object) -> None: ...


@contextmanager
def recording(recorded: Recorded) -> Iterator[None]:
    Recorded.now = recorded
    try:
        yield
    except torch.OutOfMemoryError:
        raise RuntimeError("the capture was invalidated")  # noqa: B904, as torch does
    finally:
        Recorded.now = None


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine that captures, where there is no GPU."""
    for name, value in {"Stream": Stream, "current_stream": Stream, "stream": lambda _: nullcontext(),
                        "CUDAGraph": Recorded, "graph": recording}.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    engine = sharing()
    engine.capture = Capture  # type: ignore[method-assign]
    return engine


def test_memory_that_runs_out_in_a_capture_is_told_as_such(
    unet: Any, layout: ParameterLayout, recorder: Engine, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    def work(self: Trainer, batch: Any) -> None:
        if Recorded.now is not None:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(Trainer, "work", work)
    with pytest.raises(torch.OutOfMemoryError):
        trained(unet, layout, data([1]), recorder)


def test_a_captured_step_warms_up_without_a_trace_and_reads_each_steps_samples(
    unet: Any, layout: ParameterLayout, recorder: Engine, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    def work(self: Trainer, batch: Any) -> None:
        if Recorded.now is None:
            plain_work(self, batch)
        else:
            Recorded.now.work = lambda: plain_work(self, batch)  # recording runs nothing

    plain_work = Trainer.work
    people = data([2, 1], classes=2)
    _, eager = trained(unet, layout, people, sharing())
    monkeypatch.setattr(Trainer, "work", work)
    _, captured = trained(unet, layout, people, recorder)
    assert torch.equal(captured, eager)


def test_a_step_is_captured_and_replayed_on_the_device_of_the_data(
    unet: Any, layout: ParameterLayout, recorder: Engine, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    """torch makes streams and graphs on the current device, the first one, whatever the samples are on."""
    chosen: list[Any] = []

    @contextmanager
    def device(which: Any) -> Iterator[None]:
        chosen.append(which)
        yield
        chosen.pop()

    def noticed(kind: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: (seen.append(list(chosen)), kind())[1]

    seen: list[list[Any]] = []
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "Stream", noticed(Stream))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", noticed(Recorded))
    monkeypatch.setattr(Recorded, "replay", lambda self: seen.append(list(chosen)))
    second = torch.device("cuda", 1)
    found = Trainer(
        unet, layout, objective_of(scheduler()), data([1]), kaiming_start(layout, 0), TrainingRecipe(steps=2),
        engine=recorder,
    )  # fmt: skip
    found.device = second
    found.advance()
    assert seen == [[second]] * 3
    assert not chosen


# ---------------------------------------------------------------- which engine
@pytest.mark.parametrize(
    ("device", "at_once", "steps", "engine"),
    [
        ("cpu", 1, 800, "eager"), ("cpu", 8, 800_000, "eager"), ("cuda", 1, 800, "captured"),
        ("cuda:1", 1, 800_000, "captured"), ("cuda", 8, 800, "captured"), ("cuda:1", 8, 80_000, "compiled+captured"),
    ],
)  # fmt: skip
def test_the_engine_is_chosen_by_device_and_work(device: str, at_once: int, steps: int, engine: str) -> None:
    assert engine_for("auto", device, at_once=at_once, steps=steps) == engine
    assert engine_for("compiled", device, at_once=at_once, steps=steps) == "compiled"


def test_an_engine_that_needs_a_gpu_is_refused_without_one_and_an_unknown_one_everywhere(
    tiny_world: TinyWorld, tmp_path: Path
) -> None:
    portrait(tmp_path / "ann" / "0.png", seed=0)
    for engine in ("captured", "compiled+captured", "fast"):
        with pytest.raises(InvalidInputError, match="eager"):
            train_identity(
                tmp_path / "ann", tiny_world.base, tmp_path / "out", recipe=QUICK, device="cpu", engine=engine
            )
    assert [path.name for path in tmp_path.iterdir()] == ["ann"]
    assert set(ENGINES) == {"auto", "eager", "compiled", "captured", "compiled+captured"}
