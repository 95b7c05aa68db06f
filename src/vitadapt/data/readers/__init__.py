"""Readers, one file per kind of storage. Importing this package registers those that the catalog refers to."""

from . import idx, packaged

__all__ = ["idx", "packaged"]
