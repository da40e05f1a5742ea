"""Files and names that strangers wrote: validated paths, manifests, atomic writes and verification."""
