"""Readers, one file per kind of storage. Importing this package registers those that the catalog refers to."""

from . import hub, idx, native, numbered, openclipart, packaged, shards

__all__ = ["hub", "idx", "native", "numbered", "openclipart", "packaged", "shards"]
