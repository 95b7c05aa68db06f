"""A classifier of one's own images: from a folder to a model folder, and back into memory."""
