"""PEFT adapters: ``adapter_config.json`` beside ``adapter_model.safetensors``, also written by weights2weights.

Keys are ``base_model.model.<module>.lora_A.weight``, with the adapter's name before ``.weight`` in files not written by
`save_pretrained`.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..errors import InvalidInputError, MissingPathError, UnsupportedFormatError
from ..lora.adapter import Adapter, LoraFactors, Target
from ..lora.module_paths import canonical_path
from ..store.tensorfile import save_tensors, short
from .assemble import Parts, build_adapter, require_one_adapter
from .checkpoint import CONFIG, Checkpoint, ReadOptions, provenance
from .dialect import FolderUse, WritableDialect
from .names import FactorKey, factor_key, target_of, target_of_bare
from .scales import LoraSettings, Stated, header_settings

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
# substrings of the parameter names that PEFT's methods add
_METHODS = (
    ".lora_", ".hada_", ".lokr_", ".oft_", ".boft_", ".ia3_", ".vera_", ".hra_", ".bone_", ".miss_", ".shira_",
    ".randlora_", ".fourierft_", ".waveft_", ".c3a_", ".road_", ".gralora_", ".ln_tuning_", ".trainable_tokens_",
)  # fmt: skip
# only the second text encoder of SDXL and SD3 has this width
_SECOND_WIDTH = 1280


class Peft(WritableDialect):
    """A folder as `PeftModel.save_pretrained` writes it, or its weights file with the config beside it."""

    name = "peft"
    weights_name = WEIGHTS
    folder_use = FolderUse.ALWAYS
    owns_config = True
    rank_keys = re.compile(r"\.lora_A|(?:lokr|hada)_w[12]_b$")  # also of methods that are not read
    load_hint = "PeftModel.from_pretrained(model, {path!r})"
    single_file = False
    one_component = True

    def matches(self, checkpoint: Checkpoint) -> bool:
        if checkpoint.config is not None and "peft_type" not in checkpoint.config:
            # MLX has an adapter_config.json too
            return not any(key.endswith((".lora_a", ".lora_b")) for key in checkpoint.keys)
        return checkpoint.config is not None or any(
            k.startswith(PREFIX) and any(mark in k for mark in _METHODS) for k in checkpoint.keys
        )

    def read(self, checkpoint: Checkpoint, options: ReadOptions) -> Adapter:
        where, config = checkpoint.where, checkpoint.config
        if config is None:
            _require_lora(checkpoint)
        header = header_settings(checkpoint.metadata, where)
        settings = [header[None]] if None in header else []
        if config is not None:
            settings.insert(0, LoraSettings(config, CONFIG, where))
        if not settings and options.alpha is None:
            if checkpoint.config_note:
                raise MissingPathError(
                    f"{where}: {checkpoint.config_note}, since the folder holds several weights files; move the two "
                    "that belong together to a separate folder, or pass alpha (alpha=, --alpha)"
                )
            raise MissingPathError(
                f"{where}: {CONFIG} is missing, and PEFT has no default for the scale that it states; put it beside "
                "the weights, or pass alpha (alpha=, --alpha)"
            )
        parts = self._sort(checkpoint, options.component or _text_component(checkpoint))
        parts.require_understood()

        def configured(target: Target, rank: int) -> list[Stated]:
            module = parts.keys[target, "A"].partition(".lora_A.")[0].removeprefix(PREFIX)
            return [s.scale(module, rank, options.trust) for s in settings]

        base = (config or {}).get("base_model_name_or_path")
        return build_adapter(
            parts, checkpoint, options, self.name, "PEFT has no default",
            configured=configured, base_model=base if isinstance(base, str) else None,
        )  # fmt: skip

    @staticmethod
    def _sort(checkpoint: Checkpoint, component: str | None) -> Parts:
        parts = Parts(checkpoint.where)
        require_one_adapter({found.adapter for key in checkpoint.keys if (found := _key(key))}, checkpoint.where)
        for key, value in checkpoint.tensors.items():
            found = _key(key)
            if found:
                target = peft_target(found.module, component)
                if target is None:
                    parts.unmapped_keys.append(key)
                    continue
                parts.add(target, found.role, key, value)
            elif key.endswith(".alpha") and (target := peft_target(key.removesuffix(".alpha"), component)):
                parts.add(target, "alpha", key, value)
            elif key.endswith(".lora_B.default.bias"):
                parts.ignored_keys.append(key)
            elif not parts.ignore(key, value, checkpoint):  # modules_to_save and biases
                parts.unknown_keys.append(key)
        return parts

    def write(self, adapter: Adapter, folder: Path) -> None:
        """Write config and weights with the adapter's ranks and alphas; mixed ones go into the patterns.

        A folder holds one component, which only its module paths identify. CLIP's layers are named as in transformers 5
        (`CLIPTextModel` without ``text_model.``, the second text encoder's `CLIPTextModelWithProjection` with it): PEFT
        ignores other spellings with just a warning.
        """
        components = sorted({t.component for t in adapter.factors})
        if len(components) > 1:
            raise InvalidInputError(
                f"a PEFT folder adapts one model, this adapter has {' and '.join(components)}; write them one by one"
            )
        for target, pair in adapter.factors.items():
            wide = target.component == "text_encoder_2" and _SECOND_WIDTH in (pair.inputs, pair.outputs)
            if peft_target(PREFIX + _spelled(target), target.component if wide else None) != target:
                raise InvalidInputError(
                    f"a PEFT folder does not name its model, so {target} would not be read back as a module of "
                    f"{target.component}; write it as diffusers"
                )
        ordered = sorted(adapter.factors.items(), key=lambda item: item[0].sort_key)
        rank, alpha = ordered[0][1].rank, alpha_for(ordered[0][1])
        config = {
            "peft_type": "LORA",
            "task_type": None,
            "base_model_name_or_path": adapter.base_model,
            "r": rank,
            "lora_alpha": alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "use_rslora": False,
            "use_dora": False,
            "init_lora_weights": True,
            "inference_mode": True,
            "rank_pattern": {_spelled(t): p.rank for t, p in ordered if p.rank != rank},
            "alpha_pattern": {_spelled(t): alpha_for(p) for t, p in ordered if alpha_for(p) != alpha},
            "target_modules": [_spelled(t) for t, _ in ordered],
        }
        tensors = {}
        for target, pair in ordered:
            a, b = stored(pair)
            tensors[f"{PREFIX}{_spelled(target)}.lora_A.weight"] = a
            tensors[f"{PREFIX}{_spelled(target)}.lora_B.weight"] = b
        (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", "utf-8")
        save_tensors(tensors, folder / WEIGHTS, metadata={"format": "pt"} | provenance(adapter.metadata))


def _require_lora(checkpoint: Checkpoint) -> None:
    """Raise if keys without a configuration belong to another PEFT method."""
    for key in checkpoint.keys:
        if key.startswith(PREFIX) and any(mark in key for mark in _METHODS[1:]):
            raise UnsupportedFormatError(
                f"{checkpoint.where} is a PEFT adapter of another type than LORA ({short(key, 120)}); only LORA is read"
            )


def _key(key: str) -> FactorKey | None:
    found = factor_key(key)
    return found if found is not None and found.spelling == "lora_AB" else None


@lru_cache(maxsize=8192)
def peft_target(path: str, component: str | None = None) -> Target | None:
    """Return the target of a module path; after PEFT's prefix, a first name like ``transformer.`` is a module."""
    if not path.startswith(PREFIX):
        return target_of(path, component)
    return target_of_bare(path.removeprefix(PREFIX), component)


def _spelled(target: Target) -> str:
    """Return the module path as its class in transformers 5 names it."""
    bare = target.module.removeprefix("text_model.")
    return (
        bare if target.component == "text_encoder" and canonical_path("text_encoder", bare) != bare else target.module
    )


def _text_component(checkpoint: Checkpoint) -> str | None:
    """Return the text encoder of a CLIP adapter, from its configuration's class and its width."""
    mapping = (checkpoint.config or {}).get("auto_mapping")
    model = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    clip = [k for k in checkpoint.keys if ".self_attn." in k and "encoder.layers." in k and ".lora_A" in k]
    if not clip:
        return None
    bare = not any("text_model." in key for key in clip)  # names of transformers 5, but also of other models
    if bare and isinstance(model, str) and not model.startswith("CLIPText"):
        raise UnsupportedFormatError(
            f"{checkpoint.where}: {CONFIG} names a {model[:80]}; such keys are read only for a CLIPTextModel"
        )
    wide = any(checkpoint.shapes[k][1:2] == (_SECOND_WIDTH,) for k in clip)
    return "text_encoder_2" if wide else None


def stored(pair: LoraFactors, b: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return A and B as stored in files: float32, with the axes of a kernel; `b` replaces the pair's B."""
    a, b = pair.A.astype(np.float32, copy=False), (pair.B if b is None else b).astype(np.float32, copy=False)
    if pair.kernel:
        a = a.reshape(pair.rank, pair.inputs, *pair.kernel)
        b = b.reshape(pair.outputs, pair.rank, *(1 for _ in pair.kernel))
    return np.ascontiguousarray(a), np.ascontiguousarray(b)


def alpha_for(pair: LoraFactors) -> float | int:
    """Return the alpha for a module's scale, as an integer if that is exact."""
    alpha = pair.scale * pair.rank
    return round(alpha) if round(alpha) / pair.rank == pair.scale else alpha


PEFT = Peft()
