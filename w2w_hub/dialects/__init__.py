"""LoRA checkpoint dialects: one module each, behind one protocol and one registry."""

from __future__ import annotations

from .registry import CheckpointFormat, convert_adapter, detect, read_adapter, read_deltas, write_adapter, writers

__all__ = ["CheckpointFormat", "convert_adapter", "detect", "read_adapter", "read_deltas", "write_adapter", "writers"]
