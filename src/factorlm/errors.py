"""Errors with a meaning: the command line shows those that are a user's to fix as one line, without a traceback."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


class UserError(ValueError):
    """Input that cannot be used: names the key or file, the value found and the fix; exit status 2."""

    status = 2


class AuditError(UserError):
    """An audit found a failure, or a number was not reproduced; exit status 3."""

    status = 3


class PrunedError(Exception):
    """A sweep stopped this trial, because others were better at the same epoch."""


class TerminatedError(BaseException):
    """SIGTERM arrived: the machine wants the process to end; exit status 143."""


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM raise `TerminatedError` within the block, so that what must be told and written is."""

    def end(number: int, frame: object) -> NoReturn:
        raise TerminatedError

    if threading.current_thread() is not threading.main_thread():  # which signals do not reach
        yield
        return
    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
