"""Many adapters on one backbone."""

from .adapters import AdapterSummary
from .bank import Bank, Source

__all__ = ["AdapterSummary", "Bank", "Source"]
