"""The version of the package, which its metadata reads from here too."""

__version__ = "0.1.0"
