"""Names of stock diffusers pipelines and of this package's pipelines that replace them.

Strings only, so that a card can name a class without importing torch; :mod:`w2w_hub.models.pipelines` has the classes.
"""

from __future__ import annotations

from dataclasses import dataclass

TEXT_TO_IMAGE, IMAGE_TO_IMAGE, INPAINTING = "text-to-image", "image-to-image", "inpainting"


@dataclass(frozen=True)
class PipelineRow:
    """A stock pipeline class and the class here that generates pictures of identities in its place.

    Attributes
    ----------
    stock : str
        The class's name in diffusers, which a base model's ``model_index.json`` states.
    name : str
        The class's name in ``w2w_hub.models.pipelines``.
    family : str
        Pipelines of one family run on the same base models: the module in which their classes are.
    task : str
        Text-to-image, image-to-image or inpainting.
    """

    stock: str
    name: str
    family: str
    task: str


# add a model family here, and its classes as models/pipelines/FAMILY.py; text-to-image comes first
PIPELINES = (
    PipelineRow("StableDiffusionPipeline", "W2WPipeline", "stable_diffusion", TEXT_TO_IMAGE),
    PipelineRow(
        "StableDiffusionImg2ImgPipeline", "W2WStableDiffusionImg2ImgPipeline", "stable_diffusion", IMAGE_TO_IMAGE
    ),
    PipelineRow("StableDiffusionInpaintPipeline", "W2WStableDiffusionInpaintPipeline", "stable_diffusion", INPAINTING),
)


def pipeline_row(stock: str) -> PipelineRow | None:
    """Return the row of a stock class, by its name in diffusers; None if the table has no such row."""
    return next((row for row in PIPELINES if row.stock == stock), None)


def family_of(stock: str) -> tuple[PipelineRow, ...]:
    """Return the rows of all pipelines that run on a stock class's base models, text-to-image first."""
    found = pipeline_row(stock)
    return () if found is None else tuple(row for row in PIPELINES if row.family == found.family)


def text_to_image_row(stock: str | None) -> PipelineRow:
    """Return the text-to-image row of a stock class's family; the table's first if the family is unknown."""
    rows = family_of(stock or "")
    return rows[0] if rows else PIPELINES[0]
