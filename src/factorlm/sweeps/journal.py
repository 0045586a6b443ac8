"""The journal of a sweep: optuna's storage in one file, which processes append to in turn."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

FILE = "journal.log"
NAME = "sweep"
GRACE = 5  # seconds after which the lock of a process that was killed is broken


def open_journal(folder: Path) -> JournalStorage:
    """The storage in a sweep's folder; it is made where there is none."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = str(folder.resolve() / FILE)  # the lock is a link to it
    return JournalStorage(JournalFileBackend(path, JournalFileSymlinkLock(path, GRACE)))
