"""`w2w convert`."""

from __future__ import annotations

from pathlib import Path

import click

from ..common.text import counted, one_line
from .common import WriterChoice, adapter_options, examples, out_option
from .output import say


@click.command(
    epilog=examples(
        "w2w convert kohya.safetensors --to peft --out my-lora",
        "w2w convert my-lora --to kohya --out my-lora.safetensors",
        "w2w convert lokr.safetensors --to diffusers --rank 16 --out approximated",
        "w2w convert old.pt --allow-torch --to diffusers --out my-lora",
    )
)
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--to", "dialect", type=WriterChoice(), required=True, help="Dialect to write.")
@out_option("New folder, or with the suffix .safetensors a new file, if the dialect allows it.")
@click.option("--rank", type=click.IntRange(1), help="Approximate every module by its best factors of this rank.")
@adapter_options
def convert(
    source: Path,
    dialect: str,
    out: Path,
    force: bool,
    rank: int | None,
    allow_torch: bool,
    trust: str | None,
    alpha: float | None,
    component: str | None,
) -> None:
    """Convert SOURCE, a LoRA checkpoint of any known dialect, to another dialect."""
    from ..dialects import convert_adapter, writers

    adapter = convert_adapter(
        source, out, dialect, overwrite=force,
        allow_torch=allow_torch, trust=trust, alpha=alpha, component=component, svd_rank=rank,
    )  # fmt: skip
    scales = ", ".join(f"{s:g}" for s in sorted({p.scale for p in adapter.factors.values()}))
    say(f"{out}: {counted(len(adapter.factors), 'module')}, from {adapter.dialect} to {dialect}, scale {scales}")
    if adapter.metadata.get("error") is not None:
        say(f"an approximation of rank {rank}: relative error {adapter.metadata['error']:.3g}")
    if adapter.ignored_keys:
        names = ", ".join(one_line(name, 120) for name in adapter.ignored_keys[:3])
        say(f"not written, since {dialect} cannot store them: {counted(len(adapter.ignored_keys), 'key')} ({names})")
    components = sorted({target.component for target in adapter.factors})
    writer = writers()[dialect]
    if writer.one_component and len(components) > 1:
        say(f"one folder per model: {', '.join(f'{out}/{name}' for name in components)}")
        out = out / components[-1]
    if writer.load_hint:
        say(f"next: {writer.load_hint.format(path=str(out))}")
