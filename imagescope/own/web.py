"""Serving the page of an index (own/api.py says what it answers, own/guard.py to whom).

All model work is done by one thread (own/desk.py), a stage at a time, so that several users'
searches take turns and each sees first results early.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Thread
from typing import Any

from imagescope.config import EngineName
from imagescope.errors import UserError
from imagescope.own.ask import answering, state
from imagescope.own.desk import Desk
from imagescope.own.guard import Guard
from imagescope.own.scope import ImageScope

CONNECTIONS = 512  # at a time
EVERYWHERE = ("", "0.0.0.0", "::")


@contextmanager
def serving(desk: Desk, host: str, port: int, top: int) -> Iterator[str]:
    """The page's address, while it is served. port: 0 takes a free one. Raises OSError where it
    cannot listen there."""
    import uvicorn

    from imagescope.own.api import Api

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host.strip("[]"), port), family=family, backlog=128)
    name = "localhost" if host in EVERYWHERE else f"[{host}]" if ":" in host else host
    with listener, tempfile.TemporaryDirectory(prefix="imagescope-") as uploads:
        config = uvicorn.Config(
            Guard(Api(desk, Path(uploads), top).app(), host),
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=1,
            ws="none",
        )
        server = uvicorn.Server(config)
        thread = Thread(target=server.run, args=([listener],), name="page", daemon=True)
        thread.start()
        while thread.is_alive() and not server.started:
            time.sleep(0.01)
        try:
            yield f"http://{name}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def serve(
    name: str,
    host: str,
    port: int,
    top: int,
    models: str | None,
    engine: EngineName | None,
    resident: bool,
    method: str = "imagescope",
    options: Mapping[str, Any] | None = None,
) -> None:
    """Serves an index' page until interrupted; for the others see ImageScope.open. Raises UserError
    where the port is taken, FastAPI is not installed, or the index cannot be opened."""
    if not (find_spec("fastapi") and find_spec("uvicorn")):
        raise UserError("the page needs FastAPI: pip install 'imagescope[serve]'")
    opened = state(name)
    desk = Desk(lambda: ImageScope.open(name, models, engine, resident, method, options))
    with ExitStack() as stack:
        stack.callback(desk.close)
        try:
            address = stack.enter_context(serving(desk, host, port, top))
        except OSError as error:
            why = os.strerror(error.errno) if error.errno and error.errno > 0 else error
            raise UserError(f"cannot listen on {host}:{port}: {why}. Another --port?") from None
        desk.warm()
        stack.enter_context(answering(desk, opened))
        print(f"{address} (Ctrl-C ends it)", flush=True)
        with suppress(KeyboardInterrupt):
            Event().wait()
