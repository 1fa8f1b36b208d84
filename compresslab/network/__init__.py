"""Reading and editing any network: which layers, other modules in their places, what flows, the graph."""
