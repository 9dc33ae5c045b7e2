"""Weights on disk, treated as untrusted: what a file or folder holds, and which tensor of a model is which in it."""

from lossnav.checkpoints.weights import load, load_into, save

__all__ = ["load", "load_into", "save"]
