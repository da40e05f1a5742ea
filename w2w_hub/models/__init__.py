"""What acts on torch models: injection, objectives, inversion, training, pipelines."""
