"""Encoders: from one picture to a point, in NumPy."""
