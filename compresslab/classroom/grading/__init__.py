"""Marks that cannot be talked into: answers are computed in a sandbox, and judged outside of it."""
