"""MLX adapters of language models: recognized, but not read."""

from __future__ import annotations

from ..errors import UnsupportedFormatError
from ..lora.adapter import Adapter
from .checkpoint import Checkpoint, ReadOptions
from .dialect import Dialect, FolderUse


class Mlx(Dialect):
    """``adapters.safetensors`` or ``.npz`` with lower-case ``lora_a`` ``(in, r)`` and ``lora_b`` ``(r, out)``."""

    name = "mlx"
    weights_name = "adapters.safetensors"
    folder_use = FolderUse.WITH_CONFIG  # one in MLX' own format

    def matches(self, checkpoint: Checkpoint) -> bool:
        return any(key.endswith((".lora_a", ".lora_b")) for key in checkpoint.keys)

    def read(self, checkpoint: Checkpoint, options: ReadOptions) -> Adapter:
        raise UnsupportedFormatError(
            f"{checkpoint.where} is an MLX adapter of a language model: its scale is in the training "
            "configuration, not in the file, and no supported diffusion model has its modules"
        )

    def rank_of(self, key: str, shape: tuple[int, ...]) -> int | None:
        return shape[1] if len(shape) == 2 and key.endswith(".lora_a") else None


MLX = Mlx()
