"""Marks that an answer cannot change: answers are computed in a sandbox, and judged outside of it."""
