"""Files and settings with which other trainers train adapters that fit a dataset.

Each trainer is one function from a layout and its initialization to files, and notes for the user. The settings were
checked against the trainers' sources; `cards/TRAINERS.md` names the files.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...common.arguments import checked, place
from ...common.constraints import one_of
from ...common.text import command, counted
from ...dataset.initialization import initialization_of
from ...dataset.manifest import UNKNOWN
from ...dataset.weight_dataset import WeightDataset
from ...dialects import write_adapter
from ...dialects.kohya import is_sdxl
from ...dialects.peft import alpha_for
from ...dialects.start_files import start_bytes
from ...errors import InitializationError, InvalidInputError
from ...lora.adapter import Adapter
from ...store.atomic import new_folder, require_output
from ...store.hub.client import Token
from ...store.replacing import files_named

START = "start.safetensors"
NEXT = "NEXT.txt"
ONETRAINER_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
DIFFUSERS_SCRIPTS = (
    "diffusers' example scripts cannot start from a file (they draw a Gaussian A of their own); use w2w train instead"
)


@dataclass(frozen=True)
class TrainingStart:
    """What `write_start` wrote.

    Attributes
    ----------
    folder : Path
    trainer : str
    files : tuple of str
    steps : tuple of str
        What to do with them, and what to check afterwards, in order.
    """

    folder: Path
    trainer: str
    files: tuple[str, ...]
    steps: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "folder": str(self.folder), "files": list(self.files), "steps": list(self.steps)}


@dataclass(frozen=True)
class _Job:
    """One call: the initialization as an adapter; the folder, absolute in settings and as named in commands."""

    adapter: Adapter
    dataset: str
    folder: Path
    shown: Path
    base_model: str | None
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def start(self) -> Path:
        return self.folder / START

    @property
    def rank(self) -> int:
        """The rank of all modules.

        Raises
        ------
        InvalidInputError
            If the modules have several, which this trainer's settings cannot state.
        """
        ranks = {pair.rank for pair in self.adapter.factors.values()}
        if len(ranks) > 1:
            raise InvalidInputError(
                f"{self.dataset} has modules of ranks {', '.join(map(str, sorted(ranks)))}, and this trainer takes one "
                "rank for all; use --trainer kohya, peft or w2w"
            )
        return ranks.pop()

    @property
    def alpha(self) -> float | int:
        return alpha_for(next(iter(self.adapter.factors.values())))

    @property
    def modules(self) -> list[str]:
        """The paths of all modules, without their component."""
        return [target.module for target in sorted(self.adapter.factors, key=lambda t: t.sort_key)]

    @property
    def substrings(self) -> list[str]:
        """Texts that ai-toolkit's names of these modules contain, and those of no others.

        The path alone of one of Flux's double blocks is contained in that of a single block, too.
        """
        named = sorted(self.adapter.factors, key=lambda t: t.sort_key)
        return [t.module if t.component.startswith("text_encoder") else f"{t.component}.{t.module}" for t in named]

    @property
    def has_text_encoders(self) -> bool:
        return any(name.startswith("text_encoder") for name in self.components)

    @property
    def components(self) -> list[str]:
        return sorted({target.component for target in self.adapter.factors})


def _peft(job: _Job) -> list[str]:
    for component in job.components:
        mine = {t: pair for t, pair in job.adapter.factors.items() if t.component == component}
        prefix = "" if len(job.components) == 1 else f"{component}/"
        job.files.update(
            (f"{prefix}{name}", data) for name, data in _written(replace(job.adapter, factors=mine), "peft")
        )
    inside = f"{job.shown}" + ("" if len(job.components) == 1 else f"/{job.components[0]}")
    return [
        f'in your training script: model = PeftModel.from_pretrained(model, "{inside}", is_trainable=True)',
        "its configuration restricts training to the dataset's modules, rank and alpha; do not initialize it again",
        "save with: model.save_pretrained(RESULT)",
    ]


def _kohya(job: _Job) -> list[str]:
    job.files[START] = _kohya_file(job)
    only = {} if job.has_text_encoders else {"network_train_unet_only": True}
    job.files["kohya.toml"] = _toml(
        {"network_module": "networks.lora", "network_weights": str(job.start), "dim_from_weights": True,
         "save_model_as": "safetensors", "save_precision": "float", **only}
    )  # fmt: skip
    script = "sdxl_train_network.py" if is_sdxl(job.adapter) else "train_network.py"
    return [
        f"in sd-scripts: accelerate launch {script} --config_file {job.shown / 'kohya.toml'}, with your options "
        "for the base model, pictures and steps",
        "dim_from_weights takes modules, rank and alpha from the start file; leave out network_dim and network_alpha",
    ]


def _ai_toolkit(job: _Job) -> list[str]:
    if "transformer" in job.components:
        job.files[START] = start_bytes(job.adapter)
    else:
        job.files[START] = _kohya_file(job)
    network = {
        "type": "lora", "linear": job.rank, "linear_alpha": job.alpha, "pretrained_lora_path": str(job.start),
        "network_kwargs": {"only_if_contains": job.substrings},
    }  # fmt: skip
    train = {"train_text_encoder": job.has_text_encoders}
    section = {"network": network, "save": {"dtype": "float32"}, "train": train}
    import yaml

    job.files["ai-toolkit.yaml"] = yaml.safe_dump(section, sort_keys=False).encode()
    return [
        f"copy the sections of {job.shown / 'ai-toolkit.yaml'} into the process of your job's configuration",
        "for a transformer ai-toolkit sets alpha to the rank, whatever is stated; the result still fits",
    ]


def _onetrainer(job: _Job) -> list[str]:
    job.files[START] = _kohya_file(job)
    settings: dict[str, Any] = {
        "training_method": "LORA", "peft_type": "LORA", "lora_model_name": str(job.start), "lora_rank": job.rank,
        "lora_alpha": float(job.alpha), "lora_decompose": False, "lora_weight_dtype": "FLOAT_32",
        "layer_filter": ",".join(job.modules), "layer_filter_preset": "custom", "layer_filter_regex": False,
        "output_model_format": "SAFETENSORS", "output_dtype": "FLOAT_32",
    }  # fmt: skip
    settings |= {name: {"train": False} for name in ONETRAINER_ENCODERS if name not in job.components}
    job.files["onetrainer.json"] = (json.dumps(settings, indent=1) + "\n").encode()
    return [f"put the entries of {job.shown / 'onetrainer.json'} into your configuration, or load it as a preset"]


def _simpletuner(job: _Job) -> list[str]:
    job.files[START] = start_bytes(job.adapter)
    settings = {
        "model_type": "lora", "lora_type": "standard", "init_lora": str(job.start), "lora_rank": job.rank,
        "lora_alpha": job.alpha, "peft_lora_target_modules": json.dumps(job.modules),
    }  # fmt: skip
    job.files["simpletuner.json"] = (json.dumps(settings, indent=1) + "\n").encode()
    return [f"put the entries of {job.shown / 'simpletuner.json'} into SimpleTuner's config.json"]


def _diffusion_pipe(job: _Job) -> list[str]:
    if not is_sdxl(job.adapter):
        raise InvalidInputError(
            "diffusion-pipe takes modules from a file only for SDXL, and cannot restrict itself to this dataset's "
            "modules; use --trainer kohya, ai-toolkit or w2w"
        )
    # it trains with the file's alpha and saves the rank as alpha; with B zero, any scale is the same start
    plain = {target: replace(pair, scale=1.0) for target, pair in job.adapter.factors.items()}
    start = replace(job, adapter=replace(job.adapter, factors=plain))
    job.files["start/adapter_model.safetensors"] = _kohya_file(start)
    settings = {"type": "lora", "rank": job.rank, "dtype": "float32", "init_from_existing": str(job.folder / "start")}
    job.files["diffusion-pipe.toml"] = b"[adapter]\n" + _toml(settings)
    return [
        f"copy the table [adapter] of {job.shown / 'diffusion-pipe.toml'} into your configuration; state no alpha",
        "diffusion-pipe saves the rank as alpha, which the start file states, too; the result still fits",
    ]


def _w2w(job: _Job) -> list[str]:
    if len(job.components) > 1:
        raise InvalidInputError(
            f"w2w train adapts a UNet, and {job.dataset} has modules of {' and '.join(job.components)}; use --trainer "
            "kohya"
        )
    job.files.update(_written(job.adapter, "peft"))
    start = ("--for", job.shown, "--start", job.shown)
    return [command("w2w train", "PICTURES", options=("--base", job.base_model or "BASE", *start, "--out", "RESULT"))]


TRAINERS: dict[str, Callable[[_Job], list[str]]] = {
    "kohya": _kohya, "ai-toolkit": _ai_toolkit, "onetrainer": _onetrainer, "simpletuner": _simpletuner,
    "diffusion-pipe": _diffusion_pipe, "peft": _peft, "w2w": _w2w,
}  # fmt: skip


@checked(dataset=place(), trainer=one_of(*TRAINERS))
def write_start(
    dataset: Path | str, out: Path | str, trainer: str = "w2w", *, overwrite: bool = False, token: Token = None
) -> TrainingStart:
    """Write what a trainer needs to train adapters that fit a dataset (`w2w init`).

    That is the dataset's initialization in the trainer's spelling, and settings that restrict the trainer to the
    dataset's modules and rank.

    Parameters
    ----------
    dataset : path or str
        A dataset folder, or ``org/name`` on the Hub; only its labels and the initialization are fetched.
    out : path
        A new folder.
    trainer : str
        ``kohya`` (sd-scripts), ``ai-toolkit``, ``onetrainer``, ``simpletuner``, ``diffusion-pipe``, ``peft`` or
        ``w2w``.
    overwrite : bool
        Replace an earlier folder of this function.

    Raises
    ------
    InitializationError
        If the dataset does not publish its initialization.
    InvalidInputError
        If the trainer cannot be restricted to the dataset's modules.
    AlreadyExistsError, HubError
    """
    folder = require_output(Path(out), overwrite=overwrite, own=start_files)
    found = WeightDataset.open(dataset, token=token)
    vector = initialization_of(found)
    name = str(dataset)
    if vector is None:
        raise _unknown(name, found)
    adapter = found.layout.unflatten(vector, base_model=found.manifest.compatibility.base_model)
    job = _Job(adapter, name, folder.absolute(), folder, found.manifest.compatibility.base_model)
    steps = [
        *TRAINERS[trainer](job),
        f"then check the result: {command('w2w contribute', name, 'RESULT', options=('--dry-run',))}; the cosine "
        "of A stays above 0.3, and no module is missing or extra",
        DIFFUSERS_SCRIPTS,
    ]
    job.files[NEXT] = "".join(f"{number}. {step}\n" for number, step in enumerate(steps[:-1], 1)).encode()
    with new_folder(folder, overwrite=overwrite, own=start_files) as partial:
        for file, data in job.files.items():
            path = partial / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return TrainingStart(folder, trainer, tuple(sorted(job.files)), tuple(steps))


def start_files(folder: Path) -> Any:
    """Return the files in a folder that :func:`write_start` writes, for any trainer."""
    components = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
    peft = ("adapter_config.json", "adapter_model.safetensors")
    return files_named(
        START, NEXT, "kohya.toml", "ai-toolkit.yaml", "onetrainer.json", "simpletuner.json", "diffusion-pipe.toml",
        "start/adapter_model.safetensors", *peft, *(f"{component}/{name}" for component in components for name in peft),
    )(folder)  # fmt: skip


def _unknown(name: str, dataset: WeightDataset) -> InitializationError:
    """Return the error for a dataset without a published initialization, with the choices."""
    stated = dataset.manifest.compatibility.initialisation
    rows = counted(len(dataset), "row")
    what = "states none" if stated == UNKNOWN else f"states only its name, {stated!r}"
    add = command("w2w relabel", "FOLDER", options=("--start", "FILE"))
    return InitializationError(
        f"{name} does not publish the initialization of its {rows} ({what}): its maintainers can add it, if they have "
        f"the file: {add}. Otherwise contribute to a dataset that publishes one, or train a population of your own and "
        "build its weight space; one with --canonical svd takes adapters of any initialization",
        name=name,
    )


def _kohya_file(job: _Job) -> bytes:
    try:
        return dict(_written(job.adapter, "kohya")).popitem()[1]
    except InvalidInputError as error:
        raise InvalidInputError(
            f"this trainer reads kohya's names, which cannot express all modules of {job.dataset}; use --trainer "
            "ai-toolkit, simpletuner or peft"
        ) from error


def _written(adapter: Adapter, dialect: str) -> list[tuple[str, bytes]]:
    with tempfile.TemporaryDirectory() as folder:
        write_adapter(adapter, Path(folder) / "start", (dialect,))
        return [(path.name, path.read_bytes()) for path in sorted((Path(folder) / "start").iterdir())]


def _toml(values: Mapping[str, Any]) -> bytes:
    """Return plain values as TOML, whose strings and booleans are JSON's."""
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()).encode()


__all__ = ["TRAINERS", "TrainingStart", "write_start"]
