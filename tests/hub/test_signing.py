"""Versions that are signed with a key, by OpenSSF model signing; skipped without the extra `sign`."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from w2w_hub import WeightDataset
from w2w_hub.errors import MissingPathError, SignatureError
from w2w_hub.release import verify
from w2w_hub.release.signing import sign_manifest

from .conftest import Client
from .loopback import LoopbackHub
from .offers import batch, offer, write_crowd
from .test_withdrawals import commit

MakeClient = Callable[..., Client]
INSTALLED = all(importlib.util.find_spec(name) for name in ("model_signing", "OpenSSL"))
signed = pytest.mark.skipif(not INSTALLED, reason="needs the extra sign")


def keys(folder: Path, name: str) -> tuple[Path, Path]:
    """A private key and its public one, in PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    made = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    private.write_bytes(made.private_bytes(serialization.Encoding.PEM, form, plain))
    public.write_bytes(
        made.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


@signed
def test_a_folder_is_verified_with_the_key_that_signed_it(
    make_dataset: Callable[..., WeightDataset], tmp_path: Path
) -> None:
    (private, public), (_, other) = keys(tmp_path, "mine"), keys(tmp_path, "other")
    folder = make_dataset().path
    verify(folder)
    with pytest.raises(SignatureError) as caught:  # not signed
        verify(folder, identity=public)
    assert caught.value.path == folder
    manifest = (folder / "manifest.json").read_bytes()
    (folder / "manifest.sig").write_bytes(sign_manifest(manifest, private))
    assert verify(folder, identity=public).ok
    for key in (other, private):
        with pytest.raises(SignatureError):
            verify(folder, identity=key)
    (folder / "manifest.sig").write_bytes(sign_manifest(manifest + b"\n", private))
    with pytest.raises(SignatureError):
        verify(folder, identity=public)
    assert not logging.getLogger("model_signing").disabled
    for wrong in (public, folder / "README.md"):
        with pytest.raises(SignatureError) as caught:
            sign_manifest(manifest, wrong)
        assert caught.value.path == wrong
    with pytest.raises(MissingPathError) as missing:
        sign_manifest(manifest, tmp_path / "nowhere.pem")
    assert missing.value.path == tmp_path / "nowhere.pem"


@signed
@pytest.mark.slow
def test_a_signed_version_verifies_with_its_key_alone_and_the_next_one_has_no_stale_signature(
    hub: LoopbackHub, client: MakeClient, tmp_path: Path
) -> None:
    (private, public), (_, other) = keys(tmp_path, "mine"), keys(tmp_path, "other")
    folder, ann = write_crowd(tmp_path / "people"), client("ann", "ann")
    pushed = ann.w2w("push", folder, "org/people", "--sign", private)
    assert pushed.status == 0, pushed.stderr
    repo, reader = hub.repos[("dataset", "org/people")], client()
    assert "manifest.sig" in repo.files("v1.0.0")
    assert reader.w2w("verify", "org/people@v1.0.0", "--identity", public).status == 0
    assert reader.w2w("verify", "org/people@v1.0.0", "--identity", public, HF_HUB_OFFLINE="1").status == 0
    for key in (other, private, folder / "README.md", tmp_path / "nowhere"):
        refused = reader.w2w("verify", "org/people@v1.0.0", "--identity", key)
        assert (refused.status, len(refused.stderr.splitlines())) == (2, 1), refused.stderr
    offer(hub, repo, batch(["new-1"])[1])
    assert ann.w2w("merge", "org/people#1").status == 0
    assert ann.w2w("release", "org/people").status == 0
    offer(hub, repo, batch(["new-2"], 2)[1])
    assert ann.w2w("merge", "org/people#2").status == 0
    assert ann.w2w("release", "org/people", "--sign", private).status == 0
    assert reader.w2w("verify", "org/people@v1.2.0", "--identity", public).status == 0
    assert "manifest.sig" not in repo.files("v1.1.0")
    assert reader.w2w("verify", "org/people@v1.1.0").status == 0
    assert reader.w2w("verify", "org/people@v1.1.0", "--identity", public).status == 2


@signed
@pytest.mark.slow
def test_a_signature_of_another_manifest_or_none_at_all_is_refused(
    hub: LoopbackHub, client: MakeClient, tmp_path: Path
) -> None:
    private, public = keys(tmp_path, "mine")
    folder, ann = write_crowd(tmp_path / "people"), client("ann", "ann")
    ann.w2w("push", folder, "org/people", "--sign", private)
    repo = hub.repos[("dataset", "org/people")]
    good = hub.blobs[repo.files("main")["manifest.sig"].oid]
    for bad in (b"", b"{}", b"x" * 100_000, good[:-100], json.dumps({"mediaType": 3}).encode()):
        commit(repo, hub, "manifest.sig", bad)
        refused = client("r", None).w2w("verify", "org/people", "--identity", public)
        assert (refused.status, len(refused.stderr.splitlines())) == (2, 1), refused.stderr
    ann.w2w("push", write_crowd(tmp_path / "more", 30, version="1.1.0"), "org/people", "--sign", private)
    commit(repo, hub, "manifest.sig", good)  # of the version before
    assert client("r", None).w2w("verify", "org/people", "--identity", public).status == 2


def test_without_the_extra_the_pip_command_is_told(hub: LoopbackHub, client: MakeClient, tmp_path: Path) -> None:
    key, folder = tmp_path / "key.pem", write_crowd(tmp_path / "people")
    key.write_text("none")
    done = client("ann", "ann").w2w("push", folder, "org/people", "--sign", key)
    assert (done.status, ("pip install" in done.stderr) is not INSTALLED) == (2, True)
    assert ("dataset", "org/people") not in hub.repos
