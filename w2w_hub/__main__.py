"""Run the command line: ``python -m w2w_hub``."""

from __future__ import annotations

from w2w_hub.cli import main

main(prog_name="w2w")
