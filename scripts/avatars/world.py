"""The avatars world: the factors of a drawn person, exact labels and captions.

An *identity* (what a LoRA must learn) is a top, a hair colour, a skin, facial hair and glasses.
A *context* (what it must not learn) is a mouth, clothes, their colour, a background and a small
shift. Both are plain dictionaries of option names, drawn independently of each other.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

Identity = dict[str, str]
Context = dict[str, str | float]

HATS = ("HAT", "TURBAN", "WINTER_HAT_3")
# option -> relative frequency
IDENTITY_OPTIONS: dict[str, dict[str, float]] = {
    "top": {
        "NONE": 1.2, "CAESAR": 1, "SHAGGY": 1, "BUN": 1, "MOHAWK": 1, "BOB": 1, "STRAIGHT_1": 1,
        "BIG_HAIR": 1, "FRO": 1, "DREADS": 1, "BRAIDS": 1, **dict.fromkeys(HATS, 0.9),
    },
    "hair_color": dict.fromkeys(
        ("BLACK", "BROWN", "BLONDE_GOLDEN", "RED", "SILVER_GRAY", "PASTEL_PINK"), 1
    ),
    "skin_color": dict.fromkeys(("PALE", "LIGHT", "BROWN", "DARK_BROWN", "BLACK"), 1),
    "facial_hair": {"NONE": 4, "BEARD_LIGHT": 2, "BEARD_MAGESTIC": 2, "MOUSTACHE_MAGNUM": 2},
    "accessory": {"NONE": 5, "PRESCRIPTION_2": 2.5, "WAYFARERS": 2.5},
}  # fmt: skip
CONTEXT_OPTIONS: dict[str, tuple[str, ...]] = {
    "mouth": ("SMILE", "SERIOUS", "SAD", "GRIMACE"),
    "clothing": ("HOODIE", "SHIRT_CREW_NECK", "BLAZER_SHIRT", "OVERALL"),
    "clothing_color": ("BLACK", "BLUE_01", "RED", "PASTEL_GREEN", "WHITE"),
    "background": ("white", "blue", "green", "orange", "purple"),
}
BACKGROUND_RGB = {
    "white": "#ffffff", "blue": "#b3d9ff", "green": "#c8f0c8", "orange": "#ffe0b3", "purple": "#e0c8f0",
}  # fmt: skip
MAX_SHIFT = (2.0, 1.5)  # pixels of a 64-pixel picture, right and down

# what the judge reads, in this order
FACTORS: dict[str, tuple[str, ...]] = {name: tuple(options) for name, options in IDENTITY_OPTIONS.items()}


HAIRSTYLES = tuple(top for top in FACTORS["top"] if top != "NONE" and top not in HATS)


def _hair(color: str) -> dict[str, tuple[str, ...]]:
    return {"hair_color": (color,), "top": HAIRSTYLES}


# binary attributes in the manner of CelebA's, exact by construction: for each factor the options that count
ATTRIBUTES: dict[str, dict[str, tuple[str, ...]]] = {
    "Eyeglasses": {"accessory": ("PRESCRIPTION_2", "WAYFARERS")},
    "Sunglasses": {"accessory": ("WAYFARERS",)},
    "Beard": {"facial_hair": ("BEARD_LIGHT", "BEARD_MAGESTIC")},
    "Full_Beard": {"facial_hair": ("BEARD_MAGESTIC",)},
    "Mustache": {"facial_hair": ("MOUSTACHE_MAGNUM",)},
    "Bald": {"top": ("NONE",)},
    "Wearing_Hat": {"top": HATS},
    "Long_Hair": {"top": ("BOB", "STRAIGHT_1", "BIG_HAIR", "DREADS")},
    "Afro": {"top": ("FRO",)},
    "Mohawk": {"top": ("MOHAWK",)},
    "Dark_Skin": {"skin_color": ("DARK_BROWN", "BLACK")},
    "Pale_Skin": {"skin_color": ("PALE",)},
    "Black_Hair": _hair("BLACK"),
    "Brown_Hair": _hair("BROWN"),
    "Blond_Hair": _hair("BLONDE_GOLDEN"),
    "Red_Hair": _hair("RED"),
    "Gray_Hair": _hair("SILVER_GRAY"),
    "Pink_Hair": _hair("PASTEL_PINK"),
}


def has_hair(person: Identity) -> bool:
    return person["top"] in HAIRSTYLES


def has(person: Identity, attribute: str) -> bool:
    return all(person[factor] in options for factor, options in ATTRIBUTES[attribute].items())


def draw_identity(rng: random.Random) -> Identity:
    return {
        name: rng.choices(list(options), weights=list(options.values()))[0]
        for name, options in IDENTITY_OPTIONS.items()
    }


def draw_context(rng: random.Random) -> Context:
    context: Context = {name: rng.choice(options) for name, options in CONTEXT_OPTIONS.items()}
    context["dx"] = rng.uniform(-MAX_SHIFT[0], MAX_SHIFT[0])
    context["dy"] = rng.uniform(-MAX_SHIFT[1], MAX_SHIFT[1])
    return context


def appearance(person: Identity) -> tuple[str, ...]:
    """Return the visible factors of a person: without hair color for a bald, shaved one."""
    visible = has_hair(person) or person["facial_hair"] != "NONE"
    return tuple(person[name] if name != "hair_color" or visible else "-" for name in FACTORS)


def distinct_people(count: int, seed: int) -> list[Identity]:
    """Return `count` people of which no two look the same."""
    rng = random.Random(seed)
    seen: set[tuple[str, ...]] = set()
    people: list[Identity] = []
    for _ in range(count * 1000):
        if len(people) == count:
            return people
        person = draw_identity(rng)
        if appearance(person) not in seen:
            seen.add(appearance(person))
            people.append(person)
    raise ValueError(f"the world's options do not hold {count} people who look different")


def factor_labels(person: Identity) -> list[int]:
    return [FACTORS[name].index(person[name]) for name in FACTORS]


# ---------------------------------------------------------------- captions
TOP_WORDS = {
    "NONE": "bald", "CAESAR": "short hair", "SHAGGY": "shaggy hair", "BUN": "hair bun",
    "MOHAWK": "mohawk", "BOB": "bob hair", "STRAIGHT_1": "straight hair", "BIG_HAIR": "big hair",
    "FRO": "afro hair", "DREADS": "dreads", "BRAIDS": "braids", "HAT": "hat", "TURBAN": "turban",
    "WINTER_HAT_3": "beanie",
}  # fmt: skip
HAIR_WORDS = dict(zip(FACTORS["hair_color"], ("black", "brown", "blond", "red", "gray", "pink"), strict=True))
SKIN_WORDS = dict(zip(FACTORS["skin_color"], ("pale", "light", "tan", "brown", "dark"), strict=True))
FACIAL_WORDS = {
    "NONE": "", "BEARD_LIGHT": "short beard", "BEARD_MAGESTIC": "full beard", "MOUSTACHE_MAGNUM": "mustache",
}  # fmt: skip
GLASSES_WORDS = {"NONE": "", "PRESCRIPTION_2": "glasses", "WAYFARERS": "sunglasses"}
MOUTH_WORDS = dict(zip(CONTEXT_OPTIONS["mouth"], ("smiling", "serious", "sad", "grinning"), strict=True))
CLOTHING_WORDS = dict(zip(CONTEXT_OPTIONS["clothing"], ("hoodie", "shirt", "blazer", "overall"), strict=True))
COLOR_WORDS = dict(zip(CONTEXT_OPTIONS["clothing_color"], ("black", "blue", "red", "green", "white"), strict=True))


def caption(person: Identity, context: Context, rng: random.Random) -> str:
    """Return a caption that names the context and, with a probability above one half, each attribute."""
    parts = ["a person"]
    if rng.random() < 0.8:
        words = []
        if rng.random() < 0.8:
            words.append(SKIN_WORDS[person["skin_color"]] + " skin")
        if rng.random() < 0.8:
            color = HAIR_WORDS[person["hair_color"]] + " " if has_hair(person) and rng.random() < 0.8 else ""
            words.append(color + TOP_WORDS[person["top"]])
        if rng.random() < 0.8:
            words.append(FACIAL_WORDS[person["facial_hair"]])
        if rng.random() < 0.8:
            words.append(GLASSES_WORDS[person["accessory"]])
        parts += [w for w in words if w]
    if rng.random() < 0.8:
        parts.append(MOUTH_WORDS[str(context["mouth"])])
    if rng.random() < 0.8:
        parts.append(f"{COLOR_WORDS[str(context['clothing_color'])]} {CLOTHING_WORDS[str(context['clothing'])]}")
    if rng.random() < 0.8:
        parts.append(f"{context['background']} background")
    return " ".join(parts)


def vocabulary() -> Iterator[str]:
    """Return every word of every caption, and the free token ``sks``."""
    tables = (TOP_WORDS, HAIR_WORDS, SKIN_WORDS, FACIAL_WORDS, GLASSES_WORDS, MOUTH_WORDS, CLOTHING_WORDS, COLOR_WORDS)
    words = {"a", "person", "sks", "skin", "background", *CONTEXT_OPTIONS["background"]}
    for table in tables:
        for phrase in table.values():
            words.update(phrase.split())
    yield from sorted(words)
