"""Processes for runs, started from one that has already imported everything; none outlives the one that started it."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PRELOAD = [
    "factorlm.tracking.wandb",  # first: see `factorlm.cli`
    "factorlm.commands.train",
    "factorlm.training.fit",
    "transformers",
    # what numba imports when it first calls a compiled loop
    *("numba.cpython.randomimpl", "numba.np.linalg", "numba.np.polynomial", "numba.np.random.generator_methods"),
    *("numba.typed", "numba.experimental.function_type", "numba.misc.cffiimpl"),
]


@contextmanager
def pool(workers: int, end: Callable[[Any], None]) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes do one task each; where the block fails, ``end`` is called with each process."""
    executor = ProcessPoolExecutor(workers, mp_context=_context(), initializer=_end_with_parent, max_tasks_per_child=1)
    try:
        yield executor
    except BaseException:
        processes: Mapping[int, Any] = executor._processes or {}
        for process in list(processes.values()):
            end(process)
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def warm_up() -> None:
    """Begin to import what processes need, beside what this one does until it starts the first."""
    _context()
    ensure_running()


def begin(task: Callable[..., Any], *arguments: Any) -> tuple[BaseProcess, Connection]:
    """Start a process for one task, and where to read what it returns; the end of the connection is its death."""
    receiver, sender = _context().Pipe(duplex=False)
    process = _context().Process(target=_answer, args=(sender, task, arguments))
    process.start()
    sender.close()
    return process, receiver


def _answer(sender: Connection, task: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    _end_with_parent()
    sender.send(task(*arguments))


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def print_to(path: Path) -> None:
    """Append what this process prints to a file."""
    with path.open("a") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, so that nothing trains on unseen."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
