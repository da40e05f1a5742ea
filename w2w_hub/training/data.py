"""Encoded pictures and prompts of several identities, and the random draws of one training step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ..errors import InvalidInputError


@dataclass(frozen=True)
class Prompts:
    """Encoded prompts, each once.

    Attributes
    ----------
    text : Tensor
        ``(prompts, tokens, width)``.
    added : mapping of str to Tensor
        Further conditions ``(prompts, ...)``, which SDXL and SD3 require.
    """

    text: torch.Tensor
    added: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def of(self, which: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the text and further conditions of samples, by their prompts' numbers ``(samples,)``."""
        return self.text[which], {name: values[which] for name, values in self.added.items()}


@dataclass(frozen=True)
class TrainingData:
    """Pictures and captions of n identities.

    Attributes
    ----------
    latents : tuple of Tensor
        Per identity ``(pictures, c, h, w)``, scaled as the denoiser expects. Numbers of pictures may differ.
    captions : tuple of Tensor
        Per identity int64 ``(pictures, variants)``: numbers in `prompts`. A step draws one variant for all
        identities.
    prompts : Prompts
    class_latents : Tensor, optional
        ``(class pictures, c, h, w)``, shared by all identities.
    class_prompt : int
        Number of the class pictures' prompt in `prompts`.
    """

    latents: tuple[torch.Tensor, ...]
    captions: tuple[torch.Tensor, ...]
    prompts: Prompts
    class_latents: torch.Tensor | None = None
    class_prompt: int = 0

    def __post_init__(self) -> None:
        if not self.latents or any(not len(pictures) for pictures in self.latents):
            raise InvalidInputError("every identity needs at least one picture")
        for pictures, captions in zip(self.latents, self.captions, strict=True):
            if len(pictures) != len(captions) or pictures.shape[1:] != self.latents[0].shape[1:]:
                raise InvalidInputError("pictures of all identities must have one size, and each a caption")
        everything = [*self.latents, self.prompts.text, *([] if self.class_latents is None else [self.class_latents])]
        if not all(torch.isfinite(values).all() for values in everything):
            raise InvalidInputError("latents or text hold NaN or infinite values")

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def device(self) -> torch.device:
        return self.latents[0].device

    @property
    def most_pictures(self) -> int:
        return max(len(pictures) for pictures in self.latents)

    @property
    def variants(self) -> int:
        return int(self.captions[0].shape[1])

    def part(self, which: Sequence[int]) -> TrainingData:
        """Return the data of some identities, by position."""
        return TrainingData(
            tuple(self.latents[i] for i in which), tuple(self.captions[i] for i in which), self.prompts,
            self.class_latents, self.class_prompt,
        )  # fmt: skip


@dataclass
class Batch:
    """The samples of one step, in the order sample, identity: sample i belongs to identity ``i % n``."""

    clean: torch.Tensor
    noise: torch.Tensor
    t: torch.Tensor
    prompts: torch.Tensor

    def copy_(self, other: Batch) -> None:
        """Overwrite the values, keeping the memory that a captured graph reads."""
        for name in ("clean", "noise", "t", "prompts"):
            getattr(self, name).copy_(getattr(other, name))


class Draws:
    """Draws the pictures, noise and timesteps of each step, the same for all identities (common random numbers).

    Rows of a dataset then differ by the identity alone. Each picture is used equally often, and the timesteps of a
    step are stratified over the schedule. The draws do not depend on how many identities train together.
    """

    def __init__(self, data: TrainingData, noise_steps: int, steps: int, batch_size: int, seed: int):
        self.data, self.noise_steps, self.batch_size = data, noise_steps, batch_size
        self.generator = torch.Generator().manual_seed(seed)
        wanted = steps * batch_size
        # one order for all identities with as many pictures, whoever trains beside them
        orders = {len(pictures): _order(len(pictures), wanted, seed) for pictures in data.latents}
        self.order = torch.stack([orders[len(pictures)] for pictures in data.latents]).to(data.device)
        classes = data.class_latents
        self.class_order = None if classes is None else _order(len(classes), wanted, seed).to(data.device)
        longest = data.most_pictures
        self.latents = torch.stack([_padded(pictures, longest) for pictures in data.latents])
        self.captions = torch.stack([_padded(captions, longest) for captions in data.captions])

    def batch(self, step: int) -> Batch:
        """Draw one step's samples; steps must be drawn in order, from 0 or from a restored generator."""
        picked = slice(step * self.batch_size, (step + 1) * self.batch_size)
        people = torch.arange(len(self.data), device=self.latents.device)[:, None]
        pictures = self.order[:, picked]
        clean = self.latents[people, pictures].transpose(0, 1)
        captions = self.captions[people, pictures]
        if self.data.variants > 1:
            chosen = torch.randint(self.data.variants, (self.batch_size,), generator=self.generator)
            captions = captions.gather(2, sent(chosen, captions.device)[None, :, None].expand(len(captions), -1, 1))
        parts = [self._noised(clean, captions[..., 0].transpose(0, 1))]
        if self.class_order is not None:
            assert self.data.class_latents is not None
            drawn = self.data.class_latents[self.class_order[picked]]
            shared = drawn[:, None].expand(-1, len(self.data), *drawn.shape[1:])
            prompt = torch.full(shared.shape[:2], self.data.class_prompt, device=shared.device)
            parts.append(self._noised(shared, prompt))
        return Batch(
            *(torch.cat([getattr(part, name) for part in parts]) for name in ("clean", "noise", "t", "prompts"))
        )

    def _noised(self, clean: torch.Tensor, prompts: torch.Tensor) -> Batch:
        """Add a step's noise and timesteps to ``(batch size, n, c, h, w)`` latents."""
        size, n = clean.shape[:2]
        strata = torch.randperm(size, generator=self.generator) + torch.rand(size, generator=self.generator)
        t = (strata / size * self.noise_steps).long().clamp(max=self.noise_steps - 1)
        noise = torch.randn((size, *clean.shape[2:]), generator=self.generator)
        t, noise = sent(t, clean.device), sent(noise, clean.device).to(clean.dtype)
        return Batch(clean.flatten(0, 1), noise.repeat_interleave(n, 0), t.repeat_interleave(n), prompts.flatten(0, 1))


def sent(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return values on a device; the copy waits for nothing that a GPU still has to do."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def _order(pictures: int, count: int, seed: int) -> torch.Tensor:
    """Return `count` picture numbers: whole rounds of all pictures, each in a random order."""
    rng = np.random.default_rng([seed, pictures])
    rounds = [rng.permutation(pictures) for _ in range(count // pictures + 1)]
    return torch.from_numpy(np.concatenate(rounds)[:count])


def _padded(values: torch.Tensor, count: int) -> torch.Tensor:
    """Return values with copies of the first behind them, `count` together; the copies are never drawn."""
    return torch.cat([values, values[:1].expand(count - len(values), *values.shape[1:])])
