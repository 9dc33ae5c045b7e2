"""The version; in a file of its own, since nobody imports the face of the package."""

__version__ = "0.2.0.dev0"
