"""Language: class names and templates, knowledge about classes, the text towers of CLIP models, and text features.

The public names are those of `__init__.pyi`; each is imported when it is first used, so that reading prompts does not
import torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
