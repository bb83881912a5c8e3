"""Notebooks without a person: the runner turns jobs into orders, and a process of its own executes each."""
