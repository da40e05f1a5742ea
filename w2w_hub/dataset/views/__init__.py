"""A dataset for other libraries: datasets, torch."""
