"""Computes the demo's figures from pictures with the judge."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from .assets import Assets
from .judge import Judge, identity_score, real_score

if TYPE_CHECKING:
    import pandas as pd


def tensor(pictures: np.ndarray) -> torch.Tensor:
    """Return pictures ``(..., h, w, 3)`` as a tensor ``(n, 3, h, w)``."""
    return torch.from_numpy(np.ascontiguousarray(pictures.reshape(-1, *pictures.shape[-3:]))).permute(0, 3, 1, 2)


def read_avatars(pictures: np.ndarray) -> dict[str, np.ndarray]:
    """Return which attributes pictures ``(n, 64, 64, 3)`` of avatars show, by the shipped judge: booleans ``(n,)``.

    A judge for :func:`w2w_hub.models.calibration.calibrate` and ``w2w calibrate --judge``.
    """
    return {name: shown.numpy() for name, shown in _shipped_judge().read_attributes(tensor(pictures)).items()}


@lru_cache(1)
def _shipped_judge() -> Judge:
    return Judge.load(Assets().judge)


class IdentityScorer:
    """Scores generated pictures against people's real pictures.

    Parameters
    ----------
    real : dict of str to ndarray
        Person to pictures ``(pictures, h, w, 3)``.
    """

    def __init__(self, judge: Judge, real: Mapping[str, np.ndarray]):
        self.judge = judge
        self.real = {person: judge.embed(tensor(pictures)) for person, pictures in real.items()}
        people = list(self.real)
        self.real_id_score = float(np.mean([real_score(self.real[p]).mean().item() for p in people]))
        pairs = zip(people, people[1:] + people[:1], strict=True)
        cross = [identity_score(self.real[a], self.real[b]).mean().item() for a, b in pairs]
        self.cross_id_score = float(np.mean(cross))

    def id_score(self, pictures: np.ndarray, people: list[str]) -> float:
        """Return the mean identity score of ``(people, cases, h, w, 3)``."""
        embedded = self.judge.embed(tensor(pictures)).view(*pictures.shape[:2], -1)
        scores = [identity_score(e, self.real[p]).mean().item() for e, p in zip(embedded, people, strict=True)]
        return float(np.mean(scores))

    def relative(self, score: float) -> float:
        """Return (score - strangers) / (real - strangers)."""
        return (score - self.cross_id_score) / (self.real_id_score - self.cross_id_score)


def able_to_gain(judge: Judge, labels: pd.DataFrame, attribute: str) -> list[str]:
    """Return the people without an attribute who could show it; gray hair, for one, needs hair.

    `labels` has a column for the attribute and for each of the world's factors, and is indexed by person.
    """
    able = labels[~labels[attribute].fillna(True).astype(bool)]
    _, *needed = judge.attributes[attribute].items()
    for factor, options in needed:
        able = able[able[factor].isin(options)]
    return list(able.index)


def attribute_shown(judge: Judge, pictures: np.ndarray, attribute: str) -> np.ndarray:
    """Return a boolean mask ``(...)`` of the pictures ``(..., h, w, 3)`` that show the attribute."""
    result: np.ndarray = judge.read_attributes(tensor(pictures))[attribute].numpy().reshape(pictures.shape[:-3])
    return result


def kept_factors(judge: Judge, before: np.ndarray, after: np.ndarray, attribute: str) -> np.ndarray:
    """Return a boolean mask ``(factors, ...)`` of the factors other than the attribute's that the edit kept.

    A hair color that is not visible, before or after, counts as kept.
    """
    own = next(iter(judge.attributes[attribute]))
    first, second = ({k: p.argmax(1) for k, p in judge.read(tensor(x)).items()} for x in (before, after))
    hairstyles = judge.attributes_of("hair_color", "top")
    kept = []
    for factor in judge.factors:
        if factor == own:
            continue
        same = first[factor] == second[factor]
        if factor == "hair_color" and hairstyles:
            shown = torch.tensor([option in hairstyles for option in judge.factors["top"]])
            same |= ~(shown[first["top"]] & shown[second["top"]])
        kept.append(same.numpy().reshape(before.shape[:-3]))
    return np.stack(kept)


def others_kept(judge: Judge, before: np.ndarray, after: np.ndarray, attribute: str) -> np.ndarray:
    """Return the fraction of :func:`kept_factors` per picture."""
    result: np.ndarray = kept_factors(judge, before, after, attribute).mean(0)
    return result


def edit_figures(judge: Judge, before: np.ndarray, after: np.ndarray, attribute: str) -> dict[str, float]:
    """Return what an edit reaches, of pictures ``(people, cases, h, w, 3)`` before and after it.

    `before` and `after` are fractions of pictures with the attribute, `other_attributes_kept` the mean over the other
    factors, `each_other_factor_kept` the smallest of them, and `seen_and_all_kept` both in one picture.
    """
    seen, kept = attribute_shown(judge, after, attribute), kept_factors(judge, before, after, attribute)
    return {
        "before": float(attribute_shown(judge, before, attribute).mean()),
        "after": float(seen.mean()),
        "other_attributes_kept": float(kept.mean()),
        "each_other_factor_kept": float(kept.reshape(len(kept), -1).mean(1).min()),
        "seen_and_all_kept": float((seen & kept.all(0)).mean()),
    }


def holds(judge: Judge, before: np.ndarray, after: np.ndarray, attribute: str) -> np.ndarray:
    """Return which pictures ``(...)`` show the attribute, did not before, and show all other factors as before."""
    seen, had = (attribute_shown(judge, pictures, attribute) for pictures in (after, before))
    result: np.ndarray = seen & ~had & kept_factors(judge, before, after, attribute).all(0)
    return result


def same_person(judge: Judge, pictures: np.ndarray) -> tuple[float, float]:
    """Return how alike pictures ``(people, cases, h, w, 3)`` of one person are, and how alike those of different ones.

    Both are mean cosines of embeddings.
    """
    people, cases = pictures.shape[:2]
    embedded = judge.embed(tensor(pictures)).numpy().astype(np.float64).reshape(people * cases, -1)
    cosines, person = embedded @ embedded.T, np.repeat(np.arange(people), cases)
    same, itself = person[:, None] == person, np.eye(len(person), dtype=bool)
    return float(cosines[same & ~itself].mean()), float(cosines[~same].mean()) if people > 1 else 0.0
