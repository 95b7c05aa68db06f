"""The registry of methods, apart from the package so that each method's file can import it."""

from ..nn.surgery import Method
from ..utils.registry import Registry

METHODS: Registry[type[Method]] = Registry("method", "vitadapt.methods")
