"""The recipes under examples/."""
