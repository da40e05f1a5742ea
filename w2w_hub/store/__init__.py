"""Files on disk and on the Hub: validated paths, manifests, atomic writes and verification."""
