"""Datasets: where images and labels come from, few-shot subsets, and the cache of decoded pixels. No model code.

Importing this package does not import torch.
"""

from .examples import ArrayRef, Dataset, Examples, FileRef, ImageObjectRef, ImageRef, IndexArray, LabelArray
from .open import READERS, from_arrays, list_datasets, open_dataset
from .pixels.pixels import Geometry, Pixels, cache_size, content_digests, default_cache, open_pixels
from .sampling.few_shot import sample_few_shot, validation_split

__all__ = [
    "READERS",
    "ArrayRef",
    "Dataset",
    "Examples",
    "FileRef",
    "Geometry",
    "ImageObjectRef",
    "ImageRef",
    "IndexArray",
    "LabelArray",
    "Pixels",
    "cache_size",
    "content_digests",
    "default_cache",
    "from_arrays",
    "list_datasets",
    "open_dataset",
    "open_pixels",
    "sample_few_shot",
    "validation_split",
]
