"""Readers, one file per kind of storage. Importing this package registers those that the catalog refers to."""

# ruff: noqa: F401
from . import (
    bundled,
    cifar,
    class_folders,
    clevr,
    elevater,
    fer2013,
    gtsrb,
    hdf5,
    idx,
    index_files,
    kitti,
    listed,
    matlab,
    norb,
    numbered_folders,
    openclipart,
    retinopathy,
    split_json,
    tf_records,
    voc,
    webdataset,
)
