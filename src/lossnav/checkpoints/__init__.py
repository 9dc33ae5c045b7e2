"""Checkpoints, read as untrusted data: the content of a file or folder, and how it fits a model."""

from lossnav.checkpoints.weights import load, load_into, save

__all__ = ["load", "load_into", "save"]
