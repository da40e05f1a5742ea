"""Tabs of the explorer, one module each: ``build(page)`` adds its components and listens to them."""
