"""Code that runs torch models: injection, denoising loss, inversion, training, pipelines and pictures."""
