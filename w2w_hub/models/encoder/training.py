"""Fits the network of an encoder to pairs of pictures and points."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...common.extras import optional_imports
from ...common.interrupts import held_interrupts
from ...common.progress import progress
from ...errors import CorruptFileError, MissingPathError
from ...store.atomic import write_bytes
from ...store.tensorfile import read_safetensors
from .clock import Clock
from .network import EncoderNetwork
from .pairs import Pairs

with optional_imports("diffusers"):
    import torch
    import torch.nn.functional as F

SHIFT = 2  # pixels by which a picture is moved, at most
NOISE = 0.1  # standard deviation of added noise, at most
LIGHT = 0.1  # change of brightness and contrast, at most
WARM_UP = 0.1  # fraction of the steps in which the learning rate rises
WEIGHT_DECAY = 0.02
SAVE_SECONDS = 60.0
LOSSES = 50  # points of the loss curve that is kept


class EncoderTrainer:
    """AdamW on the squared error of coefficients, in units of the population's variance.

    Every step draws from its own seed, so that a run that continues gives the result of one that was not interrupted.

    Parameters
    ----------
    pairs : Pairs
    mean, std : ndarray
        ``(k,)``: mean and standard deviation of the population's coefficients, which standardize the outputs. A
        component's weight in the loss is its variance.

    Attributes
    ----------
    step : int
        Finished steps.
    in_step : bool
        Whether an interrupt left a step half done, so that the state is of no use.
    """

    def __init__(
        self, network: EncoderNetwork, pairs: Pairs, mean: np.ndarray, std: np.ndarray, *,
        batch_size: int, learning_rate: float, seed: int, device: torch.device,
    ):  # fmt: skip
        self.network, self.device, self.seed = network.to(device).train(), device, seed
        self.batch_size, self.learning_rate = min(batch_size, len(pairs)), learning_rate
        self.pictures = torch.from_numpy(pairs.pictures)
        wide = np.divide(pairs.coefficients - mean, std, out=np.zeros(pairs.coefficients.shape), where=std > 0)
        self.targets = torch.from_numpy(wide.astype(np.float32))
        self.weights = torch.from_numpy((std**2 / np.mean(std**2)).astype(np.float32)).to(device)
        self.optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=WEIGHT_DECAY)
        self.step, self.in_step = 0, False

    def advance(self, progress: float) -> torch.Tensor:
        """Take one step; return its loss, where 1 is the error of the population's mean.

        Parameters
        ----------
        progress : float
            Fraction of the training that is done, which decides the learning rate.
        """
        chosen = np.random.default_rng([self.seed, self.step]).integers(len(self.pictures), size=self.batch_size)
        index = torch.from_numpy(chosen)
        generator = torch.Generator(self.device).manual_seed(int(chosen[0]) + self.step * 2**31 + self.seed)
        pictures = varied(self.pictures[index].to(self.device), generator)
        self.in_step = True
        self.network.train()
        error = self.network(pictures) - self.targets[index].to(self.device)
        loss = (error.square() * self.weights).mean()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * schedule(progress)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step, self.in_step = self.step + 1, False
        return loss.detach()

    # ------------------------------------------------------------ state of an unfinished run
    def state(self) -> dict[str, torch.Tensor]:
        """Return all that changes, by name."""
        found = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        for i, entry in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{i}.{name}": torch.as_tensor(value) for name, value in entry.items()}
        return found | {"step": torch.tensor(self.step)}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue from a state.

        Raises
        ------
        ValueError
            If its tensors are not those of this network and its optimizer; nothing is changed.
        """
        step = state.get("step")
        if step is None or step.shape or step.dtype != torch.int64 or step < 0:
            raise ValueError("a state without its step")
        wanted = self._shapes(begun=bool(step > 0))
        if {name: (value.shape, value.dtype) for name, value in state.items() if name != "step"} != wanted:
            raise ValueError("the state of another network")
        self.step = int(step)
        prefix = "network."
        self.network.load_state_dict({n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)})
        entries: dict[int, dict[str, Any]] = {}
        for name, value in state.items():
            if name.startswith("optimizer."):
                _, i, key = name.split(".")
                entries.setdefault(int(i), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": entries, "param_groups": groups})

    def _shapes(self, begun: bool) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """Return shape and dtype of each tensor of a state besides its step; the optimizer has none before a step."""
        found = {f"network.{name}": (value.shape, value.dtype) for name, value in self.network.state_dict().items()}
        for i, value in enumerate(self.network.parameters() if begun else ()):
            found[f"optimizer.{i}.step"] = torch.Size(), torch.float32
            found |= {f"optimizer.{i}.{name}": (value.shape, value.dtype) for name in ("exp_avg", "exp_avg_sq")}
        return found


def train(trainer: EncoderTrainer, steps: int, clock: Clock, file: Path | None) -> list[list[float]]:
    """Train to the last step, or until the time has passed; return points of the loss curve: ``[step, loss]``.

    Parameters
    ----------
    file : path, optional
        Holds the state: it is read at the start, written once a minute and on an interrupt, and removed at the end.
    """
    losses = _restore(trainer, file)
    began, saved = clock.spent, time.monotonic()
    every, recent = max(1, steps // LOSSES), list[torch.Tensor]()

    def status() -> str:
        return f"loss {losses[-1][1]:.3f}" if losses else ""

    with held_interrupts() as release:
        try:
            for step in progress(range(trainer.step, steps), "fitting the encoder", status=status):
                if clock.spent >= 1:
                    break
                recent.append(trainer.advance(max(step / steps, (clock.spent - began) / max(1 - began, 1e-9))))
                if trainer.step % every == 0 or trainer.step == steps:
                    losses.append([trainer.step, round(float(torch.stack(recent).mean()), 4)])
                    recent.clear()
                if file is not None and time.monotonic() - saved > SAVE_SECONDS:
                    _save(trainer, losses, file)
                    saved = time.monotonic()
                release()
        except KeyboardInterrupt as interrupt:
            if file is not None and not trainer.in_step:
                _save(trainer, losses, file)
                interrupt.add_note("what was drawn and trained is kept, and the same command goes on")
            raise
    if file is not None:
        file.unlink(missing_ok=True)
    return losses


def _save(trainer: EncoderTrainer, losses: list[list[float]], file: Path) -> None:
    from safetensors.torch import save

    state = trainer.state() | {"losses": torch.tensor(losses, dtype=torch.float64).reshape(-1, 2)}
    write_bytes(file, save({name: value.detach().cpu().contiguous() for name, value in state.items()}), replace=True)


def _restore(trainer: EncoderTrainer, file: Path | None) -> list[list[float]]:
    """Continue from the state in a file, if it is there and one of this network; return the loss curve until then."""
    if file is None:
        return []
    try:
        arrays, _ = read_safetensors(file)
        losses = arrays.pop("losses", None)
        if losses is None or losses.shape[1:] != (2,) or not np.isfinite(losses[:, 0]).all():
            return []
        trainer.restore({name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})
    except (MissingPathError, CorruptFileError, ValueError):
        return []
    return [[int(step), float(loss)] for step, loss in losses.tolist()]


def schedule(progress: float) -> float:
    """Return the learning rate's factor: it rises in the first tenth and falls to 0 along a cosine."""
    if progress < WARM_UP:
        return max(progress / WARM_UP, 0.01)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - WARM_UP) / (1 - WARM_UP))))


def varied(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return pictures uint8 ``(n, h, w, 3)`` as floats ``(n, 3, h, w)``, shifted, noisy and lit differently."""
    x = pictures.permute(0, 3, 1, 2).float() / 255
    n, _, height, across = x.shape
    device = x.device
    reach = min(SHIFT, height - 1, across - 1)
    padded = F.pad(x, (reach,) * 4, mode="replicate")
    down, right = torch.randint(0, 2 * reach + 1, (2,), generator=generator, device=device).tolist()
    x = padded[:, :, down : down + height, right : right + across]
    light = LIGHT * (2 * torch.rand((2, n, 1, 1, 1), generator=generator, device=device) - 1)
    noise = NOISE * torch.rand((n, 1, 1, 1), generator=generator, device=device)
    x = (x - 0.5) * (1 + light[0]) + 0.5 + light[1]
    return x + noise * torch.randn(x.shape, generator=generator, device=device)
