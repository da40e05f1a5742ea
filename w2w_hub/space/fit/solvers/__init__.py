"""Solvers: principal components of the standardised matrix from an engine's passes over it."""

from __future__ import annotations

from .choose import Plan, plan
from .solve import Components, solve

__all__ = ["Components", "Plan", "plan", "solve"]
