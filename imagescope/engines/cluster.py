"""The Ray cluster that replicas run on: one that is there, or one of this machine's own.

A cluster of our own runs for this process alone: it listens on the loopback interface, asks for a
token that only its own processes have, and ends with this process, however that ends.

    python -m imagescope.engines.cluster PIDFD...     (the watcher)
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from imagescope.errors import UserError

_watchers: list[IO[bytes]] = []  # the pipes whose end tells a watcher that this process is gone


def connect(address: str | None = None) -> dict[str, float]:
    """Joins the Ray cluster at the address, else starts one of this machine's visible GPUs and
    cores; returns its resources. Raises UserError where Ray is absent or cannot be reached."""
    try:
        import ray
    except ImportError:
        raise UserError(
            "several GPUs or a cluster need Ray: pip install 'imagescope[distributed]' "
            "(or leave one GPU visible: CUDA_VISIBLE_DEVICES=0)"
        ) from None
    if not ray.is_initialized():
        options = {
            "log_to_driver": False,
            "logging_level": logging.ERROR,
            "namespace": f"imagescope-{os.getpid()}",
        }
        try:
            if address:
                ray.init(address, **options)
            else:
                _start(ray, options)
        except Exception as error:  # of many kinds, some of them bare
            what = (
                f"the Ray cluster at {address} cannot be joined" if address else "Ray cannot start"
            )
            raise UserError(f"{what}: {reason(error)}") from None
    resources: dict[str, float] = ray.cluster_resources()
    return resources


def places(resources: dict[str, float], each: int = 1) -> tuple[int, int]:
    """How many replicas a cluster has room for, and the GPUs of one: as many as `each` GPUs go
    into all; without GPUs one a machine."""
    gpus = int(resources.get("GPU", 0))
    machines = sum(name.startswith("node:") and "_" not in name for name in resources)
    return (gpus // each, each) if gpus else (machines or 1, 0)


def reason(error: Exception) -> str:
    """The last line of what Ray says, which is what happened."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip()[:200]}" if lines else type(error).__name__


def _start(ray: Any, options: dict[str, Any]) -> None:
    """Starts a cluster of this machine's own."""
    import psutil  # Ray brings its own
    from ray._private import ray_constants

    driver = psutil.Process()
    before = {process.pid for process in driver.children(recursive=True)}
    logging.getLogger("ray").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with _set(ray_constants, "ENABLE_RAY_CLUSTER", False):  # else it listens on all interfaces
        ray.init("local", include_dashboard=False, **options)
    host = ray.util.get_node_ip_address()
    if host not in ("127.0.0.1", "::1"):
        ray.shutdown()
        raise UserError(
            f"this version of Ray listens on {host}, which other machines may reach: start a "
            "cluster yourself, as docs/engines.md says, and name it: --ray-address"
        )
    _watch([p.pid for p in driver.children(recursive=True) if p.pid not in before])


@contextmanager
def _set(module: Any, name: str, value: Any) -> Iterator[None]:
    old = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, old)


def _watch(processes: list[int]) -> None:
    """Has these processes killed when this one is gone. Ray sees to most of it, but its agents
    outlive a driver that was killed by a minute. Where the system has no pidfds they do."""
    if not hasattr(os, "pidfd_open"):
        return
    handles = []
    for process in processes:
        with suppress(ProcessLookupError):
            handles.append(os.pidfd_open(process))
    watcher = subprocess.Popen(
        [sys.executable, "-m", __name__, *map(str, handles)],
        stdin=subprocess.PIPE,
        pass_fds=handles,
        start_new_session=True,  # Ctrl-C is the driver's
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    for handle in handles:
        os.close(handle)
    assert watcher.stdin
    _watchers.append(watcher.stdin)


def main(handles: list[int]) -> None:
    """The watcher: when its parent is gone, so are the processes that the handles name."""
    sys.stdin.buffer.read()
    for handle in handles:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)


if __name__ == "__main__":
    main([int(handle) for handle in sys.argv[1:]])
