"""Benchmark of DreamBooth-LoRA training: identities per hour, alone and in batches, beside PEFT.

    python scripts/bench_training.py --save build/bench-training.json       # one GPU, SD1.5-shaped, bfloat16
    python scripts/bench_training.py --save build/bench-training.json --minutes 8.5     # and again to go on
    python scripts/bench_training.py --only peft-eager,captured-1,compiled+captured-8,curves-captured-8
    python scripts/bench_training.py --devices 2 --only captured-8,2x-captured-8         # two GPUs
    python scripts/bench_training.py --device cpu --size tiny --rounds 1 --steps 2       # does it run?

Prints one JSON object, and a line per peer as it is measured. The UNet has random weights and the shape of Stable
Diffusion 1.5; the recipe is the paper's: rank 1, alpha 27, to_q and to_v, 800 steps, each with one picture and one
class picture per identity, AdamW and clipped gradients. Encoding pictures and drawing class pictures is left out.

Peers run one after another in one process, each after `torch._dynamo.reset()` and with an empty allocator cache. All
train from the same initialization on the same pictures, noise and timesteps:

- `peft-eager`, `peft-compiled`: diffusers' `train_dreambooth_lora` loop, one identity at a time, with its latents,
  text and noise on the device beforehand; adapters in the model's dtype, fused AdamW, `clip_grad_norm_`.
- `peft-mixed-N`: the same loop with N of PEFT's adapters in one batch, chosen per sample by its `adapter_names`.
- `ENGINE-N`: `w2w_hub.training.Trainer` with N identities at once, its draws of noise included. `ENGINE-N-plain`
  computes the frozen projections of the prompts in each step, as the eager engine does.
- `DEVICESx-ENGINE-N`: the same in one process per device at once; its time is that of the slowest.
- `curves-ENGINE-N`: the losses of N identities trained together beside those of each trained alone, eager, over
  `--curve-steps` steps: the largest and mean relative difference, of single steps and of means over 20.

A peer takes `--warm-up` steps (compilation and capture included, timed as "first step"), then `--rounds` rounds of
`--steps` steps; its time is that of the best round, since whatever else a machine does only adds to it. After
`--minutes-per-peer`, no further round is begun. The
validation loss is the mean over fixed noise and timesteps of the first identity's pictures after all steps.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import multiprocessing
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from figures import save_figures
from sizes import SD15, TINY

from w2w_hub import ParameterLayout
from w2w_hub.models.injection import inject_hooks
from w2w_hub.training import TrainingRecipe, kaiming_start
from w2w_hub.training.data import Batch, Draws, Prompts, TrainingData
from w2w_hub.training.engines import Engine
from w2w_hub.training.objective import DiffusionObjective, sample_losses
from w2w_hub.training.trainer import Trainer

PEERS = (  # in the order of what a short run should measure
    "peft-eager", "captured-1", "compiled+captured-8", "compiled+captured-16", "curves-captured-8", "captured-8",
    "eager-8", "peft-mixed-16", "peft-mixed-32", "compiled+captured-32", "compiled+captured-8-plain", "peft-compiled",
    "compiled-8", "compiled-16", "curves-compiled+captured-8", "captured-16", "compiled+captured-1", "eager-1",
)  # fmt: skip
NAMES = re.compile(
    r"peft-(?P<peft>eager|compiled|mixed-(?P<mixed>\d+))"
    r"|((?P<devices>\d+)x-|(?P<curves>curves-))?(?P<engine>eager|compiled|captured|compiled\+captured)-(?P<people>\d+)"
    r"(?P<plain>-plain)?"
)
SMOOTHED = 20  # steps
NO_SETTINGS = ("only", "json", "save", "minutes", "minutes_per_peer", "devices")
PICTURES, CLASS_PICTURES, VALIDATION = 4, 16, 32


class Bench:
    """The model, the pictures of many identities, and the clock."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.device = options, torch.device(options.device)
        self.dtype = getattr(torch, options.dtype)
        torch.manual_seed(0)
        with self.device:
            unet = UNet2DConditionModel(**(SD15 if options.size == "sd15" else TINY))
        self.unet = unet.to(self.device, self.dtype).eval().requires_grad_(False)
        self.recipe = TrainingRecipe(learning_rate=options.learning_rate)
        self.layout = ParameterLayout.from_model(self.unet, rank=self.recipe.rank, scale=self.recipe.scale)
        self.start = kaiming_start(self.layout, 0)
        self.objective = DiffusionObjective(DDPMScheduler(beta_schedule="scaled_linear"))
        self.steps = options.warm_up + options.rounds * options.steps

    def data(self, people: int) -> TrainingData:
        """Return random pictures; those of an identity do not depend on how many there are."""
        config = self.unet.config
        shape = (config.in_channels, config.sample_size, config.sample_size)

        def random(seed: int, *shape: int) -> torch.Tensor:
            values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
            return values.to(self.device, self.dtype)

        return TrainingData(
            tuple(random(100 + i, PICTURES, *shape) for i in range(people)),
            (torch.zeros((PICTURES, 1), dtype=torch.long, device=self.device),) * people,
            Prompts(random(1, 2, 77, config.cross_attention_dim)), random(2, CLASS_PICTURES, *shape), 1,
        )  # fmt: skip

    # ------------------------------------------------------------ the peers
    def trainer(self, name: str, data: TrainingData, *, plain: bool = False) -> Trainer:
        engine = Engine(name)
        engine.shares_text = engine.shares_text and not plain
        return Trainer(self.unet, self.layout, self.objective, data, self.start, self.recipe, engine=engine)

    def ours(self, name: str, people: int, plain: bool) -> tuple[Callable[[int], object], Callable[[], float]]:
        found = self.trainer(name, self.data(people), plain=plain)
        return lambda _: found.advance(), lambda: self.validation(self.unet, found.weights[:1])

    def started(self, unet: torch.nn.Module, adapter: str) -> list[torch.nn.Parameter]:
        """Return the parameters of one of PEFT's adapters, which start as ours do."""
        parameters = []
        for target, pair in self.layout.unflatten(self.start.numpy()).factors.items():
            module = unet.get_submodule(target.module)
            for name, values in (("lora_A", pair.A), ("lora_B", pair.B)):
                weight = getattr(module, name)[adapter].weight
                weight.data.copy_(torch.from_numpy(np.array(values)))
                parameters.append(weight.requires_grad_(True))
        return parameters

    def mixed(self, people: int) -> tuple[Callable[[int], object], Callable[[], float]]:
        from peft import LoraConfig, get_peft_model

        unet, recipe = copy.deepcopy(self.unet), self.recipe
        config = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=list(recipe.targets))
        names = [f"person{i}" for i in range(people)]
        model = get_peft_model(unet, config, adapter_name=names[0])
        for name in names[1:]:
            model.add_adapter(name, config)
        model.to(self.device, self.dtype).eval()  # in training mode PEFT refuses adapter_names; there is no dropout
        each = [self.started(unet, name) for name in names]
        optimizer = torch.optim.AdamW(
            [weight for parameters in each for weight in parameters], lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay, fused=self.device.type == "cuda",
        )  # fmt: skip
        data = self.data(people)
        draws = Draws(data, self.objective.steps, recipe.steps, recipe.batch_size, recipe.seed)
        batches = [draws.batch(step) for step in range(self.steps)]
        text = data.prompts.of(batches[0].prompts)[0]
        samples = names * 2  # pictures, then class pictures

        def denoiser(*args: Any, **more: Any) -> Any:
            return model(*args, adapter_names=samples, **more)

        def step(number: int) -> None:
            losses = self.losses(denoiser, batches[number], text).view(2, people).sum(1)
            (losses[0] + recipe.prior_weight * losses[1]).backward()
            for parameters in each:
                torch.nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm or 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        def validate() -> float:
            model.set_adapter(names[0])
            return self.validation(model, None)

        return step, validate

    def peft(self, compiled: bool) -> tuple[Callable[[int], object], Callable[[], float]]:
        from peft import LoraConfig

        unet, recipe = copy.deepcopy(self.unet), self.recipe
        unet.add_adapter(LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=list(recipe.targets)))
        parameters = self.started(unet, "default")
        optimizer = torch.optim.AdamW(
            parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=self.device.type == "cuda"
        )
        model = torch.compile(unet) if compiled else unet
        data = self.data(1)
        draws = Draws(data, self.objective.steps, recipe.steps, recipe.batch_size, recipe.seed)
        batches = [draws.batch(step) for step in range(self.steps)]
        text = data.prompts.of(batches[0].prompts)[0]  # the same in each step

        def step(number: int) -> None:
            losses = self.losses(model, batches[number], text)
            (losses[0] + recipe.prior_weight * losses[1]).backward()
            torch.nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm or 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step, lambda: self.validation(unet, None)

    def losses(self, model: Any, batch: Batch, text: torch.Tensor) -> torch.Tensor:
        return sample_losses(model, self.objective, batch.clean, batch.noise, batch.t, text, {})

    @torch.no_grad()
    def validation(self, unet: torch.nn.Module, row: torch.Tensor | None) -> float:
        """Return the first identity's loss on fixed noise, with a row injected or the adapter that `unet` has."""
        data = self.data(1)
        batch = Draws(data, self.objective.steps, 1, VALIDATION, seed=1).batch(0)
        part = slice(0, VALIDATION)  # its own pictures, without the class pictures behind them
        batch = Batch(batch.clean[part], batch.noise[part], batch.t[part], batch.prompts[part])
        text = data.prompts.of(batch.prompts)[0]
        if row is None:
            return float(self.losses(unet, batch, text).mean())
        with inject_hooks(unet, self.layout, row):
            return float(self.losses(unet, batch, text).mean())

    # ------------------------------------------------------------ the clock
    def sync(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def measure(self, name: str, ready: Callable[[], object] = lambda: None) -> dict[str, Any]:
        """Return the figures of one peer; `ready` is called before the rounds."""
        parts = parts_of(name)
        people = int(parts["people"] or parts["mixed"] or 1)
        if parts["curves"]:
            return self.curves(str(parts["engine"]), people)
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        if parts["mixed"]:
            step, validate = self.mixed(people)
        elif parts["peft"]:
            step, validate = self.peft(parts["peft"] == "compiled")
        else:
            step, validate = self.ours(str(parts["engine"]), people, parts["plain"] is not None)
        self.sync()
        began = time.perf_counter()
        step(0)
        self.sync()
        first = time.perf_counter() - began
        for number in range(1, self.options.warm_up):
            step(number)
        self.sync()
        rounds: list[float] = []
        ready()
        for round_ in range(self.options.rounds):
            if rounds and time.perf_counter() - started > self.options.minutes_per_peer * 60:
                break
            began = time.perf_counter()
            for number in range(self.options.steps):
                step(self.options.warm_up + round_ * self.options.steps + number)
            self.sync()
            rounds.append((time.perf_counter() - began) / self.options.steps)
        peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None
        return {
            "identities at once": people, "ms per step": round(min(rounds) * 1e3, 2),
            "ms per step, slowest round": round(max(rounds) * 1e3, 2), "first step s": round(first, 2),
            "identities per hour": round(3600 * people / (self.recipe.steps * min(rounds)), 2),
            "peak GiB": None if peak is None else round(peak, 2), "validation loss": validate(),
        }  # fmt: skip

    def curves(self, engine: str, people: int) -> dict[str, Any]:
        """Return how far the losses of identities trained together are from those of each trained alone."""
        data, steps = self.data(people), self.options.curve_steps

        def losses(found: Trainer) -> torch.Tensor:
            return torch.stack([found.advance().clone() for _ in range(steps)]).cpu()  # (steps, identities)

        together = losses(self.trainer(engine, data))
        alone = torch.cat([losses(self.trainer("eager", data.part([i]))) for i in range(people)], 1)
        width = min(SMOOTHED, steps)
        smooth = [curve.unfold(0, width, 1).mean(-1) for curve in (together, alone)]
        single, means = ((a - b).abs() / b for a, b in ((together, alone), smooth))
        return {
            "identities at once": people, "steps": steps, "dtype": str(self.dtype),
            "largest relative difference of a step's loss": rounded(single.max()),
            "mean relative difference of a step's loss": rounded(single.mean()),
            f"largest relative difference of means over {width} steps": rounded(means.max()),
        }  # fmt: skip


def parts_of(name: str) -> dict[str, str | None]:
    """Return the parts of a peer's name; an empty mapping if there is no such peer."""
    found = NAMES.fullmatch(name)
    return found.groupdict() if found else {}


def rounded(value: torch.Tensor) -> float:
    return float(f"{float(value):.3g}")


def on_several(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of the same work in one process per device at once."""
    count = int(parts_of(name)["devices"] or 1)
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(count), context.Queue()
    work = [
        context.Process(target=_on_one, args=(name.partition("x-")[2], options, index, barrier, results), daemon=True)
        for index in range(count)
    ]
    for process in work:
        process.start()
    found = [results.get(timeout=3600) for _ in work]
    for process in work:
        process.join()
    errors = [each["error"] for each in found if "error" in each]
    if errors:
        raise RuntimeError(errors[0])
    slowest = max(found, key=lambda each: each["ms per step"])
    return slowest | {
        "devices": count, "identities at once": count * slowest["identities at once"],
        "identities per hour": round(count * slowest["identities per hour"], 2),
    }  # fmt: skip


def _on_one(name: str, options: argparse.Namespace, index: int, barrier: Any, results: Any) -> None:
    warnings.filterwarnings("ignore")
    try:
        torch.backends.cuda.matmul.allow_tf32 = True
        if options.device.startswith("cuda"):
            options.device = f"cuda:{index}"
            torch.cuda.set_device(index)
        results.put(Bench(options).measure(name, ready=lambda: barrier.wait(1800)))
    except Exception as error:
        barrier.abort()
        results.put({"error": f"{type(error).__name__}: {error}"})


def options_of() -> argparse.Namespace:
    """Return the options, with defaults that fit the device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", help="dtype of the model (bfloat16 on a GPU, float32 on a CPU)")
    parser.add_argument("--size", choices=["sd15", "tiny"], default="sd15")
    parser.add_argument("--steps", type=int, default=10, help="steps per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=5, help="steps before the rounds, at least 2")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--curve-steps", type=int, default=100)
    parser.add_argument("--devices", type=int, default=1, help="GPUs: adds peers that use two and more of them")
    parser.add_argument("--minutes-per-peer", type=float, default=3.0)
    parser.add_argument("--only", help="peers, separated by commas")
    parser.add_argument("--minutes", type=float, help="start no further peer after so many minutes")
    parser.add_argument("--save", type=Path, help="keep each peer's figures in this file, and go on from it")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    on_gpu = options.device.startswith("cuda")
    options.dtype = options.dtype or ("bfloat16" if on_gpu else "float32")
    every = [name for name in PEERS if on_gpu or "captured" not in name]
    every += [f"{count}x-captured-8" for count in (2, 4) if on_gpu and count <= options.devices]
    options.only = options.only.split(",") if options.only else every
    for name in options.only:
        if not parts_of(name):
            parser.error(f"unknown peer {name}; choose from {', '.join(PEERS)}, ENGINE-N or DEVICESx-ENGINE-N")
    return options


def compare(peers: dict[str, dict[str, Any]]) -> None:
    """Add each peer's ratios to PEFT, eager, one identity at a time."""
    reference = peers.get("peft-eager", {})
    for found in peers.values():
        if "ms per step" in found and "ms per step" in reference:
            ratio = found["identities per hour"] / reference["identities per hour"]
            found["of PEFT's identities per hour"] = round(ratio, 3)
            found["validation loss / PEFT's"] = round(found["validation loss"] / reference["validation loss"], 5)


def figures_of(peers: dict[str, dict[str, Any]]) -> list[tuple[str, float, str]]:
    """The figures that `bench_all.py` compares: time per identity as a ratio to PEFT's, peak memory."""
    found = []
    for name, peer in peers.items():
        if "of PEFT's identities per hour" in peer and name != "peft-eager":
            found.append((f"training, {name}", 1 / peer["of PEFT's identities per hour"], "of PEFT's time"))
        if peer.get("peak GiB"):
            found.append((f"training, {name}, peak memory", peer["peak GiB"], "GiB"))
    return found


def main() -> None:
    """Measure the peers that were asked for and that the saved file lacks, and print."""
    options = options_of()
    warnings.filterwarnings("ignore")
    began = time.monotonic()
    torch.backends.cuda.matmul.allow_tf32 = True
    bench = Bench(options)
    on_gpu = bench.device.type == "cuda"
    report: dict[str, Any] = {
        "machine": torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "setting": {
            name: value for name, value in vars(options).items() if name not in NO_SETTINGS
        },
        "recipe": bench.recipe.to_json(), "numbers": bench.layout.size,
        "validation loss before": bench.validation(bench.unet, bench.start.to(bench.device)[None]), "peers": {},
    }  # fmt: skip
    if options.save and options.save.exists():
        before = json.loads(options.save.read_text(encoding="utf-8"))
        same = all(before.get(name) == report[name] for name in ("machine", "torch", "setting", "recipe"))
        report["peers"] = before["peers"] if same else {}
    peers = report["peers"]
    for name in options.only:
        if name in peers or (options.minutes is not None and time.monotonic() - began > options.minutes * 60):
            continue
        try:
            peers[name] = on_several(name, options) if parts_of(name)["devices"] else bench.measure(name)
        except Exception as error:
            traceback.print_exc()
            peers[name] = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
        torch._dynamo.reset()
        gc.collect()
        if on_gpu:
            torch.cuda.empty_cache()
        compare(peers)
        print(f"{time.monotonic() - began:.0f} s, {name}: {json.dumps(peers[name])}", file=sys.stderr, flush=True)
        if options.save:
            options.save.parent.mkdir(parents=True, exist_ok=True)
            options.save.write_text(json.dumps(report, indent=1), encoding="utf-8")
    report["not run"] = [name for name in options.only if name not in peers]
    print(json.dumps(report, indent=1))
    save_figures(options.json, figures_of(peers))


if __name__ == "__main__":
    main()
