"""The registry of methods, apart from the package so that each method's file can import it."""

from ..nn.surgery import Method
from ..utils.registry import Registry


class Methods(Registry[type[Method]]):
    """Name -> class; several methods together are named by all their names."""

    def name_of(self, thing: object) -> str:
        """ "lora", or "lora+bitfit". Raises UnknownName for what was never registered."""
        parts = getattr(thing, "methods", None)
        return "+".join(map(self.name_of, parts)) if isinstance(parts, tuple) else super().name_of(thing)


METHODS = Methods("method", "vitadapt.methods")
