"""Sign the manifest of a published version, and verify the signature, by OpenSSF model signing with a key.

The signature is ``manifest.sig``, beside the manifest that it is of. Through the digests in the manifest it vouches for
all files. Neither signing nor verifying makes a request.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..common.checks import require_path
from ..common.extras import optional_imports
from ..errors import MissingPathError, SignatureError
from ..store.manifest import FILENAME as MANIFEST
from ..store.paths import read_regular

FILENAME = "manifest.sig"
MAX_SIGNATURE_BYTES, MAX_KEY_BYTES = 64 * 1024, 64 * 1024


def sign_manifest(manifest: bytes, key: Path | str) -> bytes:
    """Return the signature of the bytes of a manifest.

    Parameters
    ----------
    key : path
        A private key, of an elliptic curve, in PEM.

    Raises
    ------
    SignatureError
        If the key cannot be used.
    MissingPathError, MissingExtraError
    """
    path = _key(key)
    with optional_imports("sign"):
        import OpenSSL  # noqa: F401, which model_signing needs and does not state
        from model_signing import hashing, signing
    wrong = f"{path} cannot sign; give a private key of an elliptic curve (PEM)"
    with (
        _folder_of(manifest) as folder,
        _as_signature_error(wrong, path),
    ):
        config = signing.Config().use_elliptic_key_signer(private_key=str(path))
        made = folder.with_name("made.sig")
        config.set_hashing_config(hashing.Config()).sign(str(folder), str(made))
        return made.read_bytes()


def verify_manifest(manifest: bytes, signature: bytes, key: Path | str, where: object) -> None:
    """Raise unless a signature is of these bytes and was made with the private key of a public one.

    Parameters
    ----------
    key : path
        The public key in PEM.
    where : object
        What is verified, in messages.

    Raises
    ------
    SignatureError
    """
    path = _key(key)
    with optional_imports("sign"):
        import OpenSSL  # noqa: F401
        from model_signing import hashing, verifying
    wrong = (
        f"{where}: {FILENAME} is not a signature of this manifest with the key {path}; do not use it, or check the key"
    )
    with _folder_of(manifest) as folder, _as_signature_error(wrong, path):
        given = folder.with_name("given.sig")
        given.write_bytes(signature)
        config = verifying.Config().use_elliptic_key_verifier(public_key=str(path))
        config.set_hashing_config(hashing.Config()).verify(str(folder), str(given))


def _key(path: Path | str) -> Path:
    """Return the path of a key file; raise if it cannot be read or is too large for one."""
    found = require_path(path, "the key")
    if not found.is_file():
        raise MissingPathError(f"{found} does not exist; give the file of a key in PEM", path=found)
    read_regular(found, MAX_KEY_BYTES)
    return found


@contextmanager
def _folder_of(manifest: bytes) -> Iterator[Path]:
    """Yield a folder that holds nothing but a manifest."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "signed"
        folder.mkdir()
        (folder / MANIFEST).write_bytes(manifest)
        yield folder


@contextmanager
def _as_signature_error(what: str, path: Path) -> Iterator[None]:
    """Turn what the library raises, and what it logs, into one typed line."""
    logger: Any = logging.getLogger("model_signing")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    except Exception as error:
        raise SignatureError(what, path=path) from error
    finally:
        logger.disabled = before


__all__ = ["FILENAME", "sign_manifest", "verify_manifest"]
