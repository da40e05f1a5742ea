"""Draw people as 64x64 pictures (needs the `[recipe]` extra: python-avatars and resvg-py)."""

from __future__ import annotations

import io
import os
import random
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import python_avatars as pa
import resvg_py
import world
from PIL import Image

SIZE = 64


def draw(person: world.Identity, context: world.Context) -> np.ndarray:
    """Draw one picture, uint8 ``(64, 64, 3)``."""
    top = person["top"]
    avatar = pa.Avatar(
        style=pa.AvatarStyle.TRANSPARENT,
        top=pa.HatType[top] if top in world.HATS else pa.HairType[top],
        hat_color=pa.ClothingColor.HEATHER,
        hair_color=pa.HairColor[person["hair_color"]],
        skin_color=pa.SkinColor[person["skin_color"]],
        facial_hair=pa.FacialHairType[person["facial_hair"]],
        facial_hair_color=pa.HairColor[person["hair_color"]],
        accessory=pa.AccessoryType[person["accessory"]],
        nose=pa.NoseType.DEFAULT,
        eyes=pa.EyeType.DEFAULT,
        eyebrows=pa.EyebrowType.DEFAULT,
        mouth=pa.MouthType[str(context["mouth"])],
        clothing=pa.ClothingType[str(context["clothing"])],
        clothing_color=pa.ClothingColor[str(context["clothing_color"])],
    )
    png = resvg_py.svg_to_bytes(svg_string=avatar.render(), width=96)
    figure = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    canvas = Image.new("RGBA", figure.size, world.BACKGROUND_RGB[str(context["background"])])
    canvas.alpha_composite(figure)
    # a fractional crop: shift by (dx, dy) pixels of the final picture
    scale = 80 / SIZE
    left, upper = 8 - float(context["dx"]) * scale, 2 - float(context["dy"]) * scale
    picture = canvas.convert("RGB").resize(
        (SIZE, SIZE), Image.Resampling.LANCZOS, box=(left, upper, left + 80, upper + 80)
    )
    return np.asarray(picture, np.uint8)


def _draw_many(jobs: list[tuple[world.Identity, world.Context]]) -> np.ndarray:
    return np.stack([draw(person, context) for person, context in jobs])


def draw_all(jobs: list[tuple[world.Identity, world.Context]]) -> np.ndarray:
    """Draw all pictures, uint8 ``(n, 64, 64, 3)``, on every core."""
    blocks = [jobs[i : i + 200] for i in range(0, len(jobs), 200)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        return np.concatenate(list(pool.map(_draw_many, blocks)))


def base_images(count: int, excluded: set[tuple[str, ...]], seed: int, captions: int) -> dict[str, Any]:
    """Draw random people who look like nobody in `excluded`; return pictures, labels and captions."""
    rng = random.Random(seed)
    jobs: list[tuple[world.Identity, world.Context]] = []
    while len(jobs) < count:
        person = world.draw_identity(rng)
        if world.appearance(person) not in excluded:
            jobs.append((person, world.draw_context(rng)))
    return {
        "images": draw_all(jobs),
        "labels": np.array([world.factor_labels(person) for person, _ in jobs]),
        "captions": [[world.caption(p, c, rng) for _ in range(captions)] for p, c in jobs],
    }


def people_images(people: list[world.Identity], per_person: int, seed: int) -> np.ndarray:
    """Draw pictures ``(people, per_person, 64, 64, 3)``; picture j has the same context for everybody."""
    rng = random.Random(seed)
    contexts = [world.draw_context(rng) for _ in range(per_person)]
    images = draw_all([(person, context) for person in people for context in contexts])
    return images.reshape(len(people), per_person, SIZE, SIZE, 3)
