"""Kernel sets: each file offers implementations of steps, and `base` says what an offer is."""
