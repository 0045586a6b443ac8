"""``factorlm board``: the store in a browser, until Ctrl-C."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

from factorlm.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

HOST = "127.0.0.1"


def main(config: DictConfig) -> None:
    """Serve the board on this machine's loopback address."""
    root = Path(config.run.root).expanduser()
    if not root.is_dir():
        raise UserError(f"run.root={root} is no folder: name the one that holds the runs")
    listener = _listen(config.port)
    import uvicorn

    from factorlm.board.app import make_app

    settings = uvicorn.Config(make_app(root), log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
    print(f"board http://{HOST}:{listener.getsockname()[1]} shows {root}; Ctrl-C ends it", flush=True)
    try:
        uvicorn.Server(settings).run(sockets=[listener])
    except KeyboardInterrupt:
        print()
    finally:
        listener.close()


def _listen(port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise UserError(f"port={port}: it must be from 0, any free one, to 65535")
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise UserError(f"port={port}: {error.strerror}; name another, or port=0 for any free one") from error
    return listener
