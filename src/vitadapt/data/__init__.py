"""Datasets: where images and labels come from, few-shot subsets, and the cache of decoded pixels. No model code.

The public names of this folder; importing it does not import torch.
"""

from .datasets import catalog, list_datasets, open_dataset
from .examples import (
    ArrayRef,
    Dataset,
    EncodedRef,
    Examples,
    FileRef,
    ImageObjectRef,
    ImageRef,
    IndexArray,
    LabelArray,
)
from .pixels.pixels import Geometry, Pixels, cache_size, content_digests, default_cache, open_pixels
from .readers.arrays import from_arrays
from .readers.reader import READERS, CatalogRow, Contents, Options, Reader
from .sampling.few_shot import sample_few_shot, validation_split

__all__ = [
    "READERS",
    "ArrayRef",
    "CatalogRow",
    "Contents",
    "Dataset",
    "EncodedRef",
    "Examples",
    "FileRef",
    "Geometry",
    "ImageObjectRef",
    "ImageRef",
    "IndexArray",
    "LabelArray",
    "Options",
    "Pixels",
    "Reader",
    "cache_size",
    "catalog",
    "content_digests",
    "default_cache",
    "from_arrays",
    "list_datasets",
    "open_dataset",
    "open_pixels",
    "sample_few_shot",
    "validation_split",
]
