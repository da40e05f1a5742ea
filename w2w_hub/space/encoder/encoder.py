"""Encoder: predicts the point of a person from one picture, in one forward pass."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...common.arguments import checked
from ...common.display import Displayed
from ...common.limits import MAX_ENCODER_BYTES
from ...errors import BaseModelMismatchError, InvalidInputError, LayoutMismatchError
from ...store.atomic import write_bytes
from ...store.commit import open_state
from ...store.hub.source import Source
from ...store.manifest import ENCODER, SPACE, parse_json, upgraded
from ...store.tensorfile import read_header, read_tensors
from ..population import Spread
from .network import NAMES, forward, reduced
from .stated import NETWORK, corrupt, require_facts, require_shapes

FILE, SUFFIX = "encoder.safetensors", ".safetensors"
FORMAT_VERSION = 1
KEY = "encoder"  # in the metadata: everything besides the tensors
BATCH = 32  # pictures in one forward pass


@dataclass(frozen=True, eq=False, repr=False)
class Encoder(Displayed):
    """Small convolutional network from one picture to coefficients of a weight space.

    It predicts what the picture tells of a point, and the population's mean for the rest: a first guess, from which
    :meth:`w2w_hub.W2WPipeline.invert` needs a tenth of the steps. Two are equal if all of their contents are.

    Attributes
    ----------
    tensors : dict of str to ndarray
        float32 weights by the names of :mod:`.network`; every value is one of float16.
    spread : Spread
        float64 ``(k,)`` mean and standard deviation that turn outputs into coefficients.
    basis_digest : str
        Digest of the coordinates that the coefficients belong to.
    base_digest : str or None
        Digest of the base model's target weights, with which the training pictures were drawn.
    size : (int, int)
        Height and width in pixels of the pictures that it takes.
    factor : int
        Pixels per side that are averaged to one before the network.
    recipe : dict
        How it was fitted: prompts, numbers of pictures and steps, seed, settings of the pipeline, software.
    evidence : dict
        Measured on pictures of points that it was not fitted on, see FORMAT.md.
    """

    tensors: Mapping[str, np.ndarray]
    spread: Spread
    basis_digest: str
    base_digest: str | None
    size: tuple[int, int]
    factor: int
    recipe: Mapping[str, Any] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, Encoder) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    def _facts(self) -> Mapping[str, object]:
        shown = {"pictures": f"{self.size[1]}x{self.size[0]}", "coefficients": self.k, "digest": self.digest[:12]}
        fitted = {"fitted on": f"{self.recipe['pictures']:,} drawn pictures"} if "pictures" in self.recipe else {}
        cosine = self.evidence.get("cosine")
        held_out = {"held-out cosine": cosine} if isinstance(cosine, float) else {}
        return {**shown, **fitted, **held_out, "weight space": self.basis_digest[:12]}

    @property
    def k(self) -> int:
        """Number of coefficients that it predicts, the first of the space's."""
        return len(self.spread.mean)

    @cached_property
    def digest(self) -> str:
        """sha256 of all that the encoder holds."""
        found = hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode())
        for name in NAMES:
            found.update(np.ascontiguousarray(self.tensors[name], np.float16).tobytes())
        for values in (self.spread.mean, self.spread.std):
            found.update(np.ascontiguousarray(values, "<f8").tobytes())
        return found.hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return everything besides the tensors, as plain JSON values."""
        return {
            "basis_digest": self.basis_digest, "base_digest": self.base_digest, "size": list(self.size),
            "factor": self.factor, "recipe": dict(self.recipe), "evidence": dict(self.evidence),
        }  # fmt: skip

    @classmethod
    @checked()
    def load(cls, path: Path | str) -> Encoder:
        """Read a saved encoder; every size is checked before memory is allocated.

        Raises
        ------
        MissingPathError, CorruptFileError, UnsupportedFormatError
        """
        path = Path(path)
        header = read_header(path)
        version = header.metadata.get("format_version", "")
        known = version.isascii() and version.isdigit() and len(version) < 9
        stated = {"format": header.metadata.get("format"), "format_version": int(version) if known else version}
        upgraded(stated, path, ENCODER)
        facts = parse_json(header.metadata.get(KEY, "").encode("utf-8", "surrogatepass"), f"{path}: {KEY}")
        require_facts(facts, path)
        (height, width), factor = facts["size"], facts["factor"]
        require_shapes(header.entries, (height // factor, width // factor), path)
        if header.size > MAX_ENCODER_BYTES:
            raise corrupt(path, f"its tensors have {header.size:,} bytes, the limit is {MAX_ENCODER_BYTES:,}")
        tensors = read_tensors(path, header)
        for name in (*NAMES, "mean", "std"):
            if not np.isfinite(tensors[name]).all() or (name == "std" and (tensors[name] < 0).any()):
                raise corrupt(path, f"{name} has values that are not finite, or a negative deviation")
        return cls(
            tensors={name: tensors[name].astype(np.float32) for name in NAMES},
            spread=Spread(tensors["mean"].copy(), tensors["std"].copy(), facts["rows"]),
            basis_digest=facts["basis_digest"], base_digest=facts["base_digest"], size=(height, width), factor=factor,
            recipe=facts["recipe"], evidence=facts["evidence"],
        )  # fmt: skip

    @checked()
    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write the encoder as a ``.safetensors`` file and return the path.

        Raises
        ------
        InvalidInputError
            For another suffix.
        AlreadyExistsError
            If the file is there and `overwrite` is False.
        """
        path = Path(path)
        if path.suffix != SUFFIX:
            raise InvalidInputError(f"{path}: an encoder is saved as {SUFFIX}; choose this suffix", path=path)
        write_bytes(path, self.to_bytes(), replace=overwrite)
        return path

    def to_bytes(self) -> bytes:
        """Return the contents of its file; the weights as float16."""
        from safetensors.numpy import save

        tensors = {name: np.ascontiguousarray(self.tensors[name], np.float16) for name in NAMES}
        tensors |= {"mean": self.spread.mean.astype(np.float64), "std": self.spread.std.astype(np.float64)}
        facts = json.dumps({"network": NETWORK, "rows": self.spread.rows, **self.to_json()}, allow_nan=False)
        return bytes(save(tensors, {"format": ENCODER, "format_version": str(FORMAT_VERSION), KEY: facts}))

    # ------------------------------------------------------------ use
    def coefficients(self, pictures: Any) -> np.ndarray:
        """Return the coefficients that pictures show, float64 ``(pictures, k)``, one row for each.

        Parameters
        ----------
        pictures : PIL image, path, ndarray, Tensor, or list of them
            Arrays ``(h, w, 3)`` or tensors ``(3, h, w)`` are uint8, or floats in 0 to 1; a further axis is a stack.

        Raises
        ------
        InvalidInputError
            For a picture of another size, and for what is not a picture.
        MissingExtraError
            If Pillow is not installed.
        """
        from ...store.pictures import nested, pixels

        [given], found = nested(pictures, False, 3), []
        for start in range(0, len(given), BATCH):
            part = [pixels(picture, self.size, "this encoder") for picture in given[start : start + BATCH]]
            found.append(forward(self.tensors, reduced(np.stack(part), self.factor)))
        if not found:
            raise InvalidInputError("an encoder needs at least one picture")
        return np.asarray(self.spread.mean + np.concatenate(found).astype(np.float64) * self.spread.std)

    def require_space(self, basis_digest: str, base_digest: str | None) -> None:
        """Raise unless the encoder was fitted for a weight space and a base model of these digests.

        Raises
        ------
        LayoutMismatchError
            For another weight space.
        BaseModelMismatchError
            For another base model, if both are known.
        """
        if self.basis_digest != basis_digest:
            raise LayoutMismatchError(
                f"this encoder belongs to the weight space {self.basis_digest[:12]}, not to {basis_digest[:12]}; fit "
                "one for this space with: w2w fit-encoder"
            )
        if self.base_digest is not None and base_digest is not None and self.base_digest != base_digest:
            raise BaseModelMismatchError(
                f"this encoder was fitted on pictures of the base model {self.base_digest[:12]}, not of "
                f"{base_digest[:12]}; fit one for this base model with: w2w fit-encoder"
            )


def is_encoder(path: Path) -> bool:
    """Return whether a file is a saved encoder, of any version."""
    return path.suffix == SUFFIX and path.is_file() and read_header(path).metadata.get("format") == ENCODER


@dataclass(frozen=True)
class EncoderFile:
    """The encoder in a weight space's folder, which is fetched and read when it is used."""

    source: Source

    def open(self) -> Encoder:
        """Return the encoder.

        Raises
        ------
        MissingPathError, CorruptFileError, UnsupportedFormatError, HubError
        """
        return Encoder.load(open_state(self.source.need([FILE]), SPACE).find(FILE))
