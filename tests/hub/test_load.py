"""Loading by revision: online, offline, damaged, and from repositories that moved, vanished or are closed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.space.encoders import random_encoder
from w2w_hub import WeightDataset, WeightSpace

from .conftest import Client, Folders, reseal, seed
from .loopback import LoopbackHub

MakeClient = Callable[..., Client]

OPEN = """
import w2w_hub
def open_at(revision, **options):
    ds, said = warned(w2w_hub.WeightDataset.open, "org/people", revision=revision, **options)
    return {"version": ds.manifest.version, "commit": ds.revision.commit, "rows": len(ds), "said": said,
            "first": ds.ids[0], "sum": float(ds[0].astype("f8").sum())}
"""


def first_sum(folder: Path) -> float:
    return float(WeightDataset.open(folder)[0].astype(np.float64).sum())


def test_the_revision_that_was_asked_for_is_opened_online_offline_and_without_a_network(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    first, second = seed(hub, folders.people, "org/people"), seed(hub, folders.fewer, "org/people")
    reader, other = client(), client("other")
    online = reader.run(
        OPEN
        + """
out(v1=open_at("v1.0.0"), main=open_at(None), sha=open_at(sys.argv[1]))
out(no_tag=refused(open_at, "v3.0.0"), no_sha=refused(open_at, "0" * 40), at=open_at("v1.0.0")["commit"])
out(both=refused(w2w_hub.WeightDataset.open, "org/people@v1.0.0", revision="main"))
out(named=w2w_hub.WeightDataset.open("org/people@v1.0.0").manifest.version, bare=refused(open_at, "1.0.0"))
import datasets
rows = w2w_hub.load_dataset("org/people", revision="v1.0.0")
stock = datasets.load_dataset("org/people", revision="v1.0.0")
out(loaded={split: len(part) for split, part in rows.items()}, stock={s: len(p) for s, p in stock.items()})
""",
        first,
    )
    assert online["v1"]["version"] == online["sha"]["version"] == online["named"] == "1.0.0"
    assert online["v1"]["commit"] == first
    assert (online["main"]["version"], online["main"]["commit"]) == ("2.0.0", second)
    assert online["v1"]["sum"] == first_sum(folders.people)
    assert online["v1"]["said"] == []
    assert online["loaded"] == online["stock"] == {"train": 50, "test": 10}
    assert online["no_tag"][0] == "HubNotFoundError"
    assert (online["no_tag"][2]["what"], online["no_tag"][2]["revision"]) == ("revision", "v3.0.0")
    assert online["no_tag"][2]["cached"] == [f"main ({second[:12]})", f"v1.0.0 ({first[:12]})"]
    assert online["bare"][2]["revision"] == "1.0.0"
    assert " v1.0.0;" in online["bare"][1]  # the tag of that version
    assert online["no_sha"][0] == "HubNotFoundError"
    assert online["both"][0] == "InvalidInputError"

    other.run(OPEN + 'out(v2=open_at("v2.0.0"))')
    offline = """
out(v2=open_at("v2.0.0"), v1=refused(open_at, "v1.0.0"), main=refused(open_at, None))
out(local=open_at("v2.0.0", local_files_only=True))
out(nobody=refused(w2w_hub.WeightDataset.open, "org/nobody"))
"""
    with hub.counted() as requests:
        cut_off = other.run(OPEN + offline, HF_HUB_OFFLINE="1")
        mine = reader.run(OPEN + 'out(v1=open_at("v1.0.0"), main=open_at(None))', HF_HUB_OFFLINE="1")
    assert requests == []
    assert cut_off["v2"]["version"] == cut_off["local"]["version"] == "2.0.0"
    assert cut_off["v1"][0] == "HubNotFoundError"
    assert cut_off["v1"][2]["revision"] == "v1.0.0"
    assert cut_off["v1"][2]["cached"] == [f"v2.0.0 ({second[:12]})"]
    assert cut_off["main"][0] == "HubNotFoundError"
    assert (cut_off["nobody"][2]["what"], cut_off["nobody"][2]["cached"]) == ("cache", [])
    assert (mine["v1"]["version"], mine["main"]["version"]) == ("1.0.0", "2.0.0")

    hub.stop()
    gone = reader.run(
        OPEN + 'out(v1=open_at("v1.0.0"), v3=refused(open_at, "v3.0.0"), sha=open_at(sys.argv[1]))', first
    )
    assert gone["v1"]["version"] == gone["sha"]["version"] == "1.0.0"
    assert "cannot be reached" in gone["v1"]["said"][0]
    assert gone["sha"]["said"] == []
    assert gone["v3"][0] == "HubNotFoundError"
    assert gone["v3"][2]["what"] == "cache"
    assert gone["v3"][2]["cached"] == [f"main ({second[:12]})", f"v1.0.0 ({first[:12]})"]


def test_a_warm_load_at_a_commit_asks_for_withdrawn_rows_only_and_one_at_a_tag_also_where_it_is(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    commit, reader = seed(hub, folders.people, "org/people"), client()
    reader.run(OPEN + 'out(v1=open_at("v1.0.0"))')
    with hub.counted() as requests:
        reader.run(OPEN + "out(v1=open_at(sys.argv[1]))", commit)
    assert [r.path.rpartition("/")[2] for r in requests] == ["withdrawn.json"]
    with hub.counted() as requests:
        reader.run(OPEN + 'out(v1=open_at("v1.0.0"))')
    assert [r.path.rpartition("/")[2] for r in requests] == ["v1.0.0", "withdrawn.json"]


# ---------------------------------------------------------------- damage
def shard(folder: Path) -> Path:
    return next(p for p in (folder / "weights.zarr" / "weights").rglob("*") if p.is_file() and p.name != "zarr.json")


def test_a_flipped_byte_in_a_download_is_caught_and_repaired_once(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    seed(hub, folders.people, "org/people")
    sha256 = next(b.sha256 for n, b in hub.repos[("dataset", "org/people")].files("main").items() if "/c/" in n)
    hub.fault(f"GET /cdn/{sha256}", "flip")
    hub.fault("GET .*/resolve/.*/manifest.json", "flip")
    found = client().run(OPEN + 'out(v1=open_at("v1.0.0"))')
    assert found["v1"]["sum"] == first_sum(folders.people)
    damaged = ("manifest.json", "weights.zarr/weights/c/0/0")
    assert len(found["v1"]["said"]) == len(damaged)
    assert all(f"org/people: {name} " in text for name, text in zip(damaged, found["v1"]["said"], strict=True))

    for fault in hub.faults:
        fault.times = 2
    twice = client("twice").run(
        OPEN + 'out(m=refused(open_at, "v1.0.0"), z=refused(open_at, "v1.0.0"), v1=open_at("v1.0.0"))'
    )
    assert twice["m"][0] == twice["z"][0] == "CorruptFileError"
    assert twice["m"][2]["name"] == "manifest.json"
    assert (twice["z"][2]["repo_id"], twice["z"][2]["name"]) == ("org/people", "weights.zarr/weights/c/0/0")
    assert twice["v1"]["sum"] == first_sum(folders.people)  # a bad file does not stay


def test_a_damaged_file_that_another_client_left_in_the_cache_is_repaired_online_and_refused_offline(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    seed(hub, folders.people, "org/people")
    sha256 = next(b.sha256 for n, b in hub.repos[("dataset", "org/people")].files("main").items() if "/c/" in n)
    hub.fault(f"GET /cdn/{sha256}", "flip")
    reader = client()
    reader.run('import huggingface_hub as h; h.snapshot_download("org/people", repo_type="dataset", revision="v1.0.0")')
    refused = reader.run(OPEN + 'out(v1=refused(open_at, "v1.0.0"))', HF_HUB_OFFLINE="1")
    assert refused["v1"][0] == "CorruptFileError"
    assert refused["v1"][2]["path"].endswith("weights.zarr/weights/c/0/0")
    assert reader.run(OPEN + 'out(v1=open_at("v1.0.0"))')["v1"]["sum"] == first_sum(folders.people)
    assert reader.run(OPEN + 'out(v1=open_at("v1.0.0"))', HF_HUB_OFFLINE="1")["v1"]["said"] == []


def test_an_overloaded_hub_and_cut_connections_are_waited_out(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    seed(hub, folders.people, "org/people")
    hub.fault("GET .*/revision/v1.0.0", status=503)
    hub.fault("GET /cdn/", status=500)
    hub.fault("GET /cdn/", "cut")
    hub.fault("GET .*manifest.json", status=429, headers={"Retry-After": "0"})
    found = client().run(OPEN + 'out(v1=open_at("v1.0.0"))')
    assert found["v1"]["sum"] == first_sum(folders.people)
    assert all(fault.times == 0 for fault in hub.faults)


# ---------------------------------------------------------------- repositories that change
def test_a_renamed_repository_is_found_by_its_old_name_and_a_deleted_one_lives_in_the_cache(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    commit, reader = seed(hub, folders.people, "org/people"), client()
    hub.move("dataset", "org/people", "org/faces")
    renamed = reader.run(
        OPEN
        + """
out(v1=open_at("v1.0.0"))
out(record=w2w_hub.WeightDataset.open("org/people", revision="v1.0.0").revision.to_json())
"""
    )
    assert renamed["v1"]["said"] == ["org/people is now called org/faces; use that name"]
    assert renamed["record"] == {"repo": "org/faces", "revision": "v1.0.0", "commit": commit}
    hub.moved.clear()
    hub.repos.clear()
    gone = reader.run(
        OPEN
        + """
out(tag=refused(open_at, "v1.0.0"), sha=open_at(sys.argv[1]), local=open_at("v1.0.0", local_files_only=True))
""",
        commit,
    )
    assert gone["sha"]["commit"] == gone["local"]["commit"] == commit
    assert gone["tag"][0] == "HubNotFoundError"
    assert gone["tag"][2]["cached"] == [f"v1.0.0 ({commit[:12]})"]


def test_a_tag_that_somebody_moved_is_told_by_those_who_had_the_old_one_and_by_the_version_of_the_manifest(
    hub: LoopbackHub, client: MakeClient, folders: Folders, tmp_path: Path
) -> None:
    seed(hub, folders.people, "org/people")
    reader, tags = client(), hub.repos[("dataset", "org/people")].tags
    reader.run(OPEN + 'out(v1=open_at("v1.0.0"))')
    forged = shutil.copytree(folders.more, tmp_path / "forged")
    reseal(forged, version="1.0.0")
    tags["v1.0.0"] = seed(hub, forged, "org/people", tag=False)
    assert "v1.0.0 of org/people was" in reader.run(OPEN + 'out(v1=open_at("v1.0.0"))')["v1"]["said"][0]
    moved = tags["v1.0.0"] = tags["v1.0.0-rc.1"] = seed(hub, folders.more, "org/people")
    script = """
from w2w_hub.release import pin
from w2w_hub.release import verify
for tag in ("v1.0.0", "v1.0.0-rc.1"):
    name = f"org/people@{tag}"
    out(**{tag: [refused(open_at, tag), refused(verify, name), refused(pin, [name])]})
out(branch=open_at("main"), commit=open_at(sys.argv[1]), right=open_at("v1.1.0"))
"""
    for machine in (reader, client("other")):
        found = machine.run(OPEN + script, moved)
        for tag in ("v1.0.0", "v1.0.0-rc.1"):
            assert [told[0] for told in found[tag]] == ["CorruptFileError"] * 3
            assert all(told[2]["revision"] == tag and "'1.1.0'" in told[1] for told in found[tag])
        assert {found[name]["version"] for name in ("branch", "commit", "right")} == {"1.1.0"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.update(files={"../../x": {"sha256": "0" * 64, "size": 1}}), "../../x"),
        (lambda m: m.update(files={".w2w-commit/manifest.json": {"sha256": "0" * 64, "size": 1}}), ".w2w-commit"),
        (lambda m: m.update(files={"x": {"sha256": 5, "size": 1}}), "sha256"),
        (lambda m: m.update(files={"x": {"sha256": "0" * 64, "size": -1}}), "size"),
        (lambda m: m.pop("digest"), "digest"),
        (lambda m: m.update(format="other"), "'other'"),
        (lambda m: m.update(format_version=99), "pip install -U w2w-hub"),
    ],
)
def test_a_manifest_that_cannot_be_relied_on_is_refused(
    hub: LoopbackHub, client: MakeClient, folders: Folders, tmp_path: Path, change: Callable[[dict], object], says: str
) -> None:
    bad = shutil.copytree(folders.people, tmp_path / "bad")
    manifest = json.loads((bad / "manifest.json").read_text())
    change(manifest)
    (bad / "manifest.json").write_text(json.dumps(manifest))
    seed(hub, bad, "org/people")
    found = client().run(
        """
import w2w_hub
from w2w_hub.release import diff
out(opened=refused(w2w_hub.WeightDataset.open, "org/people", revision="v1.0.0"))
out(diff=refused(diff, "org/people@v1.0.0", "org/people@v1.0.0"))
"""
    )
    assert found["opened"][0] in ("CorruptFileError", "UnsafePathError", "UnsupportedFormatError")
    assert says in found["opened"][1]
    assert found["diff"][0] == found["opened"][0]


@pytest.mark.slow
# ---------------------------------------------------------------- access
def test_closed_repositories_open_for_those_who_may_and_say_what_to_do_to_others(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    seed(hub, folders.people, "org/people")
    repo = hub.repos[("dataset", "org/people")]
    repo.private = True
    script = OPEN + 'out(v1=refused(open_at, "v1.0.0"))'
    mine = client("ann", "ann").run(
        script
        + '\nds = w2w_hub.WeightDataset.open("org/people", token=os.environ["HF_TOKEN"])\nout(told=repr(ds.source))'
    )
    assert mine["v1"][0] == "nothing raised"
    assert "org/people" in mine["told"]
    anonymous = client("anonymous").run(script)["v1"]
    stranger = client("bob", "bob").run(script)["v1"]
    expired = client("late", "ann", "expired").run(script)["v1"]
    assert anonymous[0] == stranger[0] == "HubNotFoundError"
    assert (anonymous[2]["what"], anonymous[2]["repo_id"]) == ("repository", "org/people")
    assert "hf auth login" in anonymous[1]
    assert expired[0] == "HubAccessError"
    assert expired[2]["what"] == "401"

    repo.private, repo.gated = False, "manual"
    gated = client("bob2", "bob").run(script)["v1"]
    assert gated[0] == "HubAccessError"
    assert (gated[2]["what"], gated[2]["repo_id"]) == ("gated", "org/people")
    repo.granted.add("bob")
    assert client("bob3", "bob").run(script)["v1"][0] == "nothing raised"
    by_argument = OPEN + 'out(v1=refused(open_at, "v1.0.0", token=False))'
    assert client("bob4", "bob").run(by_argument)["v1"][0] == "HubAccessError"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="file permissions are POSIX's")
def test_a_read_only_cache_serves_what_it_has_and_names_itself_for_what_it_has_not(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    seed(hub, folders.people, "org/people")
    reader = client()
    reader.run(OPEN + 'out(v1=open_at("v1.0.0"))')
    seed(hub, folders.fewer, "org/people")
    for path in [*reader.home.rglob("*"), reader.home]:
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)
    for parent in reader.home.parents:
        if "pytest-" in str(parent):  # pytest's folders are for their owner only
            parent.chmod(0o755)
    # a superuser may write anywhere, so the script gives that up, once all is imported that it will need: a virtual
    # environment may be for its owner only
    script = """
open_at("v1.0.0")
if os.geteuid() == 0:
    import tempfile
    from huggingface_hub import hf_hub_download
    hf_hub_download("org/people", "README.md", repo_type="dataset", local_dir=tempfile.mkdtemp())
    os.setuid(65534)
out(v1=open_at("v1.0.0"), v2=refused(open_at, "v2.0.0"))
"""
    found = reader.run(OPEN + script)
    assert found["v1"]["sum"] == first_sum(folders.people)
    assert found["v2"][0] == "HubError"
    assert found["v2"][2]["path"].startswith(str(reader.home))
    assert "HF_HOME" in found["v2"][1]


# ---------------------------------------------------------------- names
def test_a_folder_wins_only_if_it_is_one_of_ours_and_no_revision_was_asked_for(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    seed(hub, folders.people, "org/people")
    reader = client()
    (reader.home / "org" / "people").mkdir(parents=True)
    (reader.home / "org" / "mine").symlink_to(folders.more)
    seed(hub, folders.people, "org/mine")
    found = reader.run(
        OPEN
        + """
out(strange=open_at(None))
(ds, said) = warned(w2w_hub.WeightDataset.open, "org/mine")
out(mine=[ds.manifest.version, ds.revision, said])
(ds, said) = warned(w2w_hub.WeightDataset.open, "org/mine", revision="v1.0.0")
out(asked=[ds.manifest.version, said])
out(folder=refused(w2w_hub.WeightDataset.open, sys.argv[1], revision="v1.0.0"))
out(word=refused(w2w_hub.WeightDataset.open, "people", revision="v1.0.0"))
out(missing=refused(w2w_hub.WeightDataset.open, "people"), neither=refused(w2w_hub.WeightDataset.open, "org/nothing"))
out(kind=refused(w2w_hub.WeightSpace.from_pretrained, "org/people"))
""",
        folders.people,
    )
    assert found["strange"]["version"] == "1.0.0"
    assert "org/people" in found["strange"]["said"][0]
    assert found["mine"] == ["1.1.0", None, []]
    assert found["asked"][0] == "1.0.0"
    assert "org/mine" in found["asked"][1][0]
    assert found["folder"][0] == found["word"][0] == "InvalidInputError"
    assert "w2w pack" in found["missing"][1]
    assert (found["neither"][2]["what"], found["neither"][2]["repo_id"]) == ("repository", "org/nothing")
    assert found["kind"][0] == "HubNotFoundError"


def test_a_space_of_k_components_fetches_only_their_basis_and_keeps_its_points_valid(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    seed(hub, folders.space, "org/space")
    with hub.counted() as requests:
        found = client().run(
            """
import w2w_hub
from w2w_hub.space import coordinate_files
coordinate_files.COMPONENTS_A_FILE = 1000
s = w2w_hub.WeightSpace.from_pretrained("org/space", k=3, revision="v1.0.0")
whole = w2w_hub.WeightSpace.from_pretrained("org/space", revision=s.revision.commit)
point = s.sample(1, seed=0)[0]
import numpy as np
out(k=s.k, digest=s.digest == whole.digest, same=bool(np.allclose(whole.decode(point), s.decode(point))))
out(history=point.history["space"], saved=refused(s.save, "copy"))
out(much=refused(w2w_hub.WeightSpace.from_pretrained, "org/space", 99))
out(no_number=[refused(w2w_hub.WeightSpace.from_pretrained, "org/space", k) for k in ("3", 2.5, 0)])
whole.save("copy")
out(recipe=json.loads(Path("copy/manifest.json").read_text())["recipe"]["saved_from"])
"""
        )
    commit = hub.repos[("model", "org/space")].tags["v1.0.0"]
    assert (found["k"], found["digest"], found["same"]) == (3, True, True)
    assert found["history"] == f"org/space@{commit}"
    assert found["recipe"] == {"repo": "org/space", "revision": commit, "commit": commit}
    assert found["saved"][0] == found["much"][0] == "InvalidInputError"
    assert [told[0] for told in found["no_number"]] == ["InvalidInputError"] * 3
    assert any("basis-00000" in r.path for r in requests)


def test_an_encoder_is_fetched_and_verified_when_it_is_used(
    hub: LoopbackHub, client: MakeClient, folders: Folders, tmp_path: Path
) -> None:
    space = WeightSpace.open(shutil.copytree(folders.space, tmp_path / "space"))
    space.add_encoder(random_encoder(space))
    seed(hub, space.path, "org/space")
    reader = client()
    with hub.counted() as opening:
        reader.run("import w2w_hub\nout(k=w2w_hub.WeightSpace.from_pretrained('org/space', revision='v1.0.0').k)")
    assert not any("encoder" in request.path for request in opening)
    with hub.counted() as using:
        found = reader.run(
            """
import numpy as np, w2w_hub
s = w2w_hub.WeightSpace.from_pretrained("org/space", revision="v1.0.0")
point = s.encode(np.full((12, 8, 3), 0.5))
out(made=point.history["made"], k=len(point.coefficients), digest=s.encoder.digest)
"""
        )
    assert any("encoder" in request.path for request in using)
    assert (found["made"], found["k"], found["digest"]) == ("encoding", space.k, space.encoder.digest)


def test_what_is_built_from_a_repository_records_its_commit(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    commit = seed(hub, folders.people, "org/people")
    reader = client()
    built = reader.w2w("build", "org/people@v1.0.0", "--k", 3, "--out", "built")
    assert built.status == 0, built.stderr
    recipe = json.loads((reader.home / "built" / "manifest.json").read_text())["recipe"]
    assert recipe["dataset_revision"] == {"repo": "org/people", "revision": "v1.0.0", "commit": commit}


# ---------------------------------------------------------------- rows by range
@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 600 rows, 6 MB, that is not fetched whole unasked."""
    from w2w_hub import ParameterLayout, write_dataset
    from w2w_hub.lora.adapter import Target

    layout = ParameterLayout({Target("unet", "mid_block.attentions.0.proj_in"): (5, 250, 250)}, 1.0)
    rows = np.random.default_rng(0).normal(size=(600, layout.size)).astype(np.float32)
    path = tmp_path_factory.mktemp("many") / "many"
    write_dataset(rows, path, layout=layout, name="many", version="1.0.0", license="mit", parquet_view=False)
    return path


def test_one_row_comes_by_range_is_checked_and_becomes_a_whole_shard_only_when_half_was_read(
    hub: LoopbackHub, client: MakeClient, many: Path
) -> None:
    seed(hub, many, "org/many")
    sha256, size = next(
        (b.sha256, b.size) for n, b in hub.repos[("dataset", "org/many")].files("main").items() if "/c/" in n
    )
    rows = WeightDataset.open(many).to_numpy()
    script = """
import w2w_hub, pickle
import numpy as np
ds = w2w_hub.WeightDataset.open("org/many", revision="v1.0.0")
"""
    with hub.counted() as requests:
        one = client().run(script + "out(row=ds[123].tolist(), last=pickle.loads(pickle.dumps(ds))[-1].tolist())")
    np.testing.assert_array_equal(np.float32(one["row"]), rows[123])
    np.testing.assert_array_equal(np.float32(one["last"]), rows[-1])
    from_shard = sum(r.sent for r in requests if sha256 in r.path)
    assert from_shard < 0.02 * size
    assert not list(client().cache.rglob(sha256))

    hub.fault(f"GET /cdn/{sha256}", "flip", skip=1)  # the row, after the index
    assert client().run(script + "out(row=ds[5].tolist())")["row"] == rows[5].tolist()
    hub.fault(f"GET /cdn/{sha256}", "flip", times=3)
    bad = client().run(script + "out(row=refused(ds.__getitem__, 5))")
    assert bad["row"][0] == "CorruptFileError"

    for fault in hub.faults:
        fault.times = 0
    with hub.counted() as requests:
        whole = client().run(
            script
            + """
total = sum(float(block.sum()) for _, block in ds.iter_blocks(64))
copy = pickle.loads(pickle.dumps(ds))
out(total=total, copy=float(copy[7].sum()), mine=float(ds[7].sum()))
ds.verify()
"""
        )
    assert whole["total"] == pytest.approx(float(sum(rows[i : i + 64].sum() for i in range(0, 600, 64))))
    assert whole["copy"] == whole["mine"]
    assert sum(r.sent for r in requests if sha256 in r.path) < 1.6 * size
    offline = client().run(script + "out(row=ds[9].tolist())", HF_HUB_OFFLINE="1")
    assert offline["row"] == rows[9].tolist()


def test_rows_that_were_loaded_with_a_token_are_read_by_processes_that_have_none(
    hub: LoopbackHub, client: MakeClient, many: Path
) -> None:
    seed(hub, many, "org/many")
    hub.repos[("dataset", "org/many")].private = True
    script = """
import datasets, w2w_hub
if len(sys.argv) > 1:
    w2w_hub.load_dataset("org/many", split="train", token=sys.argv[1]).save_to_disk("saved")
else:
    out(row=datasets.load_from_disk("saved")[5]["weights"].tolist())
"""
    client().run(script, hub.token("ann"))
    assert client().run(script)["row"] == WeightDataset.open(many)[5].tolist()


def test_offline_a_row_that_was_not_fetched_is_an_error_that_says_how_to_fetch_all(
    hub: LoopbackHub, client: MakeClient, many: Path
) -> None:
    seed(hub, many, "org/many")
    reader = client()
    script = 'import w2w_hub\nds = w2w_hub.WeightDataset.open("org/many", revision="v1.0.0")\n'
    reader.run(script + "out(ids=ds.ids[:2])")
    found = reader.run(script + "out(row=refused(ds.__getitem__, 3))", HF_HUB_OFFLINE="1")
    assert found["row"][0] == "HubNotFoundError"
    assert (found["row"][2]["what"], found["row"][2]["repo_id"]) == ("cache", "org/many")
    assert "lazy=False" in found["row"][1]
    reader.run('import w2w_hub\nw2w_hub.WeightDataset.open("org/many", revision="v1.0.0", lazy=False)')
    assert reader.run(script + "out(row=len(ds[3]))", HF_HUB_OFFLINE="1")["row"] == 2500


def test_a_short_commit_opens_what_is_cached_and_what_is_no_revision_is_refused(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    commit, reader = seed(hub, folders.people, "org/people"), client()
    reader.run(OPEN + 'out(v1=open_at("v1.0.0"))')
    script = OPEN + "out(short=open_at(sys.argv[1][:12]), bad=[refused(open_at, r) for r in (5, '', ' ', 'abcdefabc')])"
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        with hub.counted() as requests:
            found = reader.run(script, commit, **environment)
        assert found["short"]["commit"] == commit
        assert [told[0] for told in found["bad"]] == ["InvalidInputError"] * 3 + ["HubNotFoundError"]
        assert len(requests) == (0 if environment else 2)  # one for withdrawn rows


def test_a_flipped_byte_in_a_basis_is_caught_and_repaired(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    seed(hub, folders.space, "org/space")
    files = hub.repos[("model", "org/space")].files("main")
    sha256 = next(b.sha256 for n, b in files.items() if n.startswith("basis-"))
    hub.fault(f"GET /cdn/{sha256}", "flip", times=3)
    found = client().run(
        """
import w2w_hub
out(bad=refused(w2w_hub.WeightSpace.from_pretrained, "org/space", k=3))
space, said = warned(w2w_hub.WeightSpace.from_pretrained, "org/space", k=3)
out(k=space.k, said=said)
"""
    )
    assert found["bad"][0] == "CorruptFileError"
    assert found["k"] == 3
    assert "arrived damaged" in found["said"][0]
