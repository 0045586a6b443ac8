"""A progress bar over items, where a terminal shows it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich import progress
from rich.console import Console

Item = TypeVar("Item")


def track(items: Sequence[Item], doing: str) -> Iterable[Item]:
    """The items, with a bar on standard error while they are worked on."""
    console = Console(stderr=True)
    return progress.track(items, doing, console=console, transient=True, disable=not console.is_terminal)
