"""Adapters from datasets to other libraries: Hugging Face datasets, torch and Dask."""
