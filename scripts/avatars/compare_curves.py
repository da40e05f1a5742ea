"""Compare strength curves that the build measures in coefficient space with what the judge saw in pictures.

    python scripts/avatars/compare_curves.py

The pictures are those of the shipped evaluation (`w2w_hub/demo/assets/evaluation.json`): 64 held-out people without
each of 18 attributes, at three strengths. The curves are of a space of the shipped rows, k = 400. Takes a minute.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from w2w_hub import WeightDataset, build_space
from w2w_hub.demo.assets import Assets
from w2w_hub.demo.settings import COMPONENTS, STRENGTHS


def main() -> None:
    assets = Assets()
    evaluation: Any = assets.evaluation
    edits = evaluation["edits"]
    space = build_space(WeightDataset.open(assets.rows), COMPONENTS)
    predicted, seen = [], []
    print(f"at {STRENGTHS}: shown by curve and pictures, others kept by curve (least) and pictures")
    for name, figures in edits.items():
        curve = space.directions[name].curve
        assert curve is not None
        pictures = [figures[f"{strength:g}"] for strength in STRENGTHS]
        ours = [[curve.at(strength)[field] for strength in STRENGTHS] for field in ("shown", "least_kept")]
        theirs = [[p[field] for p in pictures] for field in ("after", "each_other_factor_kept")]
        predicted.append(ours)
        seen.append(theirs)
        typical = "-" if curve.typical is None else f"{curve.typical:.1f}"
        print(f"{name:<12} {typical:>7}  " + "   ".join(" ".join(f"{v:.2f}" for v in row) for row in
              (ours[0], theirs[0], ours[1], theirs[1])))  # fmt: skip
    for i, what in enumerate(("shown", "others kept")):
        a, b = (np.array([row[i] for row in rows]).ravel() for rows in (predicted, seen))
        correlation, error = np.corrcoef(a, b)[0, 1], np.abs(a - b).mean()
        print(f"{what}: correlation {correlation:.2f}, mean absolute difference {error:.2f} ({len(a)} figures)")


if __name__ == "__main__":
    main()
