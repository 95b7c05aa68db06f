"""vitadapt: parameter-efficient adaptation of vision transformers.

    import vitadapt as va
    backbone = va.load_backbone("dinov2-s14-offline", image_size=98)
    adapted = va.adapt(backbone, va.KAdaptation())

The public names are those of `__init__.pyi`; each is imported when it is first used, so that importing this package
costs nothing.
"""

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
