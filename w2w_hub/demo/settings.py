"""Settings and definitions of figures that the demo and the evaluation of its assets share."""

from __future__ import annotations

PROMPT = "sks person"
# the fixed (prompt, seed) pairs under which every picture is drawn
CASES: tuple[tuple[str, int], ...] = (
    (PROMPT, 1),
    ("sks person smiling red hoodie blue background", 2),
    ("sks person serious white shirt", 3),
)
SAMPLING_STEPS, GUIDANCE = 15, 2.0
COMPONENTS = 400
STRENGTHS: tuple[float, ...] = (3.0, 4.5, 6.0)  # standard deviations; figures are of the middle one
EDIT_WISH = 0.8  # share of pictures in which an edit should show, and leave the rest alone
INVERSION_STEPS, INVERSION_PRIOR = 400, 0.0
EDIT_ATTRIBUTES = ("Sunglasses", "Full_Beard", "Dark_Skin", "Wearing_Hat", "Gray_Hair")

DEFINITIONS: dict[str, str] = {
    "identity score": "mean cosine of the pictures' judge embeddings to the normalised mean embedding of the person's "
    "real pictures; real pictures are scored against the mean of the others (leave one out), strangers against "
    "somebody else's",
    "relative score": "(score - strangers) / (real - strangers): 1 is as good as real pictures, "
    "0 no better than a stranger's",
    "before, after": "share of pictures in which the judge sees the attribute, over people who have it not",
    "others kept": "share of the other identity factors (top, hair colour, skin, facial hair, glasses) that the judge "
    "reads as before; a hair colour that cannot be seen counts as kept",
    "label prior": "share of the fitted people who have the attribute: what a random identity would show",
    "mean only": "everybody drawn as the population's mean: what is reached without knowing the person",
    "nearest-neighbour cosine": "largest cosine of a sample's coefficients to a fitted row's: near 1 would be a copy",
    "export difference": "largest absolute difference of a pixel (0-1) between the pipeline's picture and the one that "
    "stock diffusers or PEFT draws from the exported files",
}
