"""Real networks that come from the package index, read and built here; see `packages`."""
