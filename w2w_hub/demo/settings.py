"""Settings and definitions of figures, shared by the demo and the evaluation of its assets."""

from __future__ import annotations

PROMPT = "sks person"
# fixed (prompt, seed) pairs of all pictures
CASES: tuple[tuple[str, int], ...] = (
    (PROMPT, 1),
    ("sks person smiling red hoodie blue background", 2),
    ("sks person serious white shirt", 3),
)
SAMPLING_STEPS, GUIDANCE = 15, 2.0
COMPONENTS = 400
STRENGTHS: tuple[float, ...] = (3.0, 4.5, 6.0)  # in standard deviations of the population
SUMMARY_STRENGTH = STRENGTHS[1]  # the one that figures are reported at
EDIT_WISH = 0.8  # fraction of pictures in which an edit should show, and leave the rest alone
INVERSION_STEPS, INVERSION_PRIOR = 400, 0.0
EDIT_ATTRIBUTES = ("Sunglasses", "Full_Beard", "Dark_Skin", "Red_Hair", "Wearing_Hat")

DEFINITIONS: dict[str, str] = {
    "identity score": "mean cosine of the pictures' judge embeddings to the normalized mean embedding of the person's "
    "real pictures; real pictures are scored against the mean of the others (leave one out), strangers against "
    "somebody else's",
    "relative score": "(score - strangers) / (real - strangers): 1 is as good as real pictures, "
    "0 no better than a stranger's",
    "push, set": "a push adds the same step along an attribute's direction to everybody; a set adds the difference "
    "between the population's mean with the attribute and with the person's own, times the weight space's own factor",
    "before, after": "fraction of pictures in which the judge sees the attribute, over people without it",
    "reached": f"attributes that are seen in at least {EDIT_WISH:g} of the pictures, with each of the other factors "
    f"kept in at least {EDIT_WISH:g}",
    "seen and all kept": "fraction of pictures in which the attribute is seen and all other factors are kept",
    "same person": "mean cosine of the judge's embeddings of one person's pictures under the prompts to each other; of "
    "different people, the same between them",
    "others kept": "fraction of the other identity factors (top, hair color, skin, facial hair, glasses) that the "
    "judge reads as before; a hair color that cannot be seen counts as kept",
    "least kept": "the same for the factor that is kept least",
    "label prior": "fraction of the fitted people with the attribute: what a random identity would show",
    "mean only": "the population's mean for everybody: the score without knowing the person",
    "nearest-neighbour cosine": "largest cosine of a sample's coefficients to a fitted row's: near 1 would be a copy",
    "export difference": "largest absolute difference per pixel (0-1) between the pipeline's picture and that of "
    "stock diffusers or PEFT with the exported files",
}
