"""Vectors of frozen layers, computed once and kept on disk.

What a frozen layer makes of a text never changes, so it is stored under a key of everything that determines it: the
backbone, the texts and the layer. Files are memory-mapped and shared between processes; a computation that was
interrupted continues where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from filelock import FileLock
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from factorlm.assets import write_atomically
from factorlm.backbones.encoder import TextEncoder, length_batches
from factorlm.code import source_hash


class EncoderSource(Protocol):
    """A backbone that can be identified without loading it."""

    name: str

    def identity(self) -> str:
        """Hash of what determines the vectors."""
        ...

    def fetch(self, cache_dir: Path) -> Path | None:
        """Download what `load` needs."""
        ...

    def load(self, cache_dir: Path) -> TextEncoder:
        """Load the encoder."""
        ...


def embeddings(backbone: EncoderSource, texts: Sequence[str], cache_dir: Path) -> Tensor:
    """Pooled vectors [T, H] of texts by a frozen backbone, memory-mapped from the cache.

    The backbone is loaded only if they are not there yet.
    """
    key = _key(backbone.identity(), "pooled", *texts)
    path = cache_dir / "embeddings" / f"{key}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                encoder = backbone.load(cache_dir)
                tokens = encoder.tokenize(texts)
                with torch.no_grad():
                    _fill(
                        path,
                        backbone.name,
                        tokens,
                        np.arange(len(tokens) + 1),
                        encoder.hidden_size,
                        lambda batch: list(encoder([tokens[i] for i in batch]).unsqueeze(1)),
                    )
    return _open(path)


def hidden_states(
    backbone: EncoderSource, encoder: TextEncoder, texts: Sequence[str], layer: int, cache_dir: Path
) -> tuple[list[list[int]], Tensor, Tensor]:
    """Hidden states that enter layer ``layer``, memory-mapped from the cache.

    ``encoder`` must not carry an adapter; that it can start from what is stored is tried before it is stored.

    Returns:
        The token ids of each text, all states [sum of lengths, H] and the offset [T + 1] of each text in them.

    Raises:
        UserError: this architecture's layers are not a plain chain.
    """
    tokens = encoder.tokenize(texts)
    offsets = np.cumsum([0, *map(len, tokens)])
    path = cache_dir / "embeddings" / f"{_key(backbone.identity(), f'layer {layer}', *texts)}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                encoder.require_resumable(layer)
                _fill(
                    path,
                    backbone.name,
                    tokens,
                    offsets,
                    encoder.hidden_size,
                    lambda batch: encoder.hidden_states([tokens[i] for i in batch], layer),
                )
    return tokens, _open(path), torch.from_numpy(offsets)


def _key(*parts: str) -> str:
    digest = hashlib.sha256(f"{source_hash('backbones')} {version('transformers')}".encode())
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()[:24]


def _open(path: Path) -> Tensor:
    array = np.load(path, mmap_mode="c")  # copy-on-write: torch wants writable memory, the file stays as it is
    return torch.from_numpy(array)


def _fill(
    path: Path,
    name: str,
    tokens: Sequence[Sequence[int]],
    offsets: np.ndarray[tuple[int], np.dtype[np.int64]],
    width: int,
    compute: Callable[[list[int]], Sequence[Tensor]],
) -> None:
    """Write the rows of each text; ``compute`` maps a batch of text indices to their rows [rows, width]."""
    partial, marker = path.with_suffix(".partial.npy"), path.with_suffix(".done.json")
    done = int(marker.read_text()) if marker.exists() and partial.exists() else 0
    shape = (int(offsets[-1]), width)
    rows = np.lib.format.open_memmap(
        partial, mode="r+" if done else "w+", dtype=np.float32, shape=None if done else shape
    )
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"{name} reads {len(tokens):,} texts", total=len(tokens))
        for number, batch in enumerate(length_batches(tokens)):
            if number >= done:
                for index, value in zip(batch, compute(batch), strict=True):
                    rows[offsets[index] : offsets[index + 1]] = value.float().numpy()
                rows.flush()
                write_atomically(marker, str(number + 1).encode())
            progress.advance(task, len(batch))
    del rows
    partial.replace(path)
    marker.unlink(missing_ok=True)
