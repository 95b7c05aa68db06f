"""Cells on a real Ray cluster of three nodes, one of which is killed while it runs a cell."""

from __future__ import annotations

import tempfile
import threading
import time
from contextlib import suppress

import pytest
from fanout_cases import cells, leftovers, make_photos, results
from fault_cases import long_form

from vitadapt.benchmark.parallel.watch import Watch
from vitadapt.benchmark.results.store import Store
from vitadapt.benchmark.sweep import executor_for, run_bench
from vitadapt.training.features import Environment
from vitadapt.utils.errors import WorkerError

ray = pytest.importorskip("ray", reason="needs the extra ray")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # Ray's own sockets and log files


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A head and two more nodes on loopback, one core each; what nodes write for a while goes below `tmp_path`."""
    from ray.cluster_utils import Cluster

    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
    for name, value in {**quiet, "TMPDIR": str(tmp_path / "scratch")}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "scratch").mkdir()
    sizes = {"num_cpus": 1, "object_store_memory": 80 << 20}
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as short:  # paths of sockets are limited
        monkeypatch.setenv("RAY_TMPDIR", short)
        made = Cluster(initialize_head=True, head_node_args={**sizes, "include_dashboard": False})
        made.add_node(**sizes)
        made.add_node(**sizes)
        yield made
        ray.shutdown()
        made.shutdown()


class Stops(Watch):
    """Remembers which cells were lost, and why."""

    def __init__(self):
        self.stops = []

    def stopped(self, config, why):
        self.stops.append((config, why))


def kill_when_busy(cluster, scratch):
    """Kill a node as soon as it is running a cell: then the cell's lock is in the node's folder.

    Neither the head, without which there is no cluster, nor the node that we talk through, which Ray chooses.
    """
    busy = []
    while not busy:
        time.sleep(0.01)
        if not ray.is_initialized():
            continue
        with suppress(AttributeError):  # older releases say so a moment too early
            ours = ray.get_runtime_context().get_node_id()
            names = {node["RayletSocketName"]: node["NodeID"] for node in ray.nodes()}
            others = {names[node.raylet_socket_name]: node for node in cluster.worker_nodes}
            others.pop(ours, None)
            busy = [others[name] for name in others if list(scratch.glob(f"vitadapt-*-{name[:12]}/locks/*.lock"))]
    cluster.remove_node(busy[0], allow_graceful=False)


@long_form
def test_a_node_that_is_killed_costs_no_cell_and_changes_no_byte(tmp_path, cluster):
    photos = make_photos(tmp_path / "photos")
    configs = cells(photos, epochs=20)
    alone, store, watch = Store(tmp_path / "alone"), Store(tmp_path / "runs"), Stops()
    run_bench(configs, alone, Environment())
    killer = threading.Thread(target=kill_when_busy, args=(cluster, tmp_path / "scratch"), daemon=True)
    killer.start()
    outcomes = run_bench(configs, store, Environment(), watch, executor_for(ray=cluster.address))
    killer.join(60)
    assert not killer.is_alive()
    assert [outcome.failure for outcome in outcomes] == [""] * len(configs)
    assert watch.stops and all("gone" in why for _, why in watch.stops)
    assert results(store) == results(alone) and leftovers(store) == []
    assert sorted(outcome.record.digest for outcome in outcomes) == sorted(config.digest() for config in configs)


def test_a_cluster_that_is_not_there_is_named(tmp_path):
    photos = make_photos(tmp_path / "photos")
    with pytest.raises(WorkerError, match="no such cluster"):
        run_bench(cells(photos, 1), Store(tmp_path / "runs"), Environment(), executor=executor_for(ray="127.0.0.1:1"))
