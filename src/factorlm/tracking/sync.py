"""Upload of W&B runs that were kept offline, or that did not arrive whole, by W&B's own client."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from factorlm.errors import UserError
from factorlm.tracking.parts import is_synced, logs, mark, records
from factorlm.tracking.wandb import keep_private


def waiting(root: Path) -> list[Path]:
    """Run folders under a folder with something to upload, by name."""
    found = {log.parents[2] for log in root.glob("**/wandb/*run-*/run-*.wandb") if not is_synced(log)}
    return sorted(found)


def require_server(folder: Path) -> None:
    """Ask W&B whether it knows us.

    Args:
        folder: of a run, for what W&B writes meanwhile.

    Raises:
        UserError: there is no key, no server, or it refuses the key.
    """
    import wandb

    keep_private(folder)
    os.environ.pop("WANDB_MODE", None)  # it says how runs are kept, not whether to upload them now
    try:
        if not wandb.login(prompt=False, verify=True):
            raise UserError("sync needs an API key: run `wandb login`, or set WANDB_API_KEY")
    except wandb.Error as error:
        reason = " ".join(str(error).split()).replace("the service process is busy and did not respond", "no answer")
        raise UserError(f"sync: {reason}; check WANDB_BASE_URL and the key, and call again: nothing is lost") from error
    finally:
        wandb.teardown()


def upload(folder: Path, timeout: float) -> str | None:
    """Upload the parts of a run that are not uploaded yet, in their order; return why it failed, or None.

    Args:
        folder: of the run.
        timeout: seconds for each part.
    """
    keep_private(folder)
    for log in logs(folder):
        if is_synced(log):
            continue
        printed = _wandb_sync(folder, log, timeout)
        if not is_synced(log):
            if any("run" in record for record in records(log)):
                return printed
            mark(log)  # killed before anything was written
    return None


def _wandb_sync(folder: Path, log: Path, timeout: float) -> str:
    """Let W&B upload one log, which it marks when all has arrived; return the last line that it printed."""
    command = [sys.executable, "-m", "wandb", "sync", "--include-online", str(log.parent.relative_to(folder))]
    environ = {name: value for name, value in os.environ.items() if name != "WANDB_SILENT"}
    process = subprocess.Popen(
        command,
        cwd=folder,  # which the paths of artifacts start from
        env=environ | {"WANDB_DIR": str(folder.absolute())},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        lines = process.communicate(timeout=timeout)[0].split("\n")
        errors = [line for line in lines if "ERROR" in line]
        return (errors or [line for line in lines if line.strip()] or ["W&B said nothing"])[-1].removeprefix("wandb: ")
    except subprocess.TimeoutExpired:
        return f"not done after {timeout:g} seconds"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
