"""Stages `vae` and `base`: a latent diffusion model of the avatars world, from scratch."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import world
from config import Config
from resume import DEVICE, Stage, pixels

from w2w_hub.dialects.base_model import state_one_dtype

VAE_SEED, BASE_SEED = 10, 11
MAX_TOKENS = 24


def autocast() -> torch.autocast:
    return torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda")


def vae(config: Config, work: Path, minutes: float) -> None:
    from diffusers import AutoencoderKL

    stage = Stage(work, "vae", minutes)
    torch.manual_seed(VAE_SEED)
    images = torch.from_numpy(np.load(work / "base_images.npy"))
    levels = len(config.vae_channels)
    model = AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=config.latent_channels, sample_size=64,
        block_out_channels=config.vae_channels, layers_per_block=1, norm_num_groups=4 if levels > 3 else 16,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        mid_block_add_attention=levels == 3,
    ).to(DEVICE)  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, betas=(0.9, 0.99), weight_decay=0.0)
    average = copy.deepcopy(model).requires_grad_(False)
    parts = (model, optimizer, average)

    def load(state: list[dict]) -> None:
        for part, value in zip(parts, state, strict=True):
            part.load_state_dict(value)

    for step in stage.steps(config.vae_steps, lambda: [p.state_dict() for p in parts], load):
        generator = torch.Generator().manual_seed(step)
        progress = step / config.vae_steps
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 100) * (0.02 + 0.98 * (1 - progress))
        x = pixels(images[torch.randint(len(images), (config.vae_batch,), generator=generator)])
        with autocast():
            posterior = model.encode(x).latent_dist
            y = model.decode(posterior.sample()).sample
        y = y.float()
        edges = sum(
            (y.diff(dim=d) - x.diff(dim=d)).abs().mean() for d in (2, 3)
        )  # sharp outlines are what a drawn person lives by
        loss = (y - x).abs().mean() + F.mse_loss(y, x) + 0.5 * edges + 1e-6 * posterior.kl().float().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay = min(0.998, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        if step % 200 == 0:
            stage.say(step, f"loss {loss.item():.4f}")
    average.eval()
    with torch.no_grad():
        x = pixels(images[:256])
        y = average.decode(average.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        psnr = -10 * math.log10(F.mse_loss(y, x).item() / 4)
        latents = torch.cat([average.encode(pixels(part)).latent_dist.mean for part in images[:2048].split(256)])
    average.register_to_config(scaling_factor=1 / latents.std().item())
    average.save_pretrained(work / "vae")
    save_grid([*x[:8], *y[:8]], 8, work / "vae.png")
    stage.done(psnr_db=round(psnr, 2), scaling_factor=average.config.scaling_factor)


def base(config: Config, work: Path, minutes: float) -> None:
    """Train the text encoder and the UNet together on latents and captions."""
    from diffusers import AutoencoderKL

    stage = Stage(work, "base", minutes)
    torch.manual_seed(BASE_SEED)
    autoencoder = AutoencoderKL.from_pretrained(work / "vae").to(DEVICE).requires_grad_(False)
    latents = encode(autoencoder, torch.from_numpy(np.load(work / "base_images.npy")))
    tokenizer = write_tokenizer(work / "tokenizer")
    captions = json.loads((work / "base_captions.json").read_text())
    variants = len(captions[0])
    flat = tokenizer([text for texts in captions for text in texts], padding="max_length", truncation=True)
    ids = torch.tensor(flat["input_ids"]).view(len(captions), variants, -1).to(DEVICE)
    empty = torch.tensor(tokenizer("", padding="max_length")["input_ids"]).to(DEVICE)
    unet, text_encoder, scheduler = new_unet(config), new_text_encoder(config, tokenizer), new_scheduler()
    trained = torch.nn.ModuleList([unet, text_encoder]).to(DEVICE)
    average = copy.deepcopy(trained).requires_grad_(False)
    optimizer = torch.optim.AdamW(trained.parameters(), config.base_lr, betas=(0.9, 0.99), weight_decay=0.01)
    parts = (trained, optimizer, average)

    def load(state: list[dict]) -> None:
        for part, value in zip(parts, state, strict=True):
            part.load_state_dict(value)

    running = 1.0
    for step in stage.steps(config.base_steps, lambda: [p.state_dict() for p in parts], load):
        torch.manual_seed(step)
        progress = step / config.base_steps
        for group in optimizer.param_groups:
            group["lr"] = config.base_lr * min(1, (step + 1) / 200) * (0.5 + 0.5 * math.cos(math.pi * progress)) + 1e-6
        picked = torch.randint(len(latents), (config.base_batch,), device=DEVICE)
        text = ids[picked, torch.randint(variants, (config.base_batch,), device=DEVICE)]
        dropped = torch.rand(config.base_batch, device=DEVICE) < 0.1  # for classifier-free guidance
        text = torch.where(dropped[:, None], empty, text)
        z = latents[picked]
        noise = torch.randn_like(z)
        strata = torch.arange(config.base_batch, device=DEVICE) + torch.rand(config.base_batch, device=DEVICE)
        t = (strata / config.base_batch * 1000).long().clamp(max=999)
        with autocast():
            predicted = unet(scheduler.add_noise(z, noise, t), t, text_encoder(input_ids=text).last_hidden_state).sample
        loss = F.mse_loss(predicted.float(), scheduler.get_velocity(z, noise, t))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        decay = min(0.998, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.parameters()), list(trained.parameters()), 1 - decay)
        running += 0.02 * (loss.item() - running)
        if step % 200 == 0:
            stage.say(step, f"loss {running:.4f}")
    save_pipeline(average[0], average[1], autoencoder, tokenizer, scheduler, work / "base")
    stage.done(loss=round(running, 4), samples=config.base_steps * config.base_batch)


def encode(autoencoder, images: torch.Tensor) -> torch.Tensor:
    """Return scaled latents of uint8 ``(n, 64, 64, 3)`` pictures, on the device."""
    with torch.no_grad(), autocast():
        parts = [autoencoder.encode(pixels(part)).latent_dist.mean.float() for part in images.split(256)]
    return torch.cat(parts) * autoencoder.config.scaling_factor


def write_tokenizer(folder: Path):
    """Write a byte-pair CLIPTokenizer whose merges make each of the world's words one token."""
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(ord("!"), ord("~") + 1)]
    symbols = [*letters, *(letter + "</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in world.vocabulary():
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:  # from the right, so that a word's merges do not break another's
            pair = (pieces[-2], pieces[-1])
            if pair not in merges:
                merges.append(pair)
                symbols.append("".join(pair))
            pieces[-2:] = ["".join(pair)]
    vocabulary = {symbol: i for i, symbol in enumerate([*symbols, "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(folder)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    for word in world.vocabulary():
        if len(tokenizer(word)["input_ids"]) != 3:
            raise AssertionError(f"{word!r} is not one token: {tokenizer.tokenize(word)}")
    return tokenizer


def new_text_encoder(config: Config, tokenizer):
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=config.text_width, intermediate_size=4 * config.text_width,
            projection_dim=config.text_width, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


def new_unet(config: Config):
    from diffusers import UNet2DConditionModel

    down = tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in config.unet_attention)
    up = tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(config.unet_attention))
    return UNet2DConditionModel(
        sample_size=64 // 2 ** (len(config.vae_channels) - 1),
        in_channels=config.latent_channels, out_channels=config.latent_channels,
        block_out_channels=config.unet_channels, layers_per_block=config.unet_layers,
        down_block_types=down, up_block_types=up, cross_attention_dim=config.text_width,
        attention_head_dim=4, norm_num_groups=16,
    )  # fmt: skip


def new_scheduler():
    """Return a scheduler with velocity prediction and zero terminal SNR, which avoids a drifting background."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True,
        steps_offset=1,
    )  # fmt: skip


def save_pipeline(unet, text_encoder, autoencoder, tokenizer, scheduler, folder: Path) -> None:
    """Save a complete StableDiffusionPipeline in float16 and a sheet of samples."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        vae=autoencoder, text_encoder=text_encoder.eval(), tokenizer=tokenizer, unet=unet.eval(),
        scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    prompts = ["a person"] * 8 + [
        "a person dark skin short hair full beard sunglasses smiling red hoodie blue background",
        "a person pale skin red straight hair glasses sad white shirt green background",
        "a person light skin blond bob hair serious black blazer purple background",
        "a person brown skin black afro hair mustache grinning blue overall orange background",
        "a person tan skin hat short beard smiling white hoodie white background",
        "a person dark skin bald sunglasses serious red shirt blue background",
        "a person pale skin pink mohawk full beard sad black blazer green background",
        "a person light skin gray dreads mustache glasses smiling blue hoodie purple background",
    ]
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator(DEVICE).manual_seed(0)
    pictures = pipeline(
        prompts, num_inference_steps=15, guidance_scale=2.0, generator=generator, output_type="pt",
    ).images  # fmt: skip
    save_grid(list(pictures * 2 - 1), 8, folder.with_suffix(".png"))
    pipeline.to(torch.float16).save_pretrained(folder)
    state_one_dtype(folder)


def save_grid(images: list[torch.Tensor], columns: int, path: Path) -> None:
    """Save float images ``(3, h, w)`` in [-1, 1] as one PNG."""
    from PIL import Image

    tiles = [((im.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).byte().permute(1, 2, 0).numpy() for im in images]
    rows = [np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)]
    Image.fromarray(np.concatenate(rows, 0)).save(path)
