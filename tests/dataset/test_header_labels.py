"""Labels from the headers of checkpoints, when asked."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from w2w_hub import Adapter, pack_adapters, write_adapter
from w2w_hub.dialects.header_labels import LABELS, LONGEST, labels_of_header

KOHYA = {"ss_steps": "800", "ss_unet_lr": "None", "ss_learning_rate": "1e-4", "ss_sd_model_name": "sd-v1-5.safetensors"}
MODELSPEC = {"modelspec.license": "Apache-2.0", "modelspec.author": "ann", "modelspec.trigger_phrase": "sks"}
ONETRAINER = {"ot_config": json.dumps({"base_model_name": "org/base", "learning_rate": 3e-4, "secrets": {"a": 1}})}


def test_headers_of_three_kinds_say_the_same_things() -> None:
    assert labels_of_header(KOHYA) == {"steps": 800, "learning_rate": 1e-4, "base_model": "sd-v1-5.safetensors"}
    assert labels_of_header(MODELSPEC) == {"licence": "apache-2.0", "source": "ann", "trigger_phrase": "sks"}
    found = labels_of_header(ONETRAINER)
    assert found == {"trained_with": "OneTrainer", "base_model": "org/base", "learning_rate": 3e-4}
    trained = {"w2w.recipe": json.dumps({"prompt": "sks person"})}
    assert labels_of_header(trained) == {"trigger_phrase": "sks person"}
    assert labels_of_header(trained | MODELSPEC)["trigger_phrase"] == "sks"
    assert labels_of_header({"modelspec.license": "free", "ot_config": "{", "ss_steps": "inf"}) == {}


@given(st.dictionaries(st.sampled_from([*KOHYA, *MODELSPEC, *ONETRAINER, "modelspec.title"]), st.text(max_size=1000)))
def test_whatever_a_header_says_is_a_short_printable_text_or_a_positive_number(metadata: dict[str, str]) -> None:
    for label, value in labels_of_header(metadata).items():
        assert label in LABELS
        assert value > 0 if isinstance(value, float) else value.isprintable() and 0 < len(value) <= LONGEST + 3


def test_packing_takes_labels_from_headers_only_when_asked_and_where_the_table_has_none(
    adapter: Adapter, tmp_path: Path
) -> None:
    for name in ("ann", "bob"):
        write_adapter(adapter, tmp_path / "loras" / name, ("kohya",))
        file = next((tmp_path / "loras" / name).iterdir())
        save_file(load_file(file), file.with_name(f"{name}.safetensors"), metadata={**KOHYA, **MODELSPEC})
        file.unlink()
    table = pd.DataFrame({"id": ["ann", "bob"], "steps": [900.0, None], "Beard": [True, False]})
    asked = pack_adapters(tmp_path / "loras", tmp_path / "asked", labels=table, header_labels=True)
    assert asked.labels["steps"].tolist() == [900, 800]
    assert asked.labels["licence"].tolist() == ["apache-2.0"] * 2
    assert asked.labels["trigger_phrase"].tolist() == ["sks"] * 2
    plain = pack_adapters(tmp_path / "loras", tmp_path / "plain", labels=table)
    assert "trigger_phrase" not in plain.labels
