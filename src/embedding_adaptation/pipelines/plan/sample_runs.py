"""Short runs of the pipelines on samples of the corpus, each in a process of its own."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import psutil
import yaml

from embedding_adaptation.atomic import scratch_prefix
from embedding_adaptation.forecast import looks
from embedding_adaptation.paths import project_root
from embedding_adaptation.pipelines.plan.errors import PlanError
from embedding_adaptation.pipelines.plan.work import units

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedding_adaptation.pipelines.plan.work import Unit

TINY_MODEL = "random:tiny-llama"
PIPELINE = "adapt"
# The name is that of the section of the file with its options.
_COMMAND = "from embedding_adaptation.__main__ import main; main(prog_name='run')"
_TIMES = "node_seconds.json"
_LOOK_EVERY = 0.2  # seconds
_ERROR = "Error: "  # what click begins with
_LINES = 4  # of a run's output that ends otherwise


@dataclass(frozen=True)
class SampleRun:
    """What a run on a sample took.

    Attributes:
        texts: Number of texts.
        model: ``base`` or ``tiny``.
        seconds: Seconds of the whole process, start included.
        nodes: Seconds by name of the node.
        step_seconds: Seconds of one training step.
        look_seconds: Seconds of one look at the criteria during training.
        looks: Number of these looks.
        steps: Number of training steps.
        kept: Share of the texts that cleaning keeps, before any are drawn.
        counts: How many of each unit it had.
        peak_bytes: Largest resident memory.
        disk_bytes: Bytes written, by folder.
    """

    texts: int
    model: str
    seconds: float
    nodes: dict[str, float]
    step_seconds: float
    look_seconds: float
    looks: int
    steps: int
    kept: float
    counts: dict[Unit, float]
    peak_bytes: int
    disk_bytes: dict[str, int] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Any]:
        """As a mapping, for JSON."""
        return asdict(self)


def sample_run(texts: Sequence[str], parameters: Mapping[str, Any], *, base_model: str, steps: int, tiny: bool = False) -> SampleRun:
    """Run ``adapt`` on texts in a scratch folder.

    Args:
        texts: The texts.
        parameters: All groups of options; training is shortened, and with a tiny model layers that it lacks are replaced.
        base_model: Setting of the base model.
        steps: Training steps.
        tiny: Whether the model is a tiny random one.

    Raises:
        PlanError: If the run fails; the message quotes its end.
    """
    with tempfile.TemporaryDirectory(prefix=scratch_prefix()) as folder:
        scratch = Path(folder)
        pd.DataFrame({"text": list(texts)}, dtype=str).to_parquet(scratch / "texts.parquet")
        values = shortened(parameters, steps=steps, tiny=tiny, texts=len(texts))
        values |= {"corpus": str(scratch / "texts.parquet"), "corpus_column": "text", "output": str(scratch / "output")}
        values["base_model"] = base_model
        config = scratch / "run.yml"
        config.write_text(yaml.safe_dump({"run": {"pipelines": PIPELINE, "params": values}}), encoding="utf-8")
        start = time.perf_counter()
        peak = _run([sys.executable, "-c", _COMMAND, "--config", str(config)], scratch)
        seconds = time.perf_counter() - start
        output = scratch / "output"
        nodes = json.loads((output / _TIMES).read_text(encoding="utf-8"))
        history = pd.read_csv(next(output.glob("08_reporting/training_history.csv/*/*.csv")))
        step, look, looks = loop_seconds(history["seconds"].tolist(), values["contrastive_finetuning"]["validate_every"])
        report = json.loads(next(output.glob("02_intermediate/corpus_report.json/*/*.json")).read_text(encoding="utf-8"))
        kept = (report["kept"] + report["not_drawn"]) / report["texts"]
        return SampleRun(
            texts=len(texts),
            model="tiny" if tiny else "base",
            seconds=seconds,
            nodes=nodes,
            step_seconds=step,
            look_seconds=look,
            looks=looks,
            steps=len(history) - 1,
            kept=kept,
            counts=units(len(texts), kept, values),
            peak_bytes=peak,
            disk_bytes=_bytes_by_folder(output),
        )


def shortened(parameters: Mapping[str, Any], *, steps: int, tiny: bool, texts: int) -> dict[str, Any]:
    """Parameters for a short run of ``texts`` texts.

    Few steps, a look at the criteria only before the first and after the last, and pairs in any case. After two steps no adapter
    helps, but the whole run's is expected to: the adapted weights are exported, and cluster. Half of the texts are drawn for
    augmentation, so that others are read for the first time when they are clustered, as most of a large corpus are.
    """
    values: dict[str, Any] = json.loads(json.dumps({name: group for name, group in parameters.items() if name != "plan"}))
    training = values["contrastive_finetuning"]
    training["steps"], training["validate_every"] = steps, steps
    if training["stopping"]["criterion"] is not None:
        training["stopping"]["patience"] = max(2, training["stopping"]["patience"])
    values["data_augmentation"]["budget"] = None  # what few texts and steps leave room for says nothing of many
    if neighbours := values["data_augmentation"]["generators"]["neighbours"]:
        neighbours["min_similarity"] = -1.0  # a few texts may have no pair that is alike
    values["model_export"]["guard"] = False
    values["text_clustering"]["weights"] = values["text_clustering"]["weights"] or "adapted"
    if not tiny:
        cleaning = values["data_augmentation"]["cleaning"]
        cleaning["max_texts"] = min(cleaning["max_texts"] or texts, max(2, texts // 2))
    if tiny:
        for strategy in values["embedder"]["strategies"].values():
            strategy["layers"] = [-1]
        values["embedder"]["grid"] = None
        values["text_clustering"]["naming"]["model"] = False
    return values


def loop_seconds(seconds: Sequence[float], every: int) -> tuple[float, float, int]:
    """Seconds of a step, of a look at the criteria, and how many looks there were.

    Args:
        seconds: Seconds since the start of training after each step, the first entry before any.
        every: Steps between looks.
    """
    first = seconds[0]  # a look, before the first step
    if len(seconds) == 1:
        return 0.0, first, 1
    count = looks(len(seconds) - 1, every)
    later = seconds[-1] - first
    step = max(0.0, (later - (count - 1) * first) / (len(seconds) - 1))
    between = [b - a for number, (a, b) in enumerate(itertools.pairwise(seconds), start=1) if number % every]
    if between:  # steps that nothing was looked at after
        step = sum(between) / len(between)
    return step, max(0.0, (seconds[-1] - step * (len(seconds) - 1)) / count), count


def _run(command: list[str], scratch: Path) -> int:
    """Run a command, and return its largest resident memory.

    Raises:
        PlanError: If it fails.
    """
    # Tracked in the scratch folder, and not among the project's runs.
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{scratch / 'mlflow.db'}", "KEDRO_DISABLE_TELEMETRY": "true"}
    with (scratch / "log").open("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(command, cwd=project_root(), env=environment, stdout=log, stderr=subprocess.STDOUT)  # noqa: S603
        peak = 0
        try:
            while process.poll() is None:
                peak = max(peak, _resident(process.pid))
                time.sleep(_LOOK_EVERY)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        if process.returncode:
            log.seek(0)
            msg = f"the run on a sample failed: {_error(log.read())}; mend that first, or raise plan.samples if it fails for want of texts"
            raise PlanError(msg)
    return peak


def _error(output: str) -> str:
    """The error that a run's output ends with."""
    lines = output.replace("\r", "\n").splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith(_ERROR)]
    last = lines[starts[-1] :] if starts else lines[-_LINES:]
    return " ".join(" ".join(last).removeprefix(_ERROR).split())


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:  # it has just ended
        return 0


def _bytes_by_folder(output: Path) -> dict[str, int]:
    """Bytes of files, by the two upper folders."""
    found: dict[str, int] = {}
    for path in output.rglob("*"):
        if path.is_file() and not path.is_symlink():
            name = "/".join(path.relative_to(output).parts[:2][: len(path.relative_to(output).parts) - 1]) or "."
            found[name] = found.get(name, 0) + path.stat().st_size
    return found
