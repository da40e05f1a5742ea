"""`w2w sample`, `edit`, `invert`, `render` and `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .common import StrengthType, examples, json_option, open_pipeline, out_option, print_json, say

IDENTITY = "a saved point, a row's id, or an adapter"
space_argument = click.argument("space", type=click.Path(path_type=Path))


@click.command(epilog=examples("w2w sample space --count 8 --seed 0 --out points"))
@space_argument
@click.option("--count", "-n", type=click.IntRange(1), default=1, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--truncation", default=1.0, show_default=True, help="Factor of the spread: smaller is more average.")
@out_option("The folder of points to make.")
@json_option
def sample(space: Path, count: int, seed: int, truncation: float, out: Path, as_json: bool) -> None:
    """Draw new identities from a weight space."""
    from ..files import new_folder
    from ..space import WeightSpace
    from ..space.storage import save_point

    opened = WeightSpace.from_pretrained(space)
    points = opened.sample(count, seed, truncation)
    with new_folder(out) as folder:
        for i, point in enumerate(points):
            save_point(point, folder / f"sample-{i:03d}.json")
    rows = [
        {"point": str(out / f"sample-{i:03d}.json"), "nearest": name, "cosine": round(cosine, 4)}
        for i, point in enumerate(points)
        for name, cosine in opened.nearest(point)
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        say(f"{row['point']}  nearest row {row['nearest']} (cosine {row['cosine']:.2f})")
    say(f"next: w2w render {space} {out}/*.json --out people.png")


@click.command(
    epilog=examples(
        "w2w edit space person-0001 Beard=+2 Eyeglasses=-1 --out bearded.json",
        "w2w edit space points/sample-000.json Bald=3 --out bald.json",
    )
)
@space_argument
@click.argument("identity")
@click.argument("strengths", nargs=-1, required=True, type=StrengthType())
@out_option("The point to write (.json).")
def edit(space: Path, identity: str, strengths: tuple[tuple[str, float], ...], out: Path) -> None:
    """Move IDENTITY along attributes; one unit is one standard deviation of the population."""
    from ..space import WeightSpace
    from ..space.identity import edited, resolve
    from ..space.storage import save_point

    opened = WeightSpace.from_pretrained(space)
    found = edited(opened, resolve(opened, identity), dict(strengths))
    save_point(found.point, out)
    say(f"{out}: {opened.distance(found.point):.2f} standard deviations from the mean (1 is typical)")
    say(f"next: w2w render {space} {identity} {out} --out before-after.png")


@click.command(
    epilog=examples("w2w invert space picture.png --out points", "w2w invert space a.png b.png --together --out points")
)
@space_argument
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--together", is_flag=True, help="All pictures show one person; without it, each is a person of its own.")
@click.option("--steps", default=400, show_default=True, type=click.IntRange(1))
@click.option("--learning-rate", default=0.1, show_default=True)
@click.option("--prior", default=0.0, show_default=True, help="Larger stays closer to the population.")
@click.option("--k", type=click.IntRange(1), help="Components to use; all without it.")
@click.option("--seed", default=0, show_default=True)
@out_option("The folder of points to make.")
def invert(
    space: Path,
    images: tuple[Path, ...],
    together: bool,
    steps: int,
    learning_rate: float,
    prior: float,
    k: int | None,
    seed: int,
    out: Path,
) -> None:
    """Find the identity in pictures."""
    from ..files import new_folder, require_new
    from ..pictures import open_picture
    from ..space.storage import save_point

    require_new(out)
    pictures = [open_picture(path) for path in images]
    people = [pictures] if together else [[picture] for picture in pictures]
    pipe = open_pipeline(space)
    found = pipe.invert(people, num_steps=steps, learning_rate=learning_rate, prior=prior, k=k, seed=seed)
    with new_folder(out) as folder:
        for path, inversion in zip(images, found, strict=False):
            save_point(inversion.point, folder / f"{path.stem}.json")
    for path, inversion in zip(images, found, strict=False):
        say(f"{out / path.stem}.json  loss {inversion.losses[0]:.4f} -> {inversion.losses[-1]:.4f}")
    say(f"next: w2w render {space} {out}/*.json --out inverted.png")


@click.command(
    epilog=examples(
        "w2w render space person-0001 bearded.json --out sheet.png",
        'w2w render space points/*.json --prompt "sks person smiling" --seed 1 --seed 2 --out sheet.png',
    )
)
@space_argument
@click.argument("identities", nargs=-1, required=True)
@click.option("--prompt", "prompts", multiple=True, help="May be given several times.  [default: sks person]")
@click.option("--seed", "seeds", multiple=True, type=int, help="May be given several times.  [default: 0]")
@click.option("--steps", default=15, show_default=True, type=click.IntRange(1))
@click.option("--guidance", default=2.0, show_default=True)
@click.option("--scale", default=2, show_default=True, type=click.IntRange(1, 8), help="Enlarge small pictures.")
@out_option("The contact sheet to write (.png).")
def render(
    space: Path,
    identities: tuple[str, ...],
    prompts: tuple[str, ...],
    seeds: tuple[int, ...],
    steps: int,
    guidance: float,
    scale: int,
    out: Path,
) -> None:
    """Draw IDENTITIES (points, row ids, adapters, or "base") on one contact sheet, a row each."""
    from ..files import require_new
    from ..pictures import contact_sheet

    require_new(out)
    pipe = open_pipeline(space)
    cases = [(prompt, seed) for prompt in prompts or ("sks person",) for seed in seeds or (0,)]
    chosen: list[Any] = [None if name == "base" else pipe.resolve(name) for name in identities]
    drawn = pipe.render(chosen, cases, num_inference_steps=steps, guidance_scale=guidance)
    contact_sheet(
        drawn, rows=[Path(name).stem for name in identities], columns=[f"{p} #{s}" for p, s in cases], scale=scale
    ).save(out)
    say(f"{out}: {len(identities)} identities x {len(cases)} cases")


@click.command(epilog=examples("w2w export space bearded.json --out bearded-lora"))
@space_argument
@click.argument("identity")
@out_option("The folder to make; PEFT and diffusers both open it.")
def export(space: Path, identity: str, out: Path) -> None:
    """Write IDENTITY as a LoRA that stock PEFT and diffusers open."""
    from ..formats import write_adapter
    from ..space import WeightSpace
    from ..space.identity import resolve

    opened = WeightSpace.from_pretrained(space)
    adapter = opened.layout.unflatten(resolve(opened, identity).vector)
    adapter.base_model = opened.compatibility.base_model
    write_adapter(adapter, out)
    say(f"{out}: PeftModel.from_pretrained(pipe.unet, {str(out)!r}) or pipe.load_lora_weights({str(out)!r})")
