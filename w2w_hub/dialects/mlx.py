"""MLX adapters of language models: recognised, and refused with the reason."""

from __future__ import annotations

from ..errors import UnsupportedFormatError
from ..lora.adapter import Adapter
from .checkpoint import Checkpoint, ReadOptions


class MlxFormat:
    """``adapters.safetensors`` or ``.npz`` with lower-case ``lora_a`` ``(in, r)`` and ``lora_b`` ``(r, out)``."""

    name = "mlx"

    def matches(self, checkpoint: Checkpoint) -> bool:
        return any(key.endswith((".lora_a", ".lora_b")) for key in checkpoint.keys)

    def read(self, checkpoint: Checkpoint, options: ReadOptions) -> Adapter:
        raise UnsupportedFormatError(
            f"{checkpoint.where} is an MLX adapter of a language model: its scale stands in the training "
            "configuration, not in the file, and no diffusion model here has its modules"
        )


MLX = MlxFormat()
