"""From the classes of a data set to one text feature per class: fill, tokenise, encode, normalise, mean, normalise."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..nn.class_texts import class_vectors
from ..utils.files import read_cached, write_cached
from ..utils.progress import Progress
from .knowledge import with_items
from .prompts import Prompts, fill, prompts_of
from .tower import TextTower


def class_texts(
    dataset: str, classes: Sequence[str], prompts: Prompts | None = None, also: Sequence[str] = ()
) -> list[list[str]]:
    """The sentences about each class. `also` are further names under which knowledge about `dataset` may be filed.

    Raises ConfigError when what was given does not fit the classes.
    """
    prompts = prompts or Prompts()
    names, templates = prompts_of(dataset, classes, prompts)
    items = prompts.knowledge.items((dataset, *also), names) if prompts.knowledge else {}
    return [with_items([fill(template, name) for template in templates], name, items.get(name, ())) for name in names]


def overlong(tower: TextTower, texts: Sequence[str]) -> list[str]:
    """Those of `texts` that have more tokens than the tower reads; their ends are cut, the end token stays."""
    lengths = tower.tokenise.lengths(texts)
    return [text for text, length in zip(texts, lengths, strict=True) if length > tower.context]


def text_matrix(
    tower: TextTower, texts: Sequence[Sequence[str]], cache: Path | None = None, progress: Progress | None = None
) -> Tensor:
    """(C, E), one unit vector per class: the normalised mean of the normalised features of its sentences.

    With a `cache` folder the matrix is computed once per (weights of the tower, token numbers). Raises ValueError for
    a class without a sentence, StorageError when the cache cannot be written.
    """
    counts = [len(sentences) for sentences in texts]
    if not counts or min(counts) < 1:
        raise ValueError("every class needs at least one sentence")
    tokens = tower.tokenise([text for sentences in texts for text in sentences])
    path = None if cache is None else cache / "text" / f"{_key(tower, tokens, counts)}.features"
    cached = None if path is None else read_cached(path)
    if cached is not None:
        return torch.from_numpy(np.frombuffer(cached, dtype=np.float32).reshape(len(counts), -1).copy())
    matrix = class_vectors(tower.encode_tokens(tokens, progress=progress), counts)
    if path is not None:
        write_cached(path, matrix.numpy().astype(np.float32).tobytes())
    return matrix


def _key(tower: TextTower, tokens: Tensor, counts: list[int]) -> str:
    whole = hashlib.blake2b(f"{tower.digest()} {tuple(tokens.shape)} {counts}".encode(), digest_size=16)
    whole.update(tokens.numpy().tobytes())
    return whole.hexdigest()
