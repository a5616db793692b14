"""A project whose pipelines have run one after another, kept after each: where the faults strike."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

_START = time.monotonic()
_SEEN = {"survived": 0, "lost": 0, "skipped": 0}

# In the order in which each finds its inputs.
ORDER = (
    "data_augmentation", "contrastive_finetuning", "adaptation_verdict", "embedding_extraction", "clustering_evaluation",
    "attention_analysis", "model_export", "text_clustering", "adaptation_page",
)  # fmt: skip
REST = "end_to_end"  # what belongs to none of them
SHORT = {
    "generate_candidates_node", "score_candidates_node", "train_adapter_node", "base.extract_embeddings_node", "score_cells_node",
    "embed_corpus_node", "export_embedder_node", "write_report_node",
}  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """A pipeline about to run: the state of the project before it, and what an undisturbed run makes of that."""

    before: Path
    after: Path
    arguments: tuple[str, ...]
    commits: dict[str, list[str]]


def pytest_addoption(parser):
    parser.addoption("--short", action="store_true", help="one node of each kind instead of every node")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--short", default=False):
        away = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=away)
        items[:] = [item for item in items if item not in away]


def pytest_ignore_collect(collection_path, config):
    # Collecting asks the registry for all nodes, which the other tests need not wait for.
    return True if "not faults" in config.option.markexpr and collection_path.suffix == ".py" else None


def pytest_runtest_logreport(report):
    if "faults" not in report.keywords:
        return
    count = dict(report.user_properties).get("faults", 1)
    if report.when == "call" and report.passed:
        _SEEN["survived"] += count
    elif report.failed:
        _SEEN["lost"] += count
    elif report.skipped:
        _SEEN["skipped"] += 1


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    count = _SEEN["survived"] + _SEEN["lost"]
    if count:
        skipped = f", {_SEEN['skipped']} could not be tried here" if _SEEN["skipped"] else ""
        os.write(1, f"{count} faults, {_SEEN['survived']} survived{skipped} ({time.monotonic() - _START:.0f} s)\n".encode())


def nodes_by_pipeline():
    """Names of the nodes of the default chain, under the pipeline each belongs to, from the registry."""
    from kedro.framework.project import configure_project, pipelines

    configure_project("embedding_adaptation")
    pipelines.set_requested(None)
    found = {name: [node.name for node in pipelines[name].nodes] for name in ORDER}
    known = {node for nodes in found.values() for node in nodes}
    found[REST] = [node.name for node in pipelines["__default__"].nodes if node.name not in known]
    return found


@pytest.fixture(scope="session")
def warm():
    from faults.warm import warm_up

    warm_up()


@pytest.fixture(scope="session")
def stages(warm, tmp_path_factory):
    """Makes stages when they are asked for: each pipeline runs once, on what the earlier ones have made."""
    from faults.chain import Recorder, copied, kedro, make_project

    folder = tmp_path_factory.mktemp("stages")
    made: dict[str, Stage] = {}

    def stage(name: str) -> Stage:
        if name in made:
            return made[name]
        place = ORDER.index(name) if name in ORDER else len(ORDER)
        if name == REST:
            before = stage(ORDER[-1]).after
            arguments: tuple[str, ...] = ("--from-nodes=write_report_node", "--to-nodes=write_report_node")
        else:
            before = stage(ORDER[place - 1]).after if place else make_project(folder / "new")
            arguments = (f"--pipelines={name}",)
        after, record = copied(before, folder / name), folder / f"{name}.json"
        outcome = kedro(after, *arguments, fault=Recorder(record))
        assert outcome.code == 0, outcome.output[-3000:]
        made[name] = Stage(before, after, arguments, json.loads(record.read_text()))
        return made[name]

    return stage


@pytest.fixture
def small_disk(tmp_path):
    """Makes a small disk at a folder; skips where that is not allowed."""
    import subprocess

    mounted: list[Path] = []

    def mount(folder: Path, megabytes: int) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("a small disk can only be mounted by root")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=False)
