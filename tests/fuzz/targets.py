"""Every reader of the package with sound files to begin from; a new kind needs one entry in a *_targets file."""

from __future__ import annotations

import data_targets  # noqa: F401 - fills the registry
import model_targets  # noqa: F401
import own_targets  # noqa: F401
import table_targets  # noqa: F401
import text_targets  # noqa: F401
import weight_targets  # noqa: F401
from law import TARGETS

__all__ = ["TARGETS"]
