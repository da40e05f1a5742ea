"""Fit a weight space: rows, engines, solvers, diagnostics."""
