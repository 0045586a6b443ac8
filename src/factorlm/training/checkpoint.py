"""Checkpoints: adapter, head and fields, never the frozen backbone; safetensors only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from factorlm.assets import write_atomically
from factorlm.errors import UserError

FILE = "model.safetensors"


def learned_state(model: nn.Module) -> dict[str, Tensor]:
    """Everything training made, of this run or one it started from: parameters, and buffers outside the encoder."""
    trainable = {
        name: value
        for name, value in model.named_parameters()
        if value.requires_grad or getattr(value, "learned", False)
    }
    persistent = model.state_dict()
    fitted = {name: value for name, value in model.named_buffers() if name in persistent and ".encoder." not in name}
    return {name: value.detach() for name, value in {**trainable, **fitted}.items()}


def save_checkpoint(model: nn.Module, folder: Path) -> None:
    """Write the learned state to ``folder/model.safetensors``, atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / FILE, save({name: value.contiguous() for name, value in learned_state(model).items()}))


def load_checkpoint(model: nn.Module, folder: Path, *, new: Sequence[Collection[str]] = ()) -> None:
    """Load a learned state in place.

    Args:
        model: built like the one that was saved.
        folder: the checkpoint folder.
        new: groups of names, of each of which the checkpoint may lack all, as of a fresh adapter that joins a trained
            model.

    Raises:
        UserError: there is no checkpoint, or it is of another architecture.
    """
    path = folder / FILE
    if not path.exists():
        raise UserError(f"no checkpoint at {folder}: train the run first")
    saved, wanted = load_file(path), learned_state(model)
    fresh = {name for names in new if not saved.keys() & set(names) for name in names}
    missing = [name for name in wanted if name not in saved and name not in fresh]
    other = [name for name in saved if name not in wanted or saved[name].shape != wanted[name].shape]
    if missing or other:
        raise UserError(f"{path} is of another model: it lacks {missing[:3]}, and {other[:3]} do not fit")
    assign(model, saved)


def assign(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Set the named parameters and buffers of a model in place."""
    for name, value in state.items():
        owner, _, leaf = name.rpartition(".")
        with torch.no_grad():
            getattr(model.get_submodule(owner), leaf).copy_(value)
