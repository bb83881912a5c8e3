"""Runs: calls of a function that are cached under a key of all they depend on, and done side by side by workers."""
