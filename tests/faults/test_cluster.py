"""A cluster of several machines, simulated on this one, whose parts die while it embeds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from embedding_adaptation.cluster import session
from embedding_adaptation.cluster.blocks import Block
from embedding_adaptation.cluster.embedder import ClusterEmbedder
from embedding_adaptation.cluster.settings import ClusterSettings
from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import PromptTemplate

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("ray")]

TEXTS = [f"text number {number}" + " and so on" * (number % 7) for number in range(6000)]
STRATEGY = Strategy("bare", PromptTemplate("bare", "{text}"), "mean")
LOADING = {"device": "cpu", "dtype": "float32", "max_length": 64}
SECRET = "kept-private-9f2c"
DRIVER = """
import sys
from pathlib import Path
from embedding_adaptation.cluster.embedder import ClusterEmbedder
from embedding_adaptation.cluster.settings import ClusterSettings
from embedding_adaptation.embedder.weights import DecoderWeights, ModelCard
from faults.test_cluster import LOADING, STRATEGY, TEXTS
weights = DecoderWeights(Path(sys.argv[1]), ModelCard.read(Path(sys.argv[1])))
settings = ClusterSettings(Path(sys.argv[2]) / "blocks", workers=2, min_texts=10, block_texts=20)
ClusterEmbedder.on(settings, weights, **LOADING).encode_to_parquet(enumerate(TEXTS), Path(sys.argv[2]) / "out", STRATEGY, progress=False)
"""


@pytest.fixture(scope="module")
def ray():
    return pytest.importorskip("ray", reason="Ray is not installed")


@pytest.fixture
def machines(ray):
    """A head without cores and two machines of one core each."""
    from ray.cluster_utils import Cluster

    environment = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2] / "src"), os.environ.get("PYTHONPATH", "")])}
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 << 20, "include_dashboard": False})
    cluster.nodes = [cluster.add_node(num_cpus=1, object_store_memory=100 << 20) for _ in range(2)]
    cluster.wait_for_nodes()
    yield cluster
    session.stop(succeeded=False)
    cluster.shutdown()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="module")
def expected(tiny_weights):
    """What one undisturbed process gives."""
    return Embedder.load(tiny_weights, **LOADING).encode(TEXTS, STRATEGY, progress=False)


def finished(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "vectors").glob("part-*.parquet")}


def check(folder: Path, expected: np.ndarray, kept: dict[str, int]) -> None:
    """Every text once, in order, with the vector of an undisturbed run; and what was finished not made again."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted((folder / "vectors").glob("[!.]*"))
    table = pa.concat_tables([pq.read_table(file) for file in files])
    assert table["id"].to_pylist() == [str(number) for number in range(len(TEXTS))]
    vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(len(TEXTS), -1)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    now = finished(folder)
    assert {name: now[name] for name in kept} == kept
    assert not list((folder / "rejected").glob("*"))


def workers_of_ray() -> list[psutil.Process]:
    return [one for one in psutil.Process().children(recursive=True) if _is_worker(one)]


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "BlockEncoder" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def embed_with_a_fault(machines, weights, tmp_path, monkeypatch, strike) -> dict[str, int]:
    """Embed, strike once a few blocks are finished, and return what was finished before."""
    from embedding_adaptation.cluster import embedder as module

    settings = ClusterSettings(tmp_path / "blocks", address=machines.address, min_texts=10, block_texts=20)
    before: dict[str, int] = {}
    encode_blocks = module.encode_blocks

    def disturbed(blocks: list[Block], *arguments, **options):
        for count, block in enumerate(encode_blocks(blocks, *arguments, **options), start=1):
            yield block
            if count == 5:
                before.update(finished(tmp_path / "out"))
                assert len(before) < len(blocks)
                strike()

    monkeypatch.setattr(module, "encode_blocks", disturbed)
    made = ClusterEmbedder.on(settings, weights, **LOADING).encode_to_parquet(enumerate(TEXTS), tmp_path / "out", STRATEGY, progress=False)
    assert (made.rows, made.rejected) == (len(TEXTS), 0)
    return before


def test_a_killed_worker_costs_the_blocks_under_way(machines, tiny_weights, tmp_path, monkeypatch, expected):
    killed = []

    def strike():
        workers = workers_of_ray()
        assert len(workers) == 2
        workers[0].kill()
        killed.append(workers[0].pid)

    kept = embed_with_a_fault(machines, tiny_weights, tmp_path, monkeypatch, strike)
    assert killed
    check(tmp_path / "out", expected, kept)


def test_a_machine_that_dies_costs_the_blocks_under_way(machines, tiny_weights, tmp_path, monkeypatch, expected):
    kept = embed_with_a_fault(
        machines, tiny_weights, tmp_path, monkeypatch, lambda: machines.remove_node(machines.nodes[0], allow_graceful=False)
    )
    check(tmp_path / "out", expected, kept)


@pytest.fixture
def ray_folder():
    """Ray's folder, with a path short enough for its sockets."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def test_a_killed_driver_costs_the_blocks_under_way(tiny_weights, tmp_path, ray_folder, expected):
    """On a cluster that the driver started, which ends with it; the same call then goes on, and no key is in any of Ray's files."""
    tests = Path(__file__).parents[1]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {
        "PYTHONPATH": os.pathsep.join([str(tests.parent / "src"), str(tests), os.environ.get("PYTHONPATH", "")]),
        "OPENAI_API_KEY": SECRET,
        "RAY_TMPDIR": str(ray_folder),
    }
    command = [sys.executable, "-c", DRIVER, str(tiny_weights.base), str(tmp_path)]
    driver = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 180
    while len(finished(tmp_path / "out")) < 5:
        assert driver.poll() is None, driver.stderr.read().decode()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    family = [driver, *psutil.Process(driver.pid).children(recursive=True)]
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    _, alive = psutil.wait_procs(family[1:], timeout=180)  # Ray's agents take their time
    assert alive == []
    kept = finished(tmp_path / "out")
    assert len(kept) < 300
    last = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert last.returncode == 0, last.stderr.decode()[-2000:]
    check(tmp_path / "out", expected, kept)
    files = [path for path in ray_folder.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
