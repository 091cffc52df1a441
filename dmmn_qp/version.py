"""The version of the project, said once."""

__version__ = "0.1.0"
