"""The pool of replicas: work is handed out, lost workers are replaced, poison is isolated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imagescope.config import EncoderConfig, ModelConfig
from imagescope.encoders.base import open_encoder
from imagescope.engines.base import Picture, Request, collect
from imagescope.engines.child import EngineDied
from imagescope.engines.distributed import Distributed, Lost, Pool
from imagescope.engines.transformers import Transformers
from imagescope.errors import UserError
from imagescope.records import Item

ray = pytest.importorskip("ray")
MODELS = Path(__file__).parents[2] / "data" / "tiny" / "models"


class Doubler:
    """A worker that doubles, says who it is, dies of 13, and kills itself once where told to."""

    loads, load_seconds = 1, 0.25

    def __init__(self, once: Path | None = None):
        self.once = once

    def work(self, items: list[int]) -> list[tuple[int, int]]:
        if self.once and not self.once.exists():
            self.once.write_text("dead")
            os.kill(os.getpid(), signal.SIGKILL)
        if 13 in items:
            os.kill(os.getpid(), signal.SIGKILL)
        if 17 in items:
            raise UserError("seventeen is not allowed")
        time.sleep(0.05)
        return [(2 * item, os.getpid()) for item in items]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # tests are no package
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, namespace="tests")
    yield
    ray.shutdown()


def run(pool: Pool, chunks: list[list[int]]) -> list[list[Any]]:
    found = dict(pool.map(chunks))
    return [found[n] for n in range(len(chunks))]


def test_two_replicas_share_the_work() -> None:
    pool = Pool(Doubler, "work", 2)
    try:
        found = run(pool, [[n, n + 1] for n in range(12)])
        assert [[value for value, _ in row] for row in found] == [
            [2 * n, 2 * n + 2] for n in range(12)
        ]
        assert len({pid for row in found for _, pid in row}) == 2
        assert (pool.loads, pool.load_seconds) == (1, 0.25)
        assert run(pool, [[1]])[0][0][0] == 2  # the workers wait for more
    finally:
        pool.close()


def test_a_killed_replica_is_replaced_and_its_chunk_done_again(tmp_path: Path) -> None:
    once = tmp_path / "once"
    pool = Pool(lambda: Doubler(once), "work", 2)
    try:
        found = run(pool, [[n] for n in range(8)])
        assert once.exists()
        assert [row[0][0] for row in found] == [2 * n for n in range(8)]
        assert pool.loads == 1
    finally:
        pool.close()


def test_poison_is_isolated() -> None:
    pool = Pool(Doubler, "work", 2)
    try:
        found = run(pool, [[1, 2, 3], [11, 12, 13, 14, 15], [4]])
        lost = [
            (i, j) for i, row in enumerate(found) for j, x in enumerate(row) if isinstance(x, Lost)
        ]
        assert lost == [(1, 2)]
        assert [x[0] for x in found[1] if not isinstance(x, Lost)] == [22, 24, 28, 30]
    finally:
        pool.close()


def test_workers_that_only_die_are_given_up() -> None:
    pool = Pool(Doubler, "work", 1)
    try:
        with pytest.raises(EngineDied, match="whatever they are asked"):
            run(pool, [[13], [13], [13], [13]])
        assert run(pool, [[1]])[0][0][0] == 2
    finally:
        pool.close()


def test_a_users_error_is_said_at_once() -> None:
    pool = Pool(Doubler, "work", 1)
    try:
        with pytest.raises(UserError) as error:
            run(pool, [[17]])
        assert str(error.value) == "seventeen is not allowed"
    finally:
        pool.close()


def test_who_stops_listening_stops_the_work() -> None:
    pool = Pool(Doubler, "work", 1)
    try:
        results = pool.map([[n] for n in range(100)])
        next(results)
        results.close()
        start = time.monotonic()
        assert run(pool, [[1]])[0][0][0] == 2
        assert time.monotonic() - start < 30
    finally:
        pool.close()


@pytest.fixture
def requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """With relative paths: workers need not have our working folder."""
    monkeypatch.chdir(tmp_path)
    for colour in ("red", "blue", "green"):
        Image.new("RGB", (64, 64), colour).save(f"{colour}.png")
    (tmp_path / "bad.png").write_text("no image")
    return [
        Request(f"Is there a {c} circle?", (Picture(f"{i}.png"),), 1, choices=("yes", "no"))
        for i in ("red", "blue", "bad", "green")
        for c in ("red", "blue")
    ]


@pytest.mark.skipif(not (MODELS / "verifier").exists(), reason="no tiny verifier here")
def test_a_distributed_engine_answers_like_one_engine(requests: list[Request]) -> None:
    config = ModelConfig(model=str(MODELS / "verifier"), template="{prompt}", chunk_size=2)
    engine = Distributed("transformers", config, replicas=2)
    single = Transformers(config)
    try:
        assert engine.identity == single.identity
        found, expected = collect(engine, requests), collect(single, requests)
        assert [r.text for r in found] == [r.text for r in expected]
        assert [bool(r.error) for r in found] == [False] * 4 + [True] * 2 + [False] * 2
        for a, b in zip(found, expected, strict=True):
            assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)
        assert engine.loads == 1 and engine.load_seconds > 0
        engine.close()
        assert collect(engine, requests[:1])[0].text == expected[0].text
        assert engine.loads == 2
    finally:
        engine.close()
        single.close()


@pytest.mark.skipif(not (MODELS / "encoder").exists(), reason="no tiny encoder here")
def test_a_distributed_encoder_embeds_like_one_encoder(requests: list[Request]) -> None:
    from imagescope.encoders.distributed import DistributedEncoder

    config = EncoderConfig(model=str(MODELS / "encoder"), batch_size=2)
    encoder, single = DistributedEncoder(config, replicas=2), open_encoder(config)
    names = ["red.png", "bad.png", "blue.png", "none.png", "green.png"]
    items = [*(Item(images=(Path(name),)) for name in names), Item("a red circle")]
    try:
        assert encoder.identity == single.identity
        vectors, reasons = encoder.embed(items, "gallery")
        expected, why = single.embed(items, "gallery")
        assert set(reasons) == set(why) == {1, 3} and not vectors[[1, 3]].any()
        assert vectors == pytest.approx(expected, abs=1e-5)
    finally:
        encoder.close()


DRIVER = """
import sys, time
from imagescope.engines.cluster import connect
connect()
import ray
print(ray.get_runtime_context().gcs_address, flush=True)
time.sleep(600)
"""
STRANGER = """
import sys, ray
ray.init(sys.argv[1], logging_level="ERROR")
"""


def test_a_cluster_of_our_own_is_private_and_ends_with_a_killed_driver(tmp_path: Path) -> None:
    """It listens on the loopback interface alone, refuses who lacks the token, and no process of
    it outlives a driver that had no time to say goodbye."""
    import psutil

    path = {"PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(tmp_path)}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | path
    python = [sys.executable, "-c"]
    with subprocess.Popen([*python, DRIVER], stdout=subprocess.PIPE, env=environment) as driver:
        try:
            assert driver.stdout
            address = driver.stdout.readline().decode().strip()
            processes = psutil.Process(driver.pid).children(recursive=True)
            assert {"gcs_server", "raylet"} <= {process.name() for process in processes}
            sockets = [c for p in processes for c in p.net_connections("inet")]
            hosts = {c.laddr.ip.removeprefix("::ffff:") for c in sockets if c.status == "LISTEN"}
            assert hosts == {"127.0.0.1"}
            stranger = subprocess.run(
                [*python, STRANGER, address],
                env=environment
                | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
                | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"},  # it comes from this machine, too
                capture_output=True,
                timeout=60,
            )
            assert stranger.returncode and b"Authentication" in stranger.stderr
            assert not list(tmp_path.iterdir())  # the token lies in no file
        finally:
            driver.kill()
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.slow
def test_two_nodes_one_of_them_lost() -> None:
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        cluster.wait_for_nodes()
        pool = Pool(Doubler, "work", 2)
        results = pool.map([[n] for n in range(20, 220)])
        found = dict([next(results)])
        cluster.remove_node(second, allow_graceful=False)
        found |= dict(results)
        assert [found[n][0][0] for n in range(200)] == [2 * n for n in range(20, 220)]
        pool.close()
    finally:
        ray.shutdown()
        cluster.shutdown()
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
