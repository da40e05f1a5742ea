"""The demo is an application: it uses the library as anybody else's code would."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

from w2w_hub import demo

DOCUMENTED = (
    "w2w_hub.dataset",
    "w2w_hub.common.limits",
    "w2w_hub.common.pages",
    "w2w_hub.common.progress",
    "w2w_hub.common.text",
    "w2w_hub.common.version",
    "w2w_hub.errors",
    "w2w_hub.store.atomic",
    "w2w_hub.store.locks",
    "w2w_hub.store.manifest",
    "w2w_hub.store.paths",
    "w2w_hub.store.replacing",
    "w2w_hub.models.pictures",
    "w2w_hub.models.pipelines",
)


def test_the_demo_imports_public_names_only() -> None:
    imported = [
        (path.name, f"w2w_hub.{node.module}", alias.name)
        for path in Path(demo.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level == 2
        for alias in node.names
    ]
    assert len(imported) > 5
    for file, module, name in imported:
        assert module in DOCUMENTED, f"{file} imports {name} from {module}"
        public = getattr(importlib.import_module(module), "__all__", [name])
        assert name in public, f"{file} imports {module}.{name}"
        assert name == "__version__" or not name.startswith("_")
