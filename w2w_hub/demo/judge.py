"""The judge: a small network that classifies attributes and embeds identities of the avatars.

It only evaluates pictures; no model, space or direction is fitted with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn


class Judge(nn.Module):
    """Convolutional network on 64x64 pictures: one softmax per factor over a shared embedding.

    Parameters
    ----------
    factors : dict of str to sequence of str
        Factor name (``"top"``, ``"hair_color"``, ...) to its options, in label order.
    attributes : dict
        Binary attribute to its options by factor; a picture shows it if all these factors agree.
    width : int
        Channels of the first stage.
    """

    def __init__(
        self,
        factors: Mapping[str, Sequence[str]],
        attributes: Mapping[str, Mapping[str, Sequence[str]]],
        width: int = 24,
        embedding: int = 128,
    ):
        super().__init__()
        self.factors = {name: tuple(options) for name, options in factors.items()}
        self.attributes = {name: {f: tuple(o) for f, o in rule.items()} for name, rule in attributes.items()}
        self.width, self.embedding = width, embedding

        def stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.SiLU()
            )

        self.features = nn.Sequential(
            stage(3, width, 2), stage(width, 2 * width, 2), stage(2 * width, 2 * width, 1),
            stage(2 * width, 4 * width, 2), stage(4 * width, 4 * width, 2),
            nn.Flatten(), nn.Linear(4 * width * 16, embedding),
        )  # fmt: skip
        self.heads = nn.ModuleList(nn.Linear(embedding, len(options)) for options in self.factors.values())

    def forward(self, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return logits per factor, each ``(n, options)``, and embeddings ``(n, 128)``.

        `images` is float ``(n, 3, 64, 64)`` in [-1, 1].
        """
        embedded = self.features(images)
        return [head(embedded) for head in self.heads], embedded

    @torch.no_grad()
    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Return unit-length identity embeddings ``(n, 128)`` of float images in [0, 1], ``(n, 3, 64, 64)``."""
        return F.normalize(torch.cat([self(part * 2 - 1)[1] for part in images.split(256)]), dim=1)

    @torch.no_grad()
    def read(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return probabilities per factor, each ``(n, options)``, for float images in [0, 1]."""
        parts = [self(part * 2 - 1)[0] for part in images.split(256)]
        return {name: torch.cat([part[j] for part in parts]).softmax(1) for j, name in enumerate(self.factors)}

    def read_attributes(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return per attribute a boolean mask ``(n,)`` of pictures that show it, by the likeliest options."""
        likeliest = {name: p.argmax(1) for name, p in self.read(images).items()}
        found = {}
        for name, rule in self.attributes.items():
            shown = torch.ones(len(images), dtype=torch.bool, device=images.device)
            for factor, options in rule.items():
                counting = torch.tensor([o in options for o in self.factors[factor]], device=images.device)
                shown &= counting[likeliest[factor]]
            found[name] = shown
        return found

    def attributes_of(self, first: str, second: str) -> frozenset[str]:
        """Return the options of factor `second` under which `first` is visible, from attributes that name both."""
        rules = [rule for rule in self.attributes.values() if first in rule and second in rule]
        return frozenset(option for rule in rules for option in rule[second])

    def save(self, path: Path | str) -> None:
        """Write weights (float16) and options to one safetensors file."""
        header = {
            "factors": json.dumps(self.factors), "attributes": json.dumps(self.attributes),
            "width": str(self.width), "embedding": str(self.embedding),
        }  # fmt: skip
        state = {k: v.half() if v.is_floating_point() else v for k, v in self.state_dict().items()}
        save_file({k: v.contiguous() for k, v in state.items()}, path, metadata=header)

    @classmethod
    def load(cls, path: Path | str) -> Judge:
        """Return the judge in a file of :meth:`save`, float32 and in evaluation mode."""
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
        factors, attributes = json.loads(header["factors"]), json.loads(header["attributes"])
        judge = cls(factors, attributes, int(header["width"]), int(header["embedding"]))
        judge.load_state_dict(load_file(path))
        result: Judge = judge.float().eval().requires_grad_(False)
        return result


def identity_score(embeddings: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Return each picture's score: its cosine to the normalized mean embedding of the person's real pictures.

    Parameters
    ----------
    embeddings : Tensor
        ``(pictures, e)`` unit-length embeddings of the pictures to score.
    real : Tensor
        ``(real pictures, e)`` unit-length embeddings of the person's real pictures.
    """
    return embeddings @ F.normalize(real.mean(0), dim=0)


def real_score(real: torch.Tensor) -> torch.Tensor:
    """Return the same score of real pictures, each against the mean of the person's others (leave one out)."""
    others = (real.sum(0, keepdim=True) - real) / (len(real) - 1)
    return (real * F.normalize(others, dim=1)).sum(1)
