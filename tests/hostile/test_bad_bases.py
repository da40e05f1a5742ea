"""Base models of strangers: embedded in a space or fetched by reference, nothing of them is unpickled or run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from w2w_hub import W2WPipeline, WeightSpace
from w2w_hub.dataset.reference import ReferenceLayout
from w2w_hub.dialects.base_model import digest_of_folder
from w2w_hub.errors import (
    AlreadyExistsError,
    BaseModelMismatchError,
    CorruptFileError,
    InvalidInputError,
    MissingPathError,
    UnsafePathError,
    UnsupportedFormatError,
    W2WError,
)
from w2w_hub.models.pipelines.loading import base_of, open_base
from w2w_hub.release.describe import describe
from w2w_hub.space.integrity import check_space
from w2w_hub.space.manifest import REQUIRED
from w2w_hub.space.report import write_report
from w2w_hub.store.hashing import entry_of
from w2w_hub.store.hub.source import ResolvedRevision
from w2w_hub.store.manifest import seal

from ..tiny_world import TinyWorld

Damage = Callable[[Path], None]


class Payload:
    """Leaves a file when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def marker(folder: Path) -> Path:
    return folder.parent / "executed"


def pickled(component: str, suffix: str = ".bin", keep: bool = False) -> Damage:
    def damage(folder: Path) -> None:
        for file in [] if keep else list((folder / component).glob("*.safetensors")):
            file.unlink()
        stem = "diffusion_pytorch_model" if component in ("unet", "vae") else "pytorch_model"
        (folder / component / f"{stem}{suffix}").write_bytes(pickle.dumps(Payload(marker(folder))))

    return damage


def index(**entries: Any) -> Damage:
    def damage(folder: Path) -> None:
        data = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps(data | entries))

    return damage


def edited(name: str, **entries: Any) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / name
        data = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(data | entries))

    return damage


def code(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).write_text(f"import os; os.mkdir({str(marker(folder))!r})\n")

    return damage


def both(*damages: Damage) -> Damage:
    def damage(folder: Path) -> None:
        for one in damages:
            one(folder)

    return damage


def safety_checker(folder: Path) -> None:
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "config.json").write_text("{}")
    (folder / "safety_checker" / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(marker(folder))))
    index(safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])(folder)


def linked(name: str) -> Damage:
    """A file or folder of the base becomes a link to a copy of it elsewhere."""

    def damage(folder: Path) -> None:
        elsewhere = folder.parent / "elsewhere"
        shutil.move(folder / name, elsewhere)
        (folder / name).symlink_to(elsewhere)

    return damage


def pipe_in(folder: Path) -> None:
    os.mkfifo(folder / "vae" / "model.safetensors")


def sharded(shard: str) -> Damage:
    name = "unet/diffusion_pytorch_model.safetensors.index.json"
    return both(edited(name, metadata={}, weight_map={"conv_in.weight": shard}), _without_weights)


def _without_weights(folder: Path) -> None:
    os.rename(
        folder / "unet" / "diffusion_pytorch_model.safetensors",
        folder / "unet" / "diffusion_pytorch_model-00001-of-00001.safetensors",
    )


HOSTILE: dict[str, tuple[Damage, type[W2WError], str]] = {
    "text encoder as .bin": (pickled("text_encoder"), UnsupportedFormatError, "pytorch_model.bin"),
    "VAE as .bin": (pickled("vae"), UnsupportedFormatError, "diffusion_pytorch_model.bin"),
    "UNet as .bin": (pickled("unet"), UnsupportedFormatError, "diffusion_pytorch_model.bin"),
    "VAE as .ckpt": (pickled("vae", ".ckpt"), UnsupportedFormatError, "diffusion_pytorch_model.ckpt"),
    "text encoder as .PT": (pickled("text_encoder", ".PT"), UnsupportedFormatError, "pytorch_model.PT"),
    "safety checker as .bin": (safety_checker, UnsupportedFormatError, "pytorch_model.bin"),
    "no weights at all": (lambda f: shutil.rmtree(f / "vae"), MissingPathError, "vae"),
    "a module of Python's": (index(unet=["subprocess", "Popen"]), UnsupportedFormatError, "'unet'"),
    "a module that runs on import": (index(vae=["antigravity", "X"]), UnsupportedFormatError, "'vae'"),
    "a dotted module": (index(vae=["os.path", "join"]), UnsupportedFormatError, "'vae'"),
    "a module of this package": (index(vae=["w2w_hub", "W2WPipeline"]), UnsupportedFormatError, "'vae'"),
    "an unused component": (index(extra=["turtle", "Turtle"]), UnsupportedFormatError, "'extra'"),
    "another class of diffusers": (index(unet=["diffusers", "DiffusionPipeline"]), UnsupportedFormatError, "'unet'"),
    "another denoiser": (index(unet=["diffusers", "UNet3DConditionModel"]), UnsupportedFormatError, "'unet'"),
    "another text model": (index(text_encoder=["transformers", "AutoModel"]), UnsupportedFormatError, "text_encoder"),
    "a scheduler that is none": (index(scheduler=["diffusers", "AutoencoderKL"]), UnsupportedFormatError, "scheduler"),
    "a class that is not there": (index(vae=["diffusers", "NoSuchThing"]), UnsupportedFormatError, "'vae'"),
    "a private name": (index(vae=["diffusers", "__loader__"]), UnsupportedFormatError, "'vae'"),
    "a component that is a word": (index(unet="os"), CorruptFileError, "'unet'"),
    "a component of three": (index(unet=["diffusers", "a", "b"]), CorruptFileError, "'unet'"),
    "a component that is a number": (index(vae=[1, 2]), CorruptFileError, "'vae'"),
    "a component outside": (index(**{"../vae": ["diffusers", "AutoencoderKL"]}), CorruptFileError, "'../vae'"),
    "a pipeline class of its own": (both(index(_class_name=["evil", "E"]), code("evil.py")), CorruptFileError, "class"),
    "code for None": (code("None.py"), UnsupportedFormatError, "None.py"),
    "code in a component": (code("unet/diffusers.py"), UnsupportedFormatError, "diffusers.py"),
    "code by auto_map": (
        both(edited("text_encoder/config.json", auto_map={"AutoModel": "m.M"}), code("text_encoder/m.py")),
        UnsupportedFormatError, "text_encoder",
    ),
    "auto_map alone": (edited("vae/config.json", auto_map={"A": "o/r--m.M"}), UnsupportedFormatError, "config.json"),
    "an adapter that leads elsewhere": (
        edited("text_encoder/adapter_config.json", base_model_name_or_path="../../secret"),
        UnsupportedFormatError, "adapter_config.json",
    ),
    "shards outside": (sharded("../../secret.safetensors"), UnsupportedFormatError, "index.json"),
    "shards as pickles": (sharded("shard.bin"), UnsupportedFormatError, "index.json"),
    "a file that is a link": (linked("vae/diffusion_pytorch_model.safetensors"), UnsafePathError, "vae"),
    "a configuration that is a link": (linked("scheduler/scheduler_config.json"), UnsafePathError, "scheduler"),
    "a folder that is a link": (linked("tokenizer"), UnsafePathError, "tokenizer"),
    "an index that is a link": (linked("model_index.json"), UnsafePathError, "model_index.json"),
    "a pipe": (pipe_in, UnsafePathError, "model.safetensors"),
}  # fmt: skip


@pytest.fixture
def hostile(tiny_space: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of the tiny space, whose embedded base is damaged."""

    def make(name: str) -> Path:
        folder = shutil.copytree(tiny_space, tmp_path / "space")
        HOSTILE[name][0](folder)
        return folder

    return make


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_an_embedded_base_that_is_not_plain_is_refused_before_diffusers_opens_it(
    name: str, hostile: Callable[[str], Path]
) -> None:
    folder = hostile(name)
    with pytest.raises(HOSTILE[name][1]) as told:
        W2WPipeline.from_pretrained(folder)
    assert HOSTILE[name][2] in str(told.value)
    assert "\n" not in str(told.value)
    assert not marker(folder).exists()


@pytest.mark.parametrize("name", ["text encoder as .bin", "a module of Python's", "shards as pickles"])
def test_a_base_model_from_a_folder_or_a_repository_is_held_to_the_same(
    name: str, hostile: Callable[[str], Path], tiny_space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, space = hostile(name), WeightSpace.from_pretrained(tiny_space)
    with pytest.raises(HOSTILE[name][1]):
        W2WPipeline.from_base(folder, space)
    monkeypatch.setattr(StableDiffusionPipeline, "download", classmethod(lambda cls, name, **options: str(folder)))
    with pytest.raises(HOSTILE[name][1]):
        W2WPipeline.from_base("someone/base", space)
    assert not marker(folder).exists()


def test_pickles_beside_safetensors_are_left_unread(tiny_space: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_space, tmp_path / "space")
    for component in ("unet", "vae", "text_encoder"):
        pickled(component, keep=True)(folder)
    code("pipeline.py")(folder)  # FORMAT.md: this package never runs it
    assert W2WPipeline.from_pretrained(folder).space.k == 12
    assert not marker(folder).exists()


@pytest.mark.parametrize(
    "option",
    [
        {"use_safetensors": False}, {"trust_remote_code": True}, {"custom_pipeline": "pipeline"}, {"use_onnx": True},
        {"use_flashpack": True}, {"load_connected_pipeline": True},
    ],
)  # fmt: skip
def test_options_that_would_unpickle_or_run_code_are_refused(option: dict[str, Any], tiny_space: Path) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(option))):
        W2WPipeline.from_pretrained(tiny_space, **option)


def test_a_component_that_the_caller_brings_is_not_read(tiny_space: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_space, tmp_path / "space")
    vae = W2WPipeline.from_pretrained(tiny_space).vae
    pickled("vae")(folder)
    assert W2WPipeline.from_pretrained(folder, vae=vae).vae is vae


# ---------------------------------------------------------------- embedding
@pytest.mark.parametrize(
    ("damage", "error", "subject"),
    [
        (pickled("text_encoder"), UnsupportedFormatError, "pytorch_model.bin"),
        (pickled("vae", keep=True), UnsupportedFormatError, "diffusion_pytorch_model.bin"),
        (lambda f: (f / "model.ckpt").write_bytes(b"x"), UnsupportedFormatError, "model.ckpt"),
        (linked("tokenizer"), UnsafePathError, "tokenizer"),
        (both(lambda f: (f / "LICENSE").write_text("x"), linked("LICENSE")), UnsafePathError, "LICENSE"),
        (linked("text_encoder/config.json"), UnsafePathError, "config.json"),
        (index(unet=["diffusers"]), CorruptFileError, "unet"),
        (lambda f: (f / "manifest.json").mkdir(), AlreadyExistsError, "manifest.json"),
    ],
)
def test_a_base_with_pickles_or_links_is_not_embedded(
    damage: Damage, error: type[W2WError], subject: str, tiny_world: TinyWorld, tiny_space: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(tiny_world.base, tmp_path / "base")
    damage(base)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(error, match=subject):
        WeightSpace.from_pretrained(tiny_space).save(tmp_path / "out", base=base)
    assert sorted(tmp_path.iterdir()) == before


def test_a_pipeline_is_not_saved_as_pickles(tiny_space: Path, tmp_path: Path) -> None:
    pipe = W2WPipeline.from_pretrained(tiny_space)
    with pytest.raises(InvalidInputError, match="safe_serialization"):
        pipe.save_pretrained(tmp_path / "out", safe_serialization=False)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- bases by reference
@pytest.fixture
def referring(tiny_space: Path, tmp_path: Path) -> Callable[[Any], Path]:
    """A copy of the tiny space without its base, whose configuration names one."""

    def make(base: Any, **more: Any) -> Path:
        folder = tmp_path / "deep" / "space"
        shutil.copytree(
            tiny_space, folder, ignore=shutil.ignore_patterns("unet", "vae", "text_encoder", "model_index*")
        )
        (folder / "w2w_pipeline.json").write_text(json.dumps({"base_model": base, **more}))
        return folder

    return make


def from_hub(folder: Path) -> Any:
    """Open a space's folder as the snapshot of a repository."""
    space = WeightSpace.from_pretrained(folder)
    assert space.source is not None
    space.source = replace(space.source, revision=ResolvedRevision("org/space", "space", "main", "0" * 40))
    return open_base(lambda _: W2WPipeline, base_of(space, {}), space, torch.float32)


@pytest.mark.parametrize("base", ["../base", "..", "../..", "a/../../base", "./../base"])
def test_a_repositorys_base_model_must_stay_inside_it(
    base: str, referring: Callable[[Any], Path], tiny_world: TinyWorld
) -> None:
    folder = referring(base)
    shutil.copytree(tiny_world.base, folder.parent / "base")
    with pytest.raises(UnsupportedFormatError, match="org/space"):
        from_hub(folder)


def test_a_users_own_folder_may_name_a_base_beside_it(referring: Callable[[Any], Path], tiny_world: TinyWorld) -> None:
    folder = referring("../base")
    shutil.copytree(tiny_world.base, folder.parent / "base")
    assert W2WPipeline.from_pretrained(folder).space.k == 12


@pytest.mark.parametrize("base", ["/etc", "C:\\base", "..\\base", "base\n", "~/\x1b[31m"])
def test_a_base_that_is_neither_a_repository_nor_a_relative_folder_is_refused(
    base: str, referring: Callable[[Any], Path]
) -> None:
    with pytest.raises(UnsupportedFormatError, match="w2w_pipeline"):
        W2WPipeline.from_pretrained(referring(base))


def test_an_absolute_path_in_a_configuration_is_not_opened(
    referring: Callable[[Any], Path], tiny_world: TinyWorld
) -> None:
    with pytest.raises(UnsupportedFormatError, match="w2w_pipeline"):
        W2WPipeline.from_pretrained(referring(str(tiny_world.base)))


def test_a_repository_is_asked_for_also_where_a_folder_has_its_name(
    referring: Callable[[Any], Path], tiny_world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = referring("org/base", revision="1" * 40)
    shutil.copytree(tiny_world.base, tmp_path / "here" / "org" / "base")
    monkeypatch.chdir(tmp_path / "here")
    asked = []

    def download(cls: Any, name: str, **options: Any) -> str:
        asked.append((name, options["revision"], options["use_safetensors"], options["trust_remote_code"]))
        return str(tiny_world.base)

    monkeypatch.setattr(StableDiffusionPipeline, "download", classmethod(download))
    pipe = W2WPipeline.from_pretrained(folder)
    assert asked == [("org/base", "1" * 40, True, False)]
    assert Path(pipe.vae.config._name_or_path).parent == tiny_world.base


# ---------------------------------------------------------------- which weights are opened
def _other_weights(file: Path) -> None:
    from safetensors.numpy import load_file, save_file

    save_file({name: value + 1 for name, value in load_file(file).items()}, file)


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def _decoy(folder: Path) -> None:
    """The right weights under a name that diffusers never opens, and others under the one that it does."""
    shutil.copyfile(folder / WEIGHTS, folder / "unet" / "zz.safetensors")
    _other_weights(folder / WEIGHTS)


def _two_shards(folder: Path) -> None:
    from safetensors.numpy import load_file

    names = list(load_file(folder / WEIGHTS))
    for shard in ("a.safetensors", "b.safetensors"):
        shutil.copyfile(folder / WEIGHTS, folder / "unet" / shard)
    (folder / WEIGHTS).unlink()
    edited(f"{WEIGHTS}.index.json", weight_map={names[0]: "a.safetensors"} | dict.fromkeys(names[1:], "b.safetensors"))(
        folder
    )


@pytest.mark.parametrize(
    ("damage", "error", "subject"),
    [
        (_decoy, UnsupportedFormatError, "zz.safetensors"),
        (_two_shards, CorruptFileError, "b.safetensors"),
        (edited("unet/config.json", transformers_weights="zz.safetensors"), UnsupportedFormatError, "config.json"),
    ],
)
def test_weights_that_diffusers_would_not_open_do_not_vouch_for_a_base(
    damage: Damage, error: type[W2WError], subject: str, tiny_space: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_space, tmp_path / "space")
    damage(folder)
    assert any(subject in problem.message for problem in check_space(folder, deep=True).problems)
    with pytest.raises(error, match=subject):
        W2WPipeline.from_pretrained(folder, dtype="bf16")


def test_variants_beside_the_weights_are_left_unread_unless_asked_for(tiny_space: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_space, tmp_path / "space")
    for variant in ("fp16", "non_ema"):
        other = folder / "unet" / f"diffusion_pytorch_model.{variant}.safetensors"
        shutil.copyfile(folder / WEIGHTS, other)
        _other_weights(other)
    assert W2WPipeline.from_pretrained(folder, dtype="bf16").space.k == 12
    with pytest.raises(BaseModelMismatchError):
        W2WPipeline.from_pretrained(folder, dtype="bf16", variant="non_ema")


def test_shards_of_one_list_and_a_single_file_of_another_name_give_the_same_digest(
    tiny_world: TinyWorld, tiny_space: Path, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    space = WeightSpace.from_pretrained(tiny_space)
    stated = space.compatibility.base_digest
    base = shutil.copytree(tiny_world.base, tmp_path / "base")
    tensors = load_file(base / WEIGHTS)
    os.rename(base / WEIGHTS, base / "unet" / "other.safetensors")
    assert digest_of_folder(base, space.layout) == stated
    (base / "unet" / "other.safetensors").unlink()
    parts = {"a.safetensors": list(tensors)[::2], "b.safetensors": list(tensors)[1::2]}
    for shard, names in parts.items():
        save_file({name: tensors[name] for name in names}, base / "unet" / shard, metadata={"format": "pt"})
    weight_map = {name: shard for shard, names in parts.items() for name in names}
    edited(f"{WEIGHTS}.index.json", metadata={}, weight_map=weight_map)(base)
    assert digest_of_folder(base, space.layout) == stated
    assert W2WPipeline.from_base(base, space, dtype="bf16").space.k == 12


# ---------------------------------------------------------------- links
@pytest.mark.parametrize("name", ["w2w_pipeline.json", "model_index.json"])
def test_settings_that_are_links_are_not_read(name: str, tiny_space: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_space, tmp_path / "space")
    linked(name)(folder)
    (tmp_path / "elsewhere").write_text("not JSON: the error would tell that it was read")
    with pytest.raises(UnsafePathError, match=name):
        W2WPipeline.from_pretrained(folder)


def test_a_manifest_that_is_a_link_is_not_read_by_inspect(tiny_space: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_space, tmp_path / "space")
    linked("manifest.json")(folder)
    with pytest.raises(UnsafePathError, match=r"manifest\.json"):
        ReferenceLayout(folder)
    with pytest.raises(UnsafePathError, match=r"manifest\.json"):
        describe(folder)


# ---------------------------------------------------------------- recipe and diagnostics
def _restated(folder: Path, **parts: dict[str, Any]) -> Path:
    data = json.loads((folder / "manifest.json").read_text())
    for part, change in parts.items():
        data[part] = {k: v for k, v in {**data[part], **change}.items() if v != "absent"}
    (folder / "manifest.json").write_bytes(seal(data))
    return folder


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("recipe", "dataset", "absent"),
        ("recipe", "rows", "absent"),
        ("recipe", "rows", True),
        ("recipe", "constant_numbers", "a"),
        ("recipe", "constant_numbers", 2**60),
        ("recipe", "canonical", "x"),
        ("diagnostics", "held_out", "x"),
        ("diagnostics", "held_out", {"rows": 3, "explained_variance": [1]}),
        ("diagnostics", "explained_variance", [1]),
        ("diagnostics", "nulls", 5),
        ("diagnostics", "no_direction", 3),
        ("diagnostics", "largest_residual", "x"),
        ("diagnostics", "largest_residual", None),
        ("diagnostics", "largest_residual", 10**400),
    ],
)
def test_a_strange_recipe_or_diagnostics_is_refused_by_name(
    part: str, name: str, value: Any, tiny_space: Path, tmp_path: Path
) -> None:
    folder = _restated(shutil.copytree(tiny_space, tmp_path / "space"), **{part: {name: value}})
    with pytest.raises(CorruptFileError, match=rf"{part}\.{name}"):
        WeightSpace.from_pretrained(folder)


def test_a_space_without_what_is_optional_is_shown_and_saved(tiny_space: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_space, tmp_path / "space")
    data = json.loads((folder / "manifest.json").read_text())
    gone = dict.fromkeys(data["recipe"].keys() - REQUIRED.keys(), "absent")
    _restated(folder, recipe=gone, diagnostics=dict.fromkeys(data["diagnostics"], "absent"))
    space = WeightSpace.from_pretrained(folder)
    assert describe(folder)["dataset"] == "tiny"
    write_report(space, tmp_path / "report")
    assert WeightSpace.from_pretrained(space.save(tmp_path / "saved")).digest == space.digest


def test_a_space_with_no_fitted_row_is_refused(tiny_space: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = shutil.copytree(tiny_space, tmp_path / "space")
    for file in (folder / "coefficients").glob("*.parquet"):
        table = pq.read_table(file)
        at = table.column_names.index("fitted")
        pq.write_table(table.set_column(at, "fitted", pa.array([False] * len(table))), file)
        data = json.loads((folder / "manifest.json").read_text())
        data["files"][f"coefficients/{file.name}"] = entry_of(file)
        (folder / "manifest.json").write_bytes(seal(data))
    with pytest.raises(CorruptFileError, match="fitted"):
        WeightSpace.from_pretrained(folder)


def test_the_fitted_split_is_one_of_the_splits(tiny_space: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_space, tmp_path / "space")
    data = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_bytes(seal(data | {"fitted_split": "other"}))
    with pytest.raises(CorruptFileError, match="fitted_split"):
        WeightSpace.from_pretrained(folder)
