"""CLIP's tokeniser without a checkpoint, to count the tokens of sentences."""

from __future__ import annotations

from ..errors import WeightsError
from ..weights.fetch import MissingPackage, package
from .hugging_face_tower import HubTokeniser
from .open_clip_tower import BytePairs
from .tower import Tokeniser

CONTEXT = 77
"""Tokens of a sentence that every published CLIP reads, start and end included."""
_REPOSITORY = "openai/clip-vit-base-patch32"


def any_tokeniser() -> Tokeniser:
    """That of open_clip, else that of Hugging Face when its files are in the cache; nothing is fetched.

    Raises WeightsError with the remedy when there is neither.
    """
    try:
        return BytePairs(CONTEXT)
    except MissingPackage as missing:
        try:
            transformers = package("transformers", "hf")
            return HubTokeniser(transformers.AutoTokenizer.from_pretrained(_REPOSITORY, local_files_only=True), CONTEXT)
        except (MissingPackage, OSError, ValueError):
            raise WeightsError(str(missing)) from missing
