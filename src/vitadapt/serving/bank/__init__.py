"""Many adapters on one backbone."""

from .bank import Bank, Source
from .entries import Facts

__all__ = ["Bank", "Facts", "Source"]
