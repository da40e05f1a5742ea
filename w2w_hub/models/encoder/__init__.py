"""Fits encoders: networks that guess a person's point from one picture, see :mod:`w2w_hub.space.encoder`."""

from ...space.encoder.encoder import Encoder
from .fit import fit_encoder
from .settings import EncoderSettings

__all__ = ["Encoder", "EncoderSettings", "fit_encoder"]
