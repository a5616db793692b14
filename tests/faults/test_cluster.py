"""A cluster of several machines, simulated on this one, whose parts die while it cleans, rewrites, embeds or trains."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from embedding_adaptation.cluster import session
from embedding_adaptation.cluster.blocks import Block
from embedding_adaptation.cluster.embedder import ClusterEmbedder
from embedding_adaptation.cluster.settings import ClusterSettings
from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import PromptTemplate
from embedding_adaptation.embedder.weights import DecoderWeights
from embedding_adaptation.pipelines.contrastive_finetuning.devices import train
from embedding_adaptation.pipelines.contrastive_finetuning.job import TrainingJob
from embedding_adaptation.pipelines.data_augmentation.cleaning import clean
from embedding_adaptation.pipelines.data_augmentation.options import CleaningOptions, RewriteOptions
from embedding_adaptation.texts.stream import TextStream
from pipelines.contrastive_finetuning.conftest import job_of, pairs

__all__ = ["job_of", "pairs"]

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


def workers_of_ray(kind: str = "BlockEncoder") -> list[psutil.Process]:
    return [one for one in psutil.Process().children(recursive=True) if _is_worker(one, kind)]


def _is_worker(process: psutil.Process, kind: str) -> bool:
    try:
        return kind in " ".join(process.cmdline())
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


STEPS = 120
TRAINER = """
import sys
from pathlib import Path
from embedding_adaptation.pipelines.contrastive_finetuning.devices import train
from embedding_adaptation.pipelines.contrastive_finetuning.job import TrainingJob
from embedding_adaptation.pipelines.data_augmentation.cleaning import clean
from embedding_adaptation.pipelines.data_augmentation.options import CleaningOptions, RewriteOptions
from embedding_adaptation.texts.stream import TextStream
import logging
logging.basicConfig(level=logging.INFO)
adapter, history = train(TrainingJob.read(Path(sys.argv[1])))
adapter.model.save_pretrained(sys.argv[2])
history.to_parquet(Path(sys.argv[2]) / "history.parquet")
"""


@pytest.fixture
def training(job_of, tmp_path) -> TrainingJob:
    """A job of a few seconds, with a checkpoint every three steps."""
    settings = {"steps": STEPS, "batch_size": 8, "validate_every": 3, "learning_rate": 1e-4, "checkpoints": tmp_path / "checkpoints"}
    return job_of(48, embedder={"cluster": {"folder": str(tmp_path / "blocks")}}, **settings)


def on_cluster(job: TrainingJob, address: str | None) -> TrainingJob:
    cluster = job.embedder_options.cluster.model_copy(update={"address": address})
    options = job.options.model_copy(update={"devices": 2})
    return replace(job, options=options, embedder_options=job.embedder_options.model_copy(update={"cluster": cluster}))


def steps(job: TrainingJob) -> list[str]:
    return sorted(path.name for path in job.checkpoints.glob("*/*/step-*"))


def check_training(made, job: TrainingJob) -> None:
    """The weights and losses of an undisturbed process, and each step once."""
    import torch

    (adapter, history), (expected, undisturbed) = made, train(replace(job, checkpoints=None))
    assert history["step"].tolist() == list(range(STEPS + 1))
    # A step left out, or made twice, would change the loss of all that follow.
    np.testing.assert_allclose(history["train_loss"][1:], undisturbed["train_loss"][1:], rtol=1e-3)
    theirs = {name: weight for name, weight in expected.model.named_parameters() if "lora_" in name}
    ours = {name: weight for name, weight in adapter.model.named_parameters() if "lora_" in name}
    assert theirs.keys() == ours.keys()
    for name, weight in theirs.items():
        assert torch.linalg.norm(ours[name] - weight) <= 1e-2 * torch.linalg.norm(weight)


def train_with_a_fault(job: TrainingJob, strike):
    """Train, and strike once two checkpoints are there."""

    def wait_and_strike():
        while len(steps(job)) < 2:
            time.sleep(0.05)
        strike()

    striker = threading.Thread(target=wait_and_strike, daemon=True)
    striker.start()
    made = train(job)
    assert not striker.is_alive()
    return made


def test_training_goes_on_from_the_last_checkpoint_when_a_worker_dies(machines, training, caplog):
    caplog.set_level("INFO")
    killed = []

    def strike():
        workers = workers_of_ray("RayTrainWorker")
        assert len(workers) == 2
        workers[0].kill()
        killed.append(workers[0].pid)

    made = train_with_a_fault(on_cluster(training, machines.address), strike)
    assert killed
    assert caplog.text.count("resuming training at step") == 1
    check_training(made, training)


def test_training_goes_on_with_the_machines_that_are_left(machines, training, caplog, monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")
    caplog.set_level("INFO")
    made = train_with_a_fault(on_cluster(training, machines.address), lambda: machines.remove_node(machines.nodes[0], allow_graceful=False))
    assert "a machine has gone: 1 processes go on instead of 2" in caplog.text
    assert caplog.text.count("resuming training at step") == 1
    check_training(made, training)


def test_training_goes_on_when_the_same_command_is_given_after_a_killed_driver(training, tmp_path, ray_folder):
    from peft import PeftModel

    from embedding_adaptation.runtime import load_embedder

    job, out = on_cluster(training, None), tmp_path / "out"
    (tmp_path / "job").mkdir()
    job.write(tmp_path / "job")
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2] / "src"), os.environ.get("PYTHONPATH", "")]),
        "RAY_TMPDIR": str(ray_folder),
    }
    command = [sys.executable, "-c", TRAINER, str(tmp_path / "job"), str(out)]
    driver = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 180
    while len(steps(job)) < 2:
        assert driver.poll() is None, driver.stderr.read().decode()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    family = [driver, *psutil.Process(driver.pid).children(recursive=True)]
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    _, alive = psutil.wait_procs(family[1:], timeout=180)
    assert alive == []
    assert len(steps(job)) < STEPS // 3
    last = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert last.returncode == 0, last.stderr[-2000:]
    assert last.stderr.count("resuming training at step") == 1
    alone = training.embedder_options.model_copy(update={"cluster": None})
    model = PeftModel.from_pretrained(load_embedder(job.weights, alone).backbone, str(out))
    adapter, _ = train(replace(training, checkpoints=None))
    check_training((replace(adapter, model=model), pd.read_parquet(out / "history.parquet")), training)


AUGMENTER = """
import pickle, sys
from pathlib import Path
from embedding_adaptation.embedder.weights import DecoderWeights, ModelCard
from faults.test_cluster import augmented
weights = DecoderWeights(Path(sys.argv[1]), ModelCard.read(Path(sys.argv[1])))
made = augmented(sys.argv[2], weights, Path(sys.argv[3]), None)
Path(sys.argv[4]).write_bytes(pickle.dumps(made))
"""
STAGES = ("clean", "rewrite")


def augmented(stage: str, weights: DecoderWeights, folder: Path | None, address: str | None):
    """What a cluster, or with no folder this process, makes of a corpus: clean texts and report, or candidates."""
    from embedding_adaptation.options import EmbedderOptions
    from embedding_adaptation.pipelines.data_augmentation.generators import rewrite
    from embedding_adaptation.pipelines.data_augmentation.generators.request import Context, Request

    texts = [f"{text} of {number % 40} kinds" for number, text in enumerate(TEXTS[:4800])]
    if stage == "clean":
        settings = None if folder is None else ClusterSettings(folder, address=address, workers=2, min_texts=10)
        corpus = TextStream.of(pd.DataFrame({"id": list(map(str, range(len(texts)))), "text": texts}), rows=40)
        stream, report = clean(corpus, CleaningOptions(), 0, settings)
        return stream.table().to_dict("list"), report
    cluster = None if folder is None else {"folder": str(folder), "address": address, "workers": 2, "min_texts": 10, "block_texts": 32}
    template = {
        "templates": {"bare": "{text}"},
        "adapt": "a",
        "strategies": {"a": {"weights": "base", "template": "bare", "pooling": "mean"}},
    }
    chosen = EmbedderOptions.model_validate(template | {"cluster": cluster, "device": "cpu", "dtype": "float32"})
    styles = {"short": {"instruction": "short {text}"}}
    options = RewriteOptions.model_validate({"system_prompt": "rewrite", "styles": styles, "temperature": 0.6, "max_new_tokens": 12})
    requests = [Request.of(str(number), text, 0, "short") for number, text in enumerate(texts[:800])]
    made = rewrite.generate(requests, options, Context(0, weights, chosen, None, progress=False))
    return sorted(repr(candidate) for candidate in made)


@pytest.fixture(scope="module")
def undisturbed(tiny_weights):
    """What one process makes in each stage."""
    return {stage: augmented(stage, tiny_weights, None, None) for stage in STAGES}


def pieces_made(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*/made/[!.]*.parquet")}


def augment_with_a_fault(stage, machines, weights, folder, strike):
    """Make it, and strike once a few blocks are finished; what was finished must not be made again."""
    before: dict[str, int] = {}

    def wait_and_strike():
        while len(pieces_made(folder)) < 5:
            time.sleep(0.02)
        before.update(pieces_made(folder))
        strike()

    striker = threading.Thread(target=wait_and_strike, daemon=True)
    striker.start()
    made = augmented(stage, weights, folder, machines.address)
    assert not striker.is_alive()
    now = pieces_made(folder)
    assert len(before) < len(now)
    assert {name: now[name] for name in before} == before
    return made


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("victim", ["worker", "machine"])
def test_augmentation_is_that_of_an_undisturbed_process(machines, tiny_weights, tmp_path, undisturbed, stage, victim):
    def strike():
        if victim == "worker":
            workers_of_ray("PieceWorker")[0].kill()
        else:
            machines.remove_node(machines.nodes[0], allow_graceful=False)

    assert augment_with_a_fault(stage, machines, tiny_weights, tmp_path / "blocks", strike) == undisturbed[stage]


@pytest.mark.parametrize("stage", STAGES)
def test_augmentation_goes_on_when_the_same_command_is_given_after_a_killed_driver(tiny_weights, tmp_path, ray_folder, undisturbed, stage):
    tests = Path(__file__).parents[1]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {
        "PYTHONPATH": os.pathsep.join([str(tests.parent / "src"), str(tests), os.environ.get("PYTHONPATH", "")]),
        "RAY_TMPDIR": str(ray_folder),
    }
    command = [sys.executable, "-c", AUGMENTER, str(tiny_weights.base), stage, str(tmp_path / "blocks"), str(tmp_path / "made")]
    driver = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 180
    while len(pieces_made(tmp_path / "blocks")) < 5:
        assert driver.poll() is None, driver.stderr.read().decode()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    family = [driver, *psutil.Process(driver.pid).children(recursive=True)]
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    _, alive = psutil.wait_procs(family[1:], timeout=180)
    assert alive == []
    kept = pieces_made(tmp_path / "blocks")
    last = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert last.returncode == 0, last.stderr[-2000:]
    now = pieces_made(tmp_path / "blocks")
    assert len(kept) < len(now)
    assert {name: now[name] for name in kept} == kept
    assert pickle.loads((tmp_path / "made").read_bytes()) == undisturbed[stage]
