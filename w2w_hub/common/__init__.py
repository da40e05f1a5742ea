"""Helpers for every layer: text, arguments, limits, progress and pages; of the package they import only `errors`."""
