"""How much a reader takes from a file that it does not trust, in one place; docs/input.md explains every number.

A file beyond a limit is refused before it is read, or before what it declares is allocated. The limits are far above
what any real file needs, and low enough that one file can neither fill a machine nor keep it busy for hours.
"""

from __future__ import annotations

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

# Images
IMAGE_PIXELS = 89_478_485  # width times height: a quarter of a GiB as RGB
IMAGE_FILE = 256 * MIB  # one image file, or one member of an archive

# Archives, which are read in place
ARCHIVE_MEMBERS = 2_000_000  # ImageNet's training images are 1.3 million

# Data sets
LIST_FILE = 512 * MIB  # an index or a table as text; FER-2013 is one of 300 MB
ARRAY_FILE = 1 * GIB  # idx, CIFAR, .mat files and gzipped HDF5, unfolded
LABEL_FILE = 1 * MIB  # one label in a shard
ANNOTATION_FILE = 1 * MIB  # one image's XML
NUMBER_DIGITS = 18  # of a whole number in a text: what fits into 64 bits

# Settings and records
TOML_FILE = 1 * MIB
JSON_FILE = 64 * MIB  # knowledge, class names, subsets, settings beside weights, records, fit.json
PREDICTIONS_FILE = 4 * GIB  # a submission, unfolded; a full one has half a gigabyte
LOG_FILE = 256 * MIB
JSON_DEPTH = 100  # lists and objects inside one another

# Weights and adapters
WEIGHTS_HEADER = 100 * MIB  # safetensors' own bound on its header
PICKLE_FILE = 16 * MIB  # what describes the tensors of a checkpoint, without their data
TENSORS_SHARE = 4  # tensors of a checkpoint may be this many times larger than its file, because some are shared
ADAPTER_FILE = 4 * GIB
CHANNELS = 64  # of an image, that a backbone is inflated to
IMAGE_SIDE = 4096  # pixels of the square that a backbone looks at
METHOD_SIZE = 4096  # largest whole number among the fields of a method in an adapter file

# Texts for people
MESSAGE = 2000  # characters of one line of an error
