"""Runs a bundle: needs numpy and one interpreter, and nothing of PyTorch of its own."""
