"""The registry of methods, apart from the package so that each method's file can import it."""

from ..registry import Registry
from ..surgery import Method

METHODS: Registry[type[Method]] = Registry("method")
