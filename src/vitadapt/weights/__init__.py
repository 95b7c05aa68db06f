"""Pretrained weights: from any supported source into our ViT, and back.

The public names are those of `__init__.pyi`; each is imported when it is first used, so that listing the backbones does
not import torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
