"""A Prefect server of a store's own, in its own process: `python -m flows.prefect_server HOME`.

Three flocks in HOME tell who is there; the operating system releases them however their holder ends.
users.lock: shared by every command that uses the server. Once the server can take it alone, nobody is left and it
stops, holding it to the end so that a newcomer waits instead of finding a server that is about to leave.
server.lock: held by the server while it lives. start.lock: held by the one command that is starting it.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path

USERS_LOCK, SERVER_LOCK, START_LOCK = "users.lock", "server.lock", "start.lock"
ADDRESS_FILE = "server.json"
POLL_SECONDS = 0.1
GOODBYE_SECONDS = 0.3


def open_lock(path: Path, mode: int = 0o644) -> int:
    """A file descriptor to flock; children that are exec'd do not inherit it."""
    return os.open(path, os.O_RDWR | os.O_CREAT, mode)


def try_lock(handle: int, how: int) -> bool:
    """Take the flock at once, or False."""
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _announce(home: Path, port: int) -> None:
    temporary = home / f".{ADDRESS_FILE}-{os.getpid()}"
    temporary.write_text(json.dumps({"url": f"http://127.0.0.1:{port}/api", "pid": os.getpid()}))
    os.replace(temporary, home / ADDRESS_FILE)


def serve(home: Path) -> None:
    """Serve Prefect's API on a free loopback port until the last user of `home` is gone."""
    if not try_lock(open_lock(home / SERVER_LOCK), fcntl.LOCK_EX):
        return
    listener = socket.create_server(("127.0.0.1", 0))
    # announced before the seconds of importing, so that the command does its own imports meanwhile
    _announce(home, listener.getsockname()[1])
    import uvicorn

    config = uvicorn.Config("prefect.server.api.server:create_app", factory=True, log_level="error", lifespan="on")
    server = uvicorn.Server(config)

    def leave_when_unused() -> None:
        users = open_lock(home / USERS_LOCK)
        while not try_lock(users, fcntl.LOCK_EX):
            time.sleep(POLL_SECONDS)
        server.should_exit = True
        # every answered request is in the database; nobody is left to wait for a slower goodbye
        time.sleep(GOODBYE_SECONDS)
        os._exit(0)

    threading.Thread(target=leave_when_unused, daemon=True).start()
    server.run(sockets=[listener])


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
