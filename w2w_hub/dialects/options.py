"""Check that PEFT's configuration options leave dW = ``scale * B @ A``, and parse JSON of bounded size.

An option that is on and not listed here is an error: in a later PEFT it may change the meaning of the tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..common.limits import MAX_CONFIG_BYTES, MAX_CONFIG_VALUES
from ..errors import CorruptFileError, UnsupportedFormatError
from ..store.manifest import count_values
from ..store.paths import short

# options that do not change the meaning of the tensors
HARMLESS = frozenset({
    # the adapted modules and model
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision", "task_type",
    "exclude_modules", "layers_pattern", "layers_to_transform", "modules_to_save", "target_modules",
    # the scale, read by LoraSettings
    "alpha_pattern", "lora_alpha", "r", "rank_pattern", "use_rslora",
    # training; the initialization is checked by init_lora_weights alone
    "corda_config", "ensure_weight_tying", "eva_config", "init_lora_weights", "loftq_config", "lora_dropout",
    "lora_ga_config", "runtime_config", "velora_config",
    # values without meaning unless another option is on
    "megatron_core", "qalora_group_size",
    # biases, listed in ignored_keys
    "bias", "lora_bias",
})  # fmt: skip
# options with which dW is not scale * B @ A on the stock base model, and the reason
REFUSED = {
    "alora_invocation_tokens": "it acts only after certain tokens",
    "arrow_config": "it chooses among several adapters for every token",
    "fan_in_fan_out": "its factors belong to transposed weights",
    "kasa_config": "it truncates the base weights and has a diagonal between its factors",
    "layer_replication": "it repeats layers of the base model",
    "megatron_config": "its factors may be shards of parallel layers",
    "monteclora_config": "it samples its weights",
    "target_parameters": "it adapts parameters that are not a module's weight",
    "trainable_token_indices": "it changes rows of the token embedding too",
    "use_bdlora": "its factors are block-diagonal and stored as their blocks",
    "use_dora": "its magnitudes rescale the base weights",
    "use_qalora": "its A is pooled over groups of inputs",
}
# initializations that keep the base weights; PiSSA, OLoRA and others change them
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva", "mica")


def require_plain(data: Mapping[str, Any], where: str) -> None:
    """Raise `UnsupportedFormatError` if an option is unknown or means that dW is not ``scale * B @ A``.

    Parameters
    ----------
    data : mapping
        A PEFT configuration; its ``peft_type`` has been checked.
    where : str
        The file and field, for messages.
    """
    for option, reason in REFUSED.items():
        if data.get(option):
            raise UnsupportedFormatError(f"{where} sets {option}: {reason}, so dW is not scale * B @ A")
    start = data.get("init_lora_weights")
    if not any(start is plain or (isinstance(start, str) and start == plain) for plain in _PLAIN_STARTS):
        raise UnsupportedFormatError(
            f"{where} has init_lora_weights {short(start)}, which changes the base weights; "
            "convert it with PEFT's path_initial_model_for_weight_conversion"
        )
    unknown = [name for name, value in data.items() if name not in HARMLESS and name not in REFUSED and value]
    if unknown:
        raise UnsupportedFormatError(
            f"{where} sets {short(unknown[0])}, an unknown option that may change the meaning of the tensors"
        )


def article(word: str) -> str:
    """Return a method's abbreviation with the indefinite article that fits its pronunciation."""
    return f"{'an' if word[:1] in 'AEIO' or word.startswith(('HR', 'LN', 'X')) else 'a'} {word}"


def parse_object(text: str | bytes, what: str) -> dict[str, Any]:
    """Return the JSON object of a configuration; its size is checked before it is parsed.

    Raises
    ------
    CorruptFileError
        The message starts with `what`.
    """
    size = len(text)
    if size > MAX_CONFIG_BYTES:
        raise CorruptFileError(f"{what} has {size:,} bytes, the limit is {MAX_CONFIG_BYTES:,}; fetch it again")
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    values = count_values(raw)
    if values > MAX_CONFIG_VALUES:
        raise CorruptFileError(f"{what} holds {values:,} values, the limit is {MAX_CONFIG_VALUES:,}; fetch it again")
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{what} is not valid JSON ({error}); fetch it again") from error
    if not isinstance(found, dict):
        raise CorruptFileError(f"{what} holds a JSON {type(found).__name__}, expected an object; fetch it again")
    return found
