"""Backends: each turns segments into the files of one format."""
