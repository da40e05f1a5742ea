"""What runs torch models: injection, the denoising loss, inversion, training, pipelines and pictures."""
