"""A loopback Hub for each test, and scripts that use it through the real clients in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .loopback import LoopbackHub

HEAD = """
import json, os, sys, warnings
from pathlib import Path
def out(**values):
    print("RESULT " + json.dumps(values, default=str), flush=True)
def refused(function, *args, **options):
    from w2w_hub import W2WError
    try:
        function(*args, **options)
    except W2WError as error:
        return [type(error).__name__, str(error)]
    return ["nothing raised", ""]
"""


class Client:
    """Somebody's machine: a home with a cache, a token, and scripts run there.

    The clients read their environment when they are imported, so that every script is a process of its own.
    """

    def __init__(self, hub: LoopbackHub, home: Path, token: str | None = None):
        self.hub, self.home, self.token = hub, home, token
        self.extra: dict[str, str] = {}
        self.spoken = ""  # all that scripts wrote, to be searched for secrets
        home.mkdir(parents=True, exist_ok=True)

    @property
    def cache(self) -> Path:
        return self.home / "hf" / "hub"

    def environment(self, **extra: str) -> dict[str, str]:
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING")) and "proxy" not in k.lower()
        }
        return {
            **kept,
            "HOME": str(self.home),
            "HF_HOME": str(self.home / "hf"),
            "HF_ENDPOINT": self.hub.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "NO_PROXY": "127.0.0.1,localhost",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            **({"HF_TOKEN": self.token} if self.token else {}),
            **self.extra,
            **extra,
        }

    def start(self, script: str, *arguments: Any, **extra: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", HEAD + textwrap.dedent(script), *map(str, arguments)],
            env=self.environment(**extra), cwd=self.home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def finish(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """The values that a script gave to `out`."""
        stdout, stderr = process.communicate(timeout=120)
        self.spoken += stdout + stderr
        assert process.returncode == 0, stderr[-4000:]
        found: dict[str, Any] = {"stderr": stderr}
        for line in stdout.splitlines():
            if line.startswith("RESULT "):
                found |= json.loads(line[7:])
        return found

    def run(self, script: str, *arguments: Any, **extra: str) -> dict[str, Any]:
        return self.finish(self.start(script, *arguments, **extra))

    def w2w(self, *words: Any, **extra: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-c", "from w2w_hub.cli import main; main()", *map(str, words)],
            env=self.environment(**extra), cwd=self.home, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        self.spoken += done.stdout + done.stderr
        return done


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as started:
        started.user("ann", org="write", lab="read")
        started.user("bob")
        yield started


@pytest.fixture
def client(hub: LoopbackHub, tmp_path: Path) -> Any:
    """Make a machine: ``client("name")``, with the token of a user if one is named."""

    def make(name: str = "reader", user: str | None = None, role: str = "write") -> Client:
        return Client(hub, tmp_path / f"home-{name}", hub.token(user, role) if user else None)

    return make
