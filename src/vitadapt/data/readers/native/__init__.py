"""Readers of data as its publisher packed it, or as torchvision unpacks it; one file per kind of storage."""

from . import cifar, csvpixels, folders, gtsrb, hdf5, index, kitti, matlab, voc

__all__ = ["cifar", "csvpixels", "folders", "gtsrb", "hdf5", "index", "kitti", "matlab", "voc"]
