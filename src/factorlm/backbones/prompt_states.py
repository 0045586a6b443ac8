"""What layers that never change make of prompts, kept on disk by what was read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from factorlm.code import source_hash

MOST = 4 << 30  # bytes of one store; what comes later is computed each time
Key = tuple[int, int]
RECORD = np.dtype([("key", "u8", 2), ("start", "i8"), ("rows", "i8")])


def key_of(tokens: Sequence[int], start: int) -> Key:
    """Of the states of ``tokens`` from place ``start`` on."""
    content = hashlib.sha256(np.array([start, *tokens]).tobytes()).digest()
    return int.from_bytes(content[:8], "little"), int.from_bytes(content[8:16], "little")


class StateStore(Protocol):
    """Rows of H numbers by key."""

    def get(self, key: Key) -> Tensor | None:
        """States [t, H], or None where they are not known."""
        ...

    def add(self, states: Mapping[Key, Tensor]) -> None:
        """Keep states [t, H] that are not known yet, as far as there is room."""
        ...


class NoStates:
    """A store that keeps nothing, for states that training changes."""

    def get(self, key: Key) -> Tensor | None:
        """Nothing is known."""
        return None

    def add(self, states: Mapping[Key, Tensor]) -> None:
        """Forget them."""


class PromptStates:
    """Rows of H numbers by key, in one file that only grows; shared between processes, seeds and runs.

    A kill leaves at most rows that no key names.

    Args:
        folder: of all prompts in the cache.
        backbone: identity of the model.
        layer: which the states enter; its file is its own.
        width: H.
    """

    def __init__(self, folder: Path, backbone: str, layer: int, width: int) -> None:
        content = f"{source_hash('backbones')} {version('transformers')} {backbone} {layer}"
        folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(content.encode()).hexdigest()[:24]
        self._data, self._index, self._lock = (folder / f"{name}.{end}" for end in ("rows", "index", "lock"))
        self._width = width
        self._places: dict[Key, tuple[int, int]] = {}
        self._read_index()

    def get(self, key: Key) -> Tensor | None:
        """States [t, H], or None where they are not known."""
        place = self._places.get(key)
        if place is None:
            return None
        start, rows = place
        content = np.fromfile(self._data, np.float32, rows * self._width, offset=4 * start * self._width)
        return torch.from_numpy(content.reshape(rows, self._width))

    def add(self, states: Mapping[Key, Tensor]) -> None:
        """Keep states [t, H] that are not known yet, as long as there is room."""
        if not states:
            return
        with FileLock(self._lock):
            self._read_index()
            new = {
                key: value.detach().float().cpu().numpy() for key, value in states.items() if key not in self._places
            }
            with self._data.open("ab") as data, self._index.open("ab") as index:
                row = 4 * self._width
                data.truncate(data.tell() // row * row)
                index.truncate(index.tell() // RECORD.itemsize * RECORD.itemsize)
                start, records = data.seek(0, 2) // row, []
                for key, value in new.items():
                    if (start + len(value)) * row > MOST:
                        break
                    data.write(value.tobytes())
                    records.append((key, start, len(value)))
                    start += len(value)
                data.flush()
                index.write(np.array(records, RECORD).tobytes())
            self._read_index()

    def _read_index(self) -> None:
        if not self._index.exists():
            return
        size = self._index.stat().st_size // RECORD.itemsize - len(self._places)
        records = np.fromfile(self._index, RECORD, size, offset=len(self._places) * RECORD.itemsize)
        for key, start, rows in records.tolist():
            self._places[int(key[0]), int(key[1])] = start, rows
