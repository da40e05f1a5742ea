"""Write FIDELITY.md from what the recipe measured: `python scripts/fidelity.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from w2w_hub.demo.assets import FOLDER  # noqa: E402
from w2w_hub.demo.report import edits_reached, measured_on, wished_beside_reached  # noqa: E402
from w2w_hub.demo.settings import DEFINITIONS, EDIT_WISH  # noqa: E402


def table(header: list[str], rows: list[list[Any]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for row in rows:
        cells = [f"{value:.3f}" if isinstance(value, float) else str(value) for value in row]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def main() -> None:
    """Render the page."""
    evaluation = json.loads((FOLDER / "evaluation.json").read_text())
    recipe = json.loads((FOLDER / "recipe.json").read_text())
    setting, config = evaluation["setting"], recipe["config"]
    edit_setting = evaluation["edit_setting"]
    lines = [
        "# Fidelity of the shipped population",
        "",
        "How well the avatars world does what the paper's does. Measured by "
        f"`python scripts/avatars/recipe.py --config {config['name']} --work work evaluate` "
        f"on {measured_on(evaluation)}, written by `python scripts/fidelity.py`; the raw figures are in "
        "`w2w_hub/demo/assets/evaluation.json`.",
        "",
        f"{setting['fitted_rows']:,} people fitted, {evaluation['scale']['held_out_people']} held out of everything "
        f"that is fitted, {setting['components']} components, pictures under {len(setting['cases'])} fixed "
        "(prompt, seed) pairs.",
        "",
        "## Wished and reached",
        "",
        *table(["figure", "wished", "reached", ""], [list(row) for row in wished_beside_reached(evaluation)]),
        "Floors: everybody drawn as the population's mean has a relative score of "
        f"{evaluation['reconstruction']['mean_only']['relative_score']:.3f}; held-out people projected into the space "
        f"reach {evaluation['reconstruction']['projected']['relative_score']:.3f}.",
        "",
        "## Attributes",
        "",
        "Reading: AUC on held-out people. Editing: held-out people without the attribute; the share of pictures "
        f"that show it before and after, and in which the other factors stay. Wished: after >= {EDIT_WISH:g}, others "
        f"kept >= {EDIT_WISH:g}, at one strength for all.",
        "",
        "Edits are measured on what is shipped, by `python scripts/avatars/shipped_edits.py` on "
        f"{edit_setting['machine']}: {edit_setting['fitted_rows']:,} of the people fitted, "
        f"{edit_setting['held_out_people']} held out, {edit_setting['components']} components; the middle strength "
        "under all pairs, the others under the first.",
        "",
    ]
    strengths = [key for key in next(iter(evaluation["edits"].values())) if key != "people"]
    for strength in strengths:
        rows, met = [], edits_reached(evaluation["edits"], strength)
        for name, edit in evaluation["edits"].items():
            figures, reading = edit[strength], evaluation["reading"][name]
            rows.append(
                [name, reading["auc"], reading["positives"], edit["people"], figures["before"], figures["after"],
                 figures["each_other_factor_kept"], figures["all_other_factors_kept"],
                 "reached" if name in met else "missed"]
            )  # fmt: skip
        header = [
            "attribute",
            "AUC",
            "label prior",
            "people",
            "before",
            "after",
            "each other kept",
            "all others kept",
            "",
        ]
        lines += [f"### +{strength} sd: {len(met)} of {len(rows)} reached", "", *table(header, rows)]
    lines += [
        "## Sampling",
        "",
        *table(["figure", "value"], [[k.replace("_", " "), v] for k, v in evaluation["samples"].items()]),
    ]
    stages = [[name, stage["machine"], stage["minutes"]] for name, stage in recipe["stages"].items()]
    lines += ["## How it was made", "", *table(["stage", "machine", "minutes"], stages)]
    notes = ROOT / "scripts" / "avatars" / "NOTES.md"
    if notes.exists():
        lines += [notes.read_text().strip(), ""]
    lines += ["## Definitions", "", *(f"- *{name}*: {text}." for name, text in DEFINITIONS.items()), ""]
    (ROOT / "FIDELITY.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
