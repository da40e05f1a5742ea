"""Pipelines from the Hub: ours, the stock one, a base model by reference, pushed, pinned and restored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ..tiny_world import TinyWorld
from .conftest import Client, seed
from .loopback import LoopbackHub

MakeClient = Callable[..., Client]

DRAW = """
import numpy as np, torch, w2w_hub
from diffusers import DiffusionPipeline
def draw(pipe):
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipe("sks person", num_inference_steps=2, generator=generator, output_type="np").images[0]
"""


@pytest.fixture(scope="session")
def referring(tiny_world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny weight space with its base model by reference, ``org/base`` at main."""
    from w2w_hub import WeightDataset, build_space
    from w2w_hub.space.storage import save_space
    from w2w_hub.store.atomic import write_json

    space = build_space(WeightDataset.open(tiny_world.rows), 4, name="light", version="1.0.0", directions=False)
    path = tmp_path_factory.mktemp("referring") / "light"
    return save_space(space, path, extend=lambda f: write_json(f / "w2w_pipeline.json", {"base_model": "org/base"}))


def push_base(hub: LoopbackHub, base: Path, tmp_path: Path) -> str:
    """The base model as a plain diffusers repository, with weights in another format beside them."""
    copy = shutil.copytree(base, tmp_path / "base")
    (copy / "manifest.json").write_text(json.dumps({"version": "0", "k": 0}))  # `seed` reads a version
    (copy / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"\0 never fetched")
    commit = seed(hub, copy, "org/base", tag=False)
    repo = hub.repos[("model", "org/base")]
    lines = [
        {"key": "header", "value": {"summary": "plain"}},
        {"key": "deletedFile", "value": {"path": "manifest.json"}},
    ]
    commit, _ = hub.apply(repo, "main", lines, "org", create_pr=False)
    return commit


STOCK = """
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from peft import LoraConfig, PeftModel, get_peft_model
unet = UNet2DModel(sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
                   down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"))
DDPMPipeline(unet, DDPMScheduler()).push_to_hub("org/ddpm")
loaded = DDPMPipeline.from_pretrained("org/ddpm")
out(unet=bool(all(torch.equal(a, b) for a, b in zip(unet.parameters(), loaded.unet.parameters()))))
net = torch.nn.Sequential(torch.nn.Linear(4, 4))
adapted = get_peft_model(net, LoraConfig(target_modules=["0"], r=2))
adapted.push_to_hub("org/lora")
again = PeftModel.from_pretrained(torch.nn.Sequential(torch.nn.Linear(4, 4)), "org/lora")
out(lora=sorted(k for k in again.state_dict() if "lora" in k))
"""


@pytest.mark.slow
@pytest.mark.slow
def test_pipelines_and_adapters_are_pushed_and_open_with_ours_and_with_stock_libraries(
    hub: LoopbackHub, client: MakeClient, tiny_space: Path
) -> None:
    # one process for all that is pushed and one for all that is read, since each imports torch and diffusers
    written = client("ann", "ann").run(
        DRAW
        + """
pipe = w2w_hub.W2WPipeline.from_pretrained(sys.argv[1])
out(done=pipe.push_to_hub("org/space", version="1.0.0").to_json())
pipe.identity = "person-0001"
np.save("mine.npy", draw(pipe))
"""
        + STOCK,
        tiny_space,
    )
    assert written["unet"]
    assert len(written["lora"]) == 2
    pushed = written["done"]
    assert (pushed["kind"], pushed["version"], pushed["outcome"]) == ("space", "1.0.0", "published")
    commit = hub.repos[("model", "org/space")].tags["v1.0.0"]
    blob = hub.repos[("model", "org/space")].files("v1.0.0")["README.md"]
    assert b'W2WPipeline.from_pretrained("org/space", revision="v1.0.0")' in hub.blobs[blob.etag]
    reader = client()
    shutil.copy(client("ann", "ann").home / "mine.npy", reader.home)
    found = reader.run(
        DRAW
        + """
pipe = w2w_hub.W2WPipeline.from_pretrained("org/space", revision="v1.0.0")
base = draw(pipe)
pipe.identity = "person-0001"
same = bool(np.array_equal(draw(pipe), np.load("mine.npy")))
stock = DiffusionPipeline.from_pretrained("org/space", revision="v1.0.0", safety_checker=None)
out(revision=str(pipe.space.revision), same=same, stock=type(stock).__name__)
from w2w_hub.release import verify
report = verify("org/space@v1.0.0")  # the space itself has version 0.1.0
out(report=[report.ok, report.notes])
out(base=bool(np.array_equal(draw(stock), base)))
again = w2w_hub.W2WPipeline.from_pretrained("org/space", revision="v1.0.0", local_files_only=True)
again.identity = "person-0001"
out(again=bool(np.array_equal(draw(again), np.load("mine.npy"))))
out(v2=refused(w2w_hub.W2WPipeline.from_pretrained, "org/space", revision="v2.0.0", local_files_only=True))
"""
    )
    assert found["revision"] == f"org/space@{commit}"
    assert (found["same"], found["stock"], found["base"]) == (True, "StableDiffusionPipeline", True)
    assert found["again"]
    assert found["report"] == [True, []]
    assert found["v2"][0] == "HubNotFoundError"
    assert found["v2"][2]["cached"] == [f"v1.0.0 ({commit[:12]})"]


@pytest.mark.slow
def test_a_base_model_by_reference_is_pinned_with_its_files_and_restored_with_the_hub_gone(
    hub: LoopbackHub, client: MakeClient, tiny_world: TinyWorld, referring: Path, tmp_path: Path
) -> None:
    base = push_base(hub, tiny_world.base, tmp_path)
    seed(hub, referring, "org/light")
    writer = client("writer")
    pinned = writer.w2w("pin", "org/light@v1.0.0", "-o", "w2w.lock")
    assert pinned.status == 0, pinned.stderr
    lock = json.loads((writer.home / "w2w.lock").read_text())["pins"][0]["base"]
    assert (lock["repo"], lock["commit"]) == ("org/base", base)
    assert "unet/diffusion_pytorch_model.safetensors" in lock["files"]
    assert "unet/diffusion_pytorch_model.bin" not in lock["files"]
    opened = writer.run(
        "import w2w_hub\n"
        'pipe = w2w_hub.AutoW2WPipeline.from_pretrained("org/light", revision="v1.0.0")\n'
        "out(name=type(pipe).__name__)\n"
    )
    assert opened["name"] == "W2WPipeline"
    hub.apply(
        hub.repos[("model", "org/base")],
        "main",
        [{"key": "header", "value": {"summary": "x"}}, {"key": "deletedFolder", "value": {"path": "vae/"}}],
        "org",
        create_pr=False,
    )  # main is broken now; the pinned commit is not
    done = writer.w2w("archive", "w2w.lock", "-o", "bundle")
    assert done.status == 0, done.stderr
    assert not list((writer.home / "bundle").rglob("*.bin"))
    hub.stop()
    island = client("island")
    shutil.copy(writer.home / "w2w.lock", island.home)
    restored = island.w2w("restore", "w2w.lock", "--from", writer.home / "bundle")
    assert restored.status == 0, restored.stderr
    found = island.run(
        DRAW
        + """
from w2w_hub.release import verify_lock
out(checks=[vars(check) for check in verify_lock("w2w.lock")])
pipe = w2w_hub.W2WPipeline.from_pretrained("w2w.lock")
pipe.sample_identity(seed=0)
out(drawn=draw(pipe).shape)
""",
        HF_HUB_OFFLINE="1",
    )
    assert [check["ok"] for check in found["checks"]] == [True, True], found["checks"]
    assert "base model" in found["checks"][1]["detail"]
    assert found["drawn"] == [64, 64, 3]
