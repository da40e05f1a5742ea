"""A dataset in the terms of other libraries: Hugging Face datasets, torch, Dask."""
