"""The version, which the package and its rooms read from here."""

__version__ = "0.1.0"
