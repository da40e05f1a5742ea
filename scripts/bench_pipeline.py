"""Benchmarks of injection: a denoising step, a switch of identity, a batch of people and an inversion, beside peers.

    python scripts/bench_pipeline.py                                   # one GPU, SD1.5-shaped, bfloat16, k 1,000
    python scripts/bench_pipeline.py --compile --only step,batch       # every peer under torch.compile
    python scripts/bench_pipeline.py --k 10000 --only inversion        # the paper's inversion
    python scripts/bench_pipeline.py --device cpu --size avatars       # the shipped base model and space
    python scripts/bench_pipeline.py --device cpu --size sd15 --only switch
    python scripts/bench_pipeline.py --device cpu --size tiny --rounds 1 --steps 4    # does it run?

Prints one JSON object. All peers of a section run in turns in one process and one mode; a figure is the least of
its rounds, since whatever else a machine does only adds to it (`timeit` says why). Weights are random, for they cost
the same. `upstream` is its forward rule, written anew from its description: every target layer projects the
coefficients through its own slice of the basis in every forward pass, and another identity is a new network around a
base model loaded again. There are no files of its in here.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from figures import save_figures
from sizes import SD15, TINY
from torch import nn

from w2w_hub import ParameterLayout, WeightSpace, write_adapter
from w2w_hub.demo.assets import FOLDER as ASSETS
from w2w_hub.dialects.diffusers import WEIGHTS
from w2w_hub.models.denoising import identity_losses
from w2w_hub.models.injection import inject, inject_hooks, injection
from w2w_hub.models.inversion import WARM_UP, InversionSettings, Inverter, frozen
from w2w_hub.space import Coordinates, Population

SECTIONS = ("step", "switch", "batch", "inversion")


class UpstreamLayer(nn.Module):
    """A target layer by upstream's rule: the network's coefficients through this layer's slice, in every forward.

    `cell` holds the coefficients that all layers share.
    """

    def __init__(self, base: nn.Linear, space: WeightSpace, slot: Any, cell: list[torch.Tensor]):
        super().__init__()
        self.base, self.cell, self.scale = base, cell, space.layout.scale
        self.shapes = ((slot.rank, slot.inputs), (slot.outputs, slot.rank))
        for name, start, end in (("a", slot.offset, slot.b_offset), ("b", slot.b_offset, slot.end)):
            found = space.coordinates
            for kind, values in (("basis", found.basis[:, start:end]), ("mean", found.mean[start:end]),
                                 ("std", found.std[start:end])):  # fmt: skip
                tensor = torch.from_numpy(np.ascontiguousarray(values)).to(base.weight)
                self.register_buffer(f"{kind}_{name}", tensor, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        c = self.cell[0].to(x.dtype)
        a = ((c @ self.basis_a) * self.std_a + self.mean_a).view(self.shapes[0])
        b = ((c @ self.basis_b) * self.std_b + self.mean_b).view(self.shapes[1])
        return self.base(x) + self.scale * (x @ a.T) @ b.T


def upstream_network(unet: nn.Module, space: WeightSpace, coefficients: torch.Tensor) -> list[torch.Tensor]:
    """Replace a model's target layers by upstream's rule; return the cell with their coefficients."""
    cell = [coefficients.to(next(unet.parameters()).device)]
    for slot in space.layout.slots:
        parent, _, name = slot.target.module.rpartition(".")
        module = unet.get_submodule(parent)
        setattr(module, name, UpstreamLayer(module.get_submodule(name), space, slot, cell))
    return cell


def remove_upstream(unet: nn.Module, space: WeightSpace) -> None:
    """Remove upstream's layers."""
    for slot in space.layout.slots:
        parent, _, name = slot.target.module.rpartition(".")
        module = unet.get_submodule(parent)
        setattr(module, name, module.get_submodule(name).base)


def upstream_inversion(
    inverter: Inverter, cell: list[torch.Tensor], steps: int, learning_rate: float = 0.1
) -> np.ndarray:
    """The descent of :class:`Inverter`, eager, with upstream's rule in the model: same noise, same optimiser."""
    standardized = inverter.start(0).requires_grad_(True)
    optimizer = torch.optim.Adam([standardized], lr=learning_rate, weight_decay=1e-10)
    generator, losses = torch.Generator().manual_seed(0), []
    for step in range(steps):
        batch = inverter.draw(generator)
        optimizer.param_groups[0]["lr"] = learning_rate * min(1.0, 3 * (1 - step / steps))
        cell[0] = (inverter.center + standardized * inverter.spread)[0]
        loss = identity_losses(
            inverter.unet, inverter.scheduler, batch.clean, batch.noise, batch.timesteps, inverter.text, 1
        )  # fmt: skip
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.cat(losses).cpu().numpy()


# ---------------------------------------------------------------- the setting
def hollow_unet(config: dict[str, Any]) -> Any:
    """A UNet whose target layers alone have weights of their own: enough to time a switch, too little to draw."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    for name, module in unet.named_modules():
        for key, parameter in list(module.named_parameters(recurse=False)):
            target = name.endswith((".to_q", ".to_v"))
            values = torch.randn(parameter.shape) * 0.02 if target else torch.zeros(()).expand(parameter.shape)
            setattr(module, key, nn.Parameter(values, requires_grad=False))
    return unet


class Bench:
    """The model, a random space of its shape, and the clock."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.device = options, torch.device(options.device)
        self.dtype = getattr(torch, options.dtype)
        torch.manual_seed(0)
        self.unet = self.make_unet()
        self.space = self.make_space()
        self.rows = self.space.decode(self.space.population.coefficients)
        self.result: dict[str, Any] = {}

    def make_unet(self) -> Any:
        size = self.options.size
        if size == "avatars":
            unet = UNet2DConditionModel.from_pretrained(ASSETS / "base" / "unet")
        elif self.hollow:
            unet = hollow_unet(SD15)
        else:
            unet = UNet2DConditionModel(**(SD15 if size == "sd15" else TINY))
        return unet.to(self.device, self.dtype).eval().requires_grad_(False)

    def another_unet(self) -> Any:
        """A copy; of a hollow model a fresh one, since a copy would fill what is hollow."""
        return self.make_unet() if self.hollow else copy.deepcopy(self.unet)

    @property
    def hollow(self) -> bool:
        return bool(self.options.size == "sd15" and self.device.type == "cpu")

    def make_space(self) -> WeightSpace:
        layout = ParameterLayout.from_model(self.unet, rank=1, scale=27.0)
        rng, k = np.random.default_rng(0), min(self.options.k, layout.size)
        basis = rng.standard_normal((k, layout.size), np.float32) / np.float32(np.sqrt(layout.size))
        people = self.options.people
        mean = rng.standard_normal(layout.size, np.float32) * np.float32(1e-2)
        coordinates = Coordinates(layout, mean, np.full(layout.size, 1e-2, np.float32), basis, np.ones(k))
        ids, splits = tuple(f"p{i}" for i in range(people)), np.full(people, "train")
        population = Population(ids, splits, rng.standard_normal((people, k), np.float32), "train")
        return WeightSpace(coordinates, population, recipe={})

    def row(self, i: int) -> torch.Tensor:
        return torch.from_numpy(self.rows[i % len(self.rows)]).to(self.device)

    def inputs(self, batch: int) -> dict[str, Any]:
        config = self.unet.config
        side = config.sample_size
        generator = torch.Generator().manual_seed(1)
        latents = torch.randn((batch, config.in_channels, side, side), generator=generator)
        text = torch.randn((batch, 77, config.cross_attention_dim), generator=generator)
        return {
            "sample": latents.to(self.device, self.dtype), "timestep": torch.tensor(500, device=self.device),
            "encoder_hidden_states": text.to(self.device, self.dtype), "return_dict": False,
        }  # fmt: skip

    def compiled(self, unet: Any) -> Any:
        return torch.compile(unet, mode="default") if self.options.compile else unet

    def sync(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def in_turns(self, peers: dict[str, Callable[[int], Any]], repeats: int = 1) -> dict[str, float]:
        """Milliseconds of each peer's best round; the rounds are run in turns."""
        times: dict[str, list[float]] = {name: [] for name in peers}
        for round_ in range(-self.options.warm_up, self.options.rounds):
            for name, work in peers.items():
                self.sync()
                began = time.perf_counter()
                for i in range(repeats):
                    work(round_ * repeats + i)
                self.sync()
                if round_ >= 0:
                    times[name].append((time.perf_counter() - began) * 1e3 / repeats)
        return {name: round(min(values), 4) for name, values in times.items()}

    def peak(self, work: Callable[[], Any]) -> tuple[float, float | None, Any]:
        """Seconds of a piece of work, its peak memory on the device in GB, and its result.

        The second copy of weights that an earlier piece of work keeps for the next is nobody else's memory.
        """
        injection(self.unet).copies.clear()
        gc.collect()
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self.sync()
        began = time.perf_counter()
        result = work()
        self.sync()
        seconds = time.perf_counter() - began
        return seconds, round(torch.cuda.max_memory_allocated() / 1e9, 3) if on_gpu else None, result

    # ------------------------------------------------------------ sections
    @torch.no_grad()
    def step(self) -> dict[str, Any]:
        """One denoising step (two samples: classifier-free guidance) with one identity."""
        inputs, layout = self.inputs(2), self.space.layout
        ours, beside, plain = (self.compiled(self.another_unet()) for _ in range(3))
        peft, upstream = self.another_unet(), self.another_unet()
        self.add_adapter(peft, 0)
        upstream_network(upstream, self.space, torch.from_numpy(self.space.population.coefficients[0]))
        peft, upstream = self.compiled(peft), self.compiled(upstream)
        with ExitStack() as stack:
            stack.enter_context(inject(ours, layout, self.row(0)))
            stack.enter_context(inject_hooks(beside, layout, self.row(0)[None]))
            pictures = {"w2w": ours(**inputs)[0], "upstream": upstream(**inputs)[0], "peft unfused": peft(**inputs)[0]}
            base = plain(**inputs)[0]
            peers = {
                "plain": plain, "w2w": ours, "w2w unfused": beside, "peft unfused": peft, "upstream": upstream,
            }  # fmt: skip
            times = self.in_turns({name: lambda _, model=model: model(**inputs) for name, model in peers.items()})
        reference = pictures.pop("w2w")
        effect = float((reference - base).abs().max())
        differences = {name: round(float((p - reference).abs().max()) / effect, 4) for name, p in pictures.items()}
        ratios = {f"{name} / plain": round(times[name] / times["plain"], 3) for name in times if name != "plain"}
        return {"milliseconds": times, **ratios, "difference from w2w, of the identity's effect": differences}

    def add_adapter(self, unet: Any, i: int, name: str = "default") -> None:
        from peft import LoraConfig
        from peft.utils import set_peft_model_state_dict

        scale = self.space.layout.scale
        config = LoraConfig(r=1, lora_alpha=scale, target_modules=["to_q", "to_v"], init_lora_weights=False)
        unet.add_adapter(config, adapter_name=name)
        pairs = self.space.layout.unflatten(self.rows[i % len(self.rows)]).factors
        state = {}
        for target, pair in pairs.items():
            state[f"{target.module}.lora_A.weight"] = torch.from_numpy(pair.A)
            state[f"{target.module}.lora_B.weight"] = torch.from_numpy(pair.B)
        set_peft_model_state_dict(unet, state, adapter_name=name)
        unet.to(self.device, self.dtype)

    @torch.no_grad()
    def switch(self) -> dict[str, Any]:
        """Another identity in a model that has one already."""
        from peft import PeftModel

        layout, space = self.space.layout, self.space
        folder = Path(tempfile.mkdtemp(prefix="bench-pipeline-"))
        for i in range(2):
            write_adapter(layout.unflatten(self.rows[i]), folder / f"lora-{i}")
        basis = torch.from_numpy(space.coordinates.basis).to(self.device)
        mean, std = (torch.from_numpy(v).to(self.device) for v in (space.coordinates.mean, space.coordinates.std))
        points = torch.from_numpy(space.population.coefficients).to(self.device)
        ours = self.unet
        reloaded, swapped, resident = (self.another_unet() for _ in range(3))
        wrapped = PeftModel.from_pretrained(self.another_unet(), str(folder / "lora-0"))
        for unet in (reloaded, swapped):
            unet.load_lora_adapter(str(folder / "lora-0"), prefix="unet", adapter_name="one", weight_name=WEIGHTS)
        for i in range(2):
            self.add_adapter(resident, i, f"a{i}")

        def decode(i: int) -> torch.Tensor:
            return (points[i % len(points)] @ basis) * std + mean

        def peft_reload(i: int) -> None:
            wrapped.delete_adapter("default")
            wrapped.load_adapter(str(folder / f"lora-{i % 2}"), "default")
            wrapped.set_adapter("default")

        def diffusers_reload(i: int) -> None:
            reloaded.delete_adapters("one")
            reloaded.load_lora_adapter(
                str(folder / f"lora-{i % 2}"), prefix="unet", adapter_name="one", weight_name=WEIGHTS
            )

        def hotswap(i: int) -> None:
            swapped.load_lora_adapter(
                str(folder / f"lora-{i % 2}"), prefix="unet", adapter_name="one", weight_name=WEIGHTS, hotswap=True
            )

        with inject(ours, layout, self.row(0)) as use:
            rows = [decode(i) for i in range(2)]
            peers: dict[str, Callable[[int], Any]] = {
                "decode product": decode,
                "w2w, decoded": lambda i: use(rows[i % 2]),
                "w2w, decode and write": lambda i: use(decode(i)),
                "peft reload": peft_reload,
                "diffusers reload": diffusers_reload,
                "diffusers hotswap": hotswap,
                "resident set_adapter": lambda i: resident.set_adapter(f"a{i % 2}"),
            }
            times = self.in_turns(peers)
        if not self.hollow:
            ours.save_pretrained(folder / "base")

            def new_network(i: int) -> None:
                unet = UNet2DConditionModel.from_pretrained(folder / "base", torch_dtype=self.dtype).to(self.device)
                rows = space.population.coefficients
                upstream_network(unet, space, torch.from_numpy(rows[i % len(rows)]))

            times |= self.in_turns({"upstream, new network and base": new_network})
        shutil.rmtree(folder)
        best = min(times[name] for name in times if "reload" in name or "hotswap" in name)
        beyond = times["w2w, decode and write"] - times["decode product"]
        points = space.population.coefficients
        return {
            "milliseconds": times,
            "beyond the decode product": round(beyond, 4),
            "best reload / w2w": round(best / times["w2w, decode and write"], 2),
            "best reload / w2w beyond the decode product": round(best / beyond, 2),
            "numpy decode, milliseconds": self.in_turns({"decode": lambda i: space.decode(points[i % 2])}),
        }

    @torch.no_grad()
    def batch(self) -> dict[str, Any]:
        """Many identities, one image each: one batch against a loop over identities, in the same mode."""
        people, layout = self.options.people, self.space.layout
        one, many = self.inputs(2), self.inputs(2 * people)
        looped, together = self.compiled(self.another_unet()), self.compiled(self.another_unet())
        rows = torch.from_numpy(self.rows[:people]).to(self.device)
        with inject(looped, layout, rows[0]) as use, inject_hooks(together, layout, rows):
            times = self.in_turns(
                {
                    "switch": lambda i: use(rows[i % people]),
                    "step of one": lambda _: looped(**one),
                    "step of all": lambda _: together(**many),
                }
            )
        steps = self.options.sampling_steps
        loop = people * (times["switch"] + steps * times["step of one"])
        rates = {"loop": people * 1e3 / loop, "batch": 1e3 * people / (steps * times["step of all"])}
        return {
            "people": people, "milliseconds": times, "sampling steps": steps,
            "images per second, UNet only": {name: round(rate, 4) for name, rate in rates.items()},
            "batch / loop": round(rates["batch"] / rates["loop"], 3),
        }  # fmt: skip

    def inversion(self) -> dict[str, Any]:
        """Inverting one picture, all that a run needs counted, by this and by upstream's rule."""
        steps, config = self.options.steps, self.unet.config
        generator = torch.Generator().manual_seed(2)
        scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
        shape = (1, 1, config.in_channels, config.sample_size, config.sample_size)
        latents = torch.randn(shape, generator=generator).to(self.device, self.dtype)
        text = torch.randn((77, config.cross_attention_dim), generator=generator).to(self.device, self.dtype)

        def inverter(steps: int, capture: bool) -> Inverter:
            settings = InversionSettings(num_steps=steps, batch_size=1, seed=0, capture=capture)
            return Inverter(self.unet, scheduler, self.space, latents, text, settings)

        def ours(steps: int, capture: bool = False) -> np.ndarray:
            return np.array(inverter(steps, capture).run()[0].losses)

        def upstream(steps: int, keep: bool = False) -> np.ndarray:
            alike = inverter(steps, False)
            if not keep:
                del alike.basis
            cell = upstream_network(self.unet, self.space, torch.from_numpy(self.space.population.coefficients[0]))
            try:
                return upstream_inversion(alike, cell, steps)
            finally:
                remove_upstream(self.unet, self.space)

        def nobody(steps: int) -> np.ndarray:
            """The model alone, forward and back to its input: what no rule can go below without a graph."""
            alike, generator, losses = inverter(steps, False), torch.Generator().manual_seed(0), []
            with frozen(self.unet):
                for _ in range(steps):
                    batch = alike.draw(generator)
                    batch.clean.requires_grad_(True)
                    loss = identity_losses(self.unet, scheduler, batch.clean, batch.noise, batch.timesteps, text, 1)
                    loss.sum().backward()
                    losses.append(loss.detach())
            return torch.cat(losses).cpu().numpy()

        peers: dict[str, Callable[[int], np.ndarray]] = {
            "w2w, eager": ours, "upstream": upstream, "the model alone": nobody,
        }  # fmt: skip
        if self.device.type == "cuda":
            peers["w2w, graph"] = lambda steps: ours(steps, True)
        found: dict[str, Any] = {}
        curves = {}
        for work in peers.values():
            work(2 * WARM_UP)  # kernels are chosen and libraries loaded once
        for name, work in peers.items():
            seconds, memory, curves[name] = self.peak(lambda work=work: work(steps))
            found[name] = {"milliseconds a step": round(seconds * 1e3 / steps, 3), "peak GB": memory}
        reference, curve = found["upstream"], curves["upstream"]
        both = self.peak(lambda: upstream(2 * WARM_UP, keep=True))[1]
        for name, entry in found.items():
            entry["/ upstream"] = round(entry["milliseconds a step"] / reference["milliseconds a step"], 3)
            if entry["peak GB"]:
                entry["memory / upstream"] = round(entry["peak GB"] / reference["peak GB"], 3)
                entry["memory / upstream whose caller keeps the basis too"] = round(entry["peak GB"] / both, 3)
            tenth = -(-steps // 10)
            first, last = float(curves[name][:tenth].mean()), float(curves[name][-tenth:].mean())
            entry["loss, mean of the first and last tenth"] = [round(first, 5), round(last, 5)]
            worst = np.abs(curves[name] - curve).max() / curve.mean()
            entry["largest difference from upstream's loss curve, of its mean"] = round(float(worst), 6)
        return {"steps": steps, "k": self.space.k, **found}


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", choices=("sd15", "avatars", "tiny"), default="sd15")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), help="bfloat16 on a GPU, else float32")
    parser.add_argument("--k", type=int, default=1000)
    parser.add_argument("--people", type=int, default=64)
    parser.add_argument("--steps", type=int, default=400, help="of inversion")
    parser.add_argument("--sampling-steps", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="every model under torch.compile, but for inversion")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, comma-separated")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args(words)
    options.dtype = options.dtype or ("bfloat16" if options.device.startswith("cuda") else "float32")
    options.only = options.only.split(",")
    if not set(options.only) <= set(SECTIONS):
        parser.error(f"--only takes {', '.join(SECTIONS)}")
    if options.size == "sd15" and options.device == "cpu" and options.only != ["switch"]:
        parser.error("an SD1.5-shaped model is only measured on a GPU; on a CPU add --only switch")
    return options


def figures_of(report: dict[str, Any]) -> list[tuple[str, float, str]]:
    """The ratios to a peer of the same section, less being better."""
    found: list[tuple[str, float, str]] = []
    if isinstance(step := report.get("step"), dict):
        found += [(f"step, {name}", step[f"{name} / plain"], "of plain") for name in ("w2w", "w2w unfused")]
    if isinstance(switch := report.get("switch"), dict):
        times = switch["milliseconds"]
        for name in ("w2w, decoded", "w2w, decode and write"):
            found.append((f"switch, {name}", times[name] / times["diffusers hotswap"], "of hotswap"))
    if isinstance(batch := report.get("batch"), dict):
        found.append((f"batch of {batch['people']}", 1 / batch["batch / loop"], "of a loop"))
    if isinstance(inversion := report.get("inversion"), dict):
        alone = inversion["the model alone"]["milliseconds a step"]
        for name in (n for n in inversion if n.startswith("w2w")):
            found.append((f"inversion, {name}", inversion[name]["milliseconds a step"] / alone, "of the model alone"))
    return found


def main() -> None:
    """Measure the sections that were asked for, and print."""
    options = options_of()
    warnings.filterwarnings("ignore")
    bench = Bench(options)
    on_gpu = bench.device.type == "cuda"
    report: dict[str, Any] = {
        "machine": torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "setting": {name: value for name, value in vars(options).items() if name not in ("only", "json")},
        "target weights": sum(s.inputs * s.outputs for s in bench.space.layout.slots),
        "numbers": bench.space.layout.size,
    }
    for section in options.only:
        try:
            report[section] = getattr(bench, section)()
        except torch.OutOfMemoryError as error:
            report[section] = f"out of memory: {error}"
        gc.collect()
        print(f"{section}: {json.dumps(report[section])}", file=sys.stderr, flush=True)
    print(json.dumps(report, indent=1))
    save_figures(options.json, figures_of(report))


if __name__ == "__main__":
    main()
