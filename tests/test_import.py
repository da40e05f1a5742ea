from __future__ import annotations

import subprocess
import sys

import pytest

import w2w_hub


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_importing_the_package_brings_no_heavy_library() -> None:
    heavy = {"torch", "diffusers", "transformers", "datasets", "zarr", "pandas", "sklearn", "scipy", "pyarrow", "numpy"}
    assert not heavy & modules_after("import w2w_hub")


def test_datasets_and_spaces_are_used_without_torch_or_diffusers() -> None:
    loaded = modules_after("import w2w_hub; w2w_hub.WeightDataset; w2w_hub.build_space; w2w_hub.read_adapter")
    assert not {"torch", "diffusers"} & loaded


def test_a_part_of_the_package_loads_what_is_used_of_it_only() -> None:
    for part in ("space", "dataset", "dialects"):
        assert "numpy" not in modules_after(f"import w2w_hub.{part}"), part
    loaded = modules_after("import w2w_hub; w2w_hub.WeightSpace; w2w_hub.WeightDataset")
    assert not {"asyncio", "pandas", "pyarrow", "sklearn", "w2w_hub.dataset.changes.add"} & loaded


def test_a_module_of_a_part_is_an_attribute_before_it_is_imported() -> None:
    code = "import w2w_hub; w2w_hub.space.points.save_point; w2w_hub.dataset.integrity; w2w_hub.dialects.reading"
    assert {"w2w_hub.space.points", "w2w_hub.dataset.integrity"} <= modules_after(code)


def test_the_command_lines_help_brings_no_heavy_library() -> None:
    assert not {"torch", "diffusers", "zarr", "pandas"} & modules_after("import w2w_hub.cli")


def test_every_public_name_can_be_imported() -> None:
    assert w2w_hub.__all__ == sorted(w2w_hub.__all__)
    for name in w2w_hub.__all__:
        assert getattr(w2w_hub, name).__doc__


MOVED = {
    "adapter": "lora.adapter", "formats": "dialects", "formats.peft": "dialects.peft", "layout": "lora.layout",
    "pictures": "models.pictures", "hub.publish": "release.publish", "injection.rows": "models.injection.rows",
}  # fmt: skip


@pytest.mark.slow
def test_a_module_path_of_the_last_release_gives_the_module_that_is_there_now() -> None:
    pytest.importorskip("torch")
    code = f"""
import importlib, warnings
for old, new in {MOVED}.items():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module = importlib.import_module(f"w2w_hub.{{old}}")
    found = [str(w.message) for w in caught if issubclass(w.category, DeprecationWarning)]
    assert any(f"w2w_hub.{{new}}" in message for message in found), (old, found)
    assert module is importlib.import_module(f"w2w_hub.{{new}}"), old
"""
    subprocess.run([sys.executable, "-c", code], check=True)
