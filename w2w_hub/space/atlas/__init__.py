"""The people of a weight space as a map: a Parquet file for viewers of embeddings, and one HTML page."""

from .atlas import Atlas, make_atlas

__all__ = ["Atlas", "make_atlas"]
