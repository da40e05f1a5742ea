"""Sizes of the avatars recipe. `gpu` is the recipe of record; `cpu` fits two processor cores."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Config:
    name: str
    # people: shipped for fitting, shipped held-out, plain adapters, held-out for the evaluation only
    fitted: int
    heldout_shipped: int
    adapters: int
    heldout_more: int
    extra_fitted: int  # fitted for the evaluation, not shipped
    base_pictures: int
    pictures_per_person: int
    judge_steps: int
    vae_channels: tuple[int, ...]
    vae_steps: int
    vae_batch: int
    latent_channels: int
    unet_channels: tuple[int, ...]
    unet_layers: tuple[int, ...]
    unet_attention: tuple[bool, ...]  # cross-attention at each resolution
    text_width: int
    base_steps: int
    base_batch: int
    base_lr: float
    lora_start: str  # kaiming (PEFT's own) or mean (see population_stage.mean_start)
    lora_steps: int
    lora_batch: int  # samples of one person a step
    lora_lr: float
    lora_average: float  # share of the last steps that the published weights average over
    people_a_batch: int

    @property
    def people(self) -> int:
        return self.fitted + self.heldout_shipped + self.adapters + self.heldout_more + self.extra_fitted

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


CPU = Config(
    name="cpu", fitted=960, heldout_shipped=64, adapters=32, heldout_more=32, extra_fitted=0,
    base_pictures=24_000, pictures_per_person=10, judge_steps=1000,
    vae_channels=(8, 16, 32, 64), vae_steps=5000, vae_batch=16, latent_channels=8,
    unet_channels=(64, 96), unet_layers=(1, 2), unet_attention=(False, True), text_width=64,
    base_steps=2000, base_batch=128, base_lr=1.2e-3,
    lora_start="mean", lora_steps=80, lora_batch=4, lora_lr=4e-3, lora_average=0.25, people_a_batch=64,
)  # fmt: skip
GPU = Config(
    name="gpu", fitted=960, heldout_shipped=64, adapters=32, heldout_more=256, extra_fitted=2816,
    base_pictures=60_000, pictures_per_person=10, judge_steps=3000,
    vae_channels=(16, 32, 64, 64), vae_steps=3000, vae_batch=512, latent_channels=8,
    unet_channels=(64, 128), unet_layers=(1, 2), unet_attention=(False, True), text_width=64,
    base_steps=4000, base_batch=2048, base_lr=1.5e-3,
    lora_start="kaiming", lora_steps=500, lora_batch=4, lora_lr=3e-3, lora_average=0.25, people_a_batch=1032,
)  # fmt: skip
TINY = Config(  # proves that the recipe runs; its pictures are noise
    name="tiny", fitted=24, heldout_shipped=8, adapters=4, heldout_more=4, extra_fitted=0,
    base_pictures=128, pictures_per_person=4, judge_steps=4,
    vae_channels=(8, 16, 32, 64), vae_steps=4, vae_batch=8, latent_channels=8,
    unet_channels=(32, 32), unet_layers=(1, 1), unet_attention=(False, True), text_width=32,
    base_steps=4, base_batch=8, base_lr=1e-3,
    lora_start="mean", lora_steps=4, lora_batch=2, lora_lr=3e-3, lora_average=0.5, people_a_batch=16,
)  # fmt: skip
CONFIGS = {config.name: config for config in (CPU, GPU, TINY)}
