"""Train a run by several processes."""

from __future__ import annotations

import os
import signal
from concurrent.futures import FIRST_EXCEPTION, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from factorlm.commands.execute import execute
from factorlm.commands.processes import pool, print_to
from factorlm.errors import UserError
from factorlm.runs.record import peak_memory_mb


def train_together(config: DictConfig, folder: Path, processes: int, started: float, progress: bool) -> dict[str, Any]:
    """Train a run by several processes; return what the record says of it. Where one fails, all end."""
    from lightning_fabric.plugins.environments.lightning import find_free_network_port

    port = find_free_network_port()
    with pool(processes, BaseProcess.kill) as executor:
        common = config, folder, port, started, progress
        futures = [executor.submit(_take_part, rank, *common) for rank in range(processes)]
        ended = wait(futures, return_when=FIRST_EXCEPTION).done
        errors = [error for error in (future.exception() for future in ended) if error is not None]
        for error in sorted(errors, key=lambda error: not isinstance(error, UserError)):  # others fail for want of it
            if isinstance(error, BrokenProcessPool):
                raise UserError("a process of the run was killed, perhaps for memory; lower batch_size") from error
            raise error
        values = [future.result() for future in futures]
    return values[0] | {"peak_memory_mb": max(value["peak_memory_mb"] for value in values)}


def _take_part(
    rank: int, config: DictConfig, folder: Path, port: int, started: float, progress: bool
) -> dict[str, Any]:
    """Be one of the processes of a run; the first writes its folder. What a record says of the run, and peak memory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started us decides
    if rank or not progress:
        print_to(folder / "log.txt")
    os.environ.update(LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    values: dict[str, Any] = {}
    torch.set_num_threads(config.threads)
    execute(config, folder, values.update, started, progress and not rank, rank)
    if torch.distributed.is_initialized():  # it is not where nothing is trained
        torch.distributed.destroy_process_group()
    return values | {"peak_memory_mb": peak_memory_mb()}
