"""From sentences to token numbers: CLIP's byte pairs, and the tokenisers of Hugging Face folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..utils.errors import WeightsError, damaged
from ..utils.optional import MissingPackage, fetching, package

CONTEXT = 77
"""Tokens that a sentence may have in OpenAI's CLIP."""
FILES = (
    *("vocab.json", "merges.txt", "tokenizer.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
)
"""What a repository's tokeniser consists of, besides *config.json."""


class Tokeniser(Protocol):
    """Sentences -> token numbers. Sentences that are too long are cut so that the end token stays."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(N, context) token numbers, padded behind the end token."""

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, start and end included, before anything is cut."""


class BytePairs:
    """CLIP's byte-pair encoding out of open_clip's wheel. `added` tokens stand before the start token."""

    def __init__(self, context: int, added: int = 0) -> None:
        self.context, self.encoder = context, encoder()
        self.start, self.end = self.encoder.sot_token_id + added, self.encoder.eot_token_id + added

    def __call__(self, texts: Sequence[str]) -> Tensor:
        tokens = torch.zeros(len(texts), self.context, dtype=torch.long)
        for row, text in zip(tokens, texts, strict=True):
            inside = self.encoder.encode(text)[: self.context - 2]  # room for start and end
            row[: len(inside) + 2] = torch.tensor([self.start, *inside, self.end])
        return tokens

    def lengths(self, texts: Sequence[str]) -> list[int]:
        return [len(self.encoder.encode(text)) + 2 for text in texts]


@cache
def encoder() -> Any:
    """open_clip's tokeniser; reading its table takes a moment. Raises WeightsError when open_clip is missing."""
    return package("open_clip", "clip").SimpleTokenizer()


class HubTokeniser:
    """A folder's own tokeniser, given texts that `clean` was applied to. vocabulary: what its text tower knows."""

    def __init__(
        self, inner: Any, context: int, clean: Callable[[str], str] = str, vocabulary: int | None = None
    ) -> None:
        self.inner, self.context, self.clean, self.vocabulary = inner, context, clean, vocabulary

    def __call__(self, texts: Sequence[str]) -> Tensor:
        options = {"padding": "max_length", "truncation": True, "max_length": self.context}
        return torch.tensor(self._numbers(texts, **options))

    def lengths(self, texts: Sequence[str]) -> list[int]:
        return [len(tokens) for tokens in self._numbers(texts, verbose=False)]

    def _numbers(self, texts: Sequence[str], **options: Any) -> list[list[int]]:
        """Raises WeightsError where the tokeniser's files do not fit one another."""
        with damaged(self.inner.name_or_path, "download it again", WeightsError, "has a tokeniser that does not work"):
            found: list[list[int]] = self.inner([self.clean(text) for text in texts], **options)["input_ids"]
            largest = max(chain.from_iterable(found), default=0)
            if self.vocabulary is not None and largest >= self.vocabulary:
                raise ValueError(f"token {largest}, where its text tower knows {self.vocabulary}")
        return found


def hub_tokeniser(source: str | Path, vocabulary: int) -> Any:
    """The tokeniser of a folder or of a repository. Raises WeightsError without one, or for one of another tower."""
    transformers = package("transformers", "hf")
    place = source if isinstance(source, Path) else f"hf:{source}"
    read = partial(transformers.AutoTokenizer.from_pretrained, str(source), trust_remote_code=False)
    with damaged(place, "download it again", WeightsError, "has no tokeniser that can be read"):
        if isinstance(source, Path):
            inner = read(local_files_only=True)
        else:
            with fetching(f"the tokeniser of {place}") as offline:
                inner = read(local_files_only=offline)
        known = max(len(inner), 1 + max(inner.get_vocab().values()))
    if known > vocabulary:
        raise WeightsError(f"{place}: its tokeniser knows {known} tokens and its text tower {vocabulary}")
    return inner


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
