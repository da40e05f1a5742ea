"""The bottom: text, arguments, limits, progress, pages; imports nothing of the package but its errors."""
