"""The only folder that talks to the Hub: resolve, fetch and verify at the bottom; publish, pin and restore on top."""

from __future__ import annotations
