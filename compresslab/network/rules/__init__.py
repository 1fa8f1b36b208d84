"""The rules of the normal form, a file for a kind of operation: each a function of a `Writer` and a node."""
