r"""The same training on several devices of this machine, or of several: each takes a part of every batch, and all negatives count.

One process a device is started through ``torchrun``; the first writes. By hand, and over several machines that share a folder::

    torchrun --nnodes 2 --nproc_per_node 8 --rdzv_backend c10d --rdzv_endpoint HOST:29500 \
        -m embedding_adaptation.pipelines.contrastive_finetuning.devices FOLDER
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from embedding_adaptation.atomic import scratch_prefix

if TYPE_CHECKING:
    import pandas as pd

    from embedding_adaptation.datasets.adapter import TrainedAdapter
    from embedding_adaptation.embedder.weights import DecoderWeights
    from embedding_adaptation.options import EmbedderOptions
    from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions

logger = logging.getLogger(__name__)

_JOB = "job.json"
_TABLES = ("train_pairs", "validation_pairs", "corpus")


def train_on_devices(
    weights: DecoderWeights,
    train_pairs: pd.DataFrame,
    validation_pairs: pd.DataFrame,
    options: FinetuningOptions,
    embedder_options: EmbedderOptions,
    *,
    corpus: pd.DataFrame | None = None,
    checkpoints: Path | None = None,
) -> tuple[TrainedAdapter, pd.DataFrame]:
    """Train in ``options.devices`` processes; see :func:`.training.train`.

    Raises:
        TrainingError: If a process fails; its output has gone to stderr.
    """
    from embedding_adaptation.pipelines.contrastive_finetuning.training import TrainingError

    with tempfile.TemporaryDirectory(prefix=scratch_prefix()) as name:
        folder = Path(name)
        write_job(folder, weights, train_pairs, validation_pairs, options, embedder_options, corpus=corpus, checkpoints=checkpoints)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(options.devices)]
        environment = os.environ | {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // options.devices))}
        done = subprocess.run([*command, "-m", __name__, str(folder)], env=environment, check=False)  # noqa: S603  our own module
        if done.returncode:
            msg = f"training on {options.devices} devices ended with exit code {done.returncode}; the reason is above"
            raise TrainingError(msg)
        return read_result(folder, weights, embedder_options)


def write_job(
    folder: Path,
    weights: DecoderWeights,
    train_pairs: pd.DataFrame,
    validation_pairs: pd.DataFrame,
    options: FinetuningOptions,
    embedder_options: EmbedderOptions,
    *,
    corpus: pd.DataFrame | None = None,
    checkpoints: Path | None = None,
) -> None:
    """Write everything a training process needs into a folder that all processes see."""
    for name, table in zip(_TABLES, (train_pairs, validation_pairs, corpus), strict=True):
        if table is not None:
            table.to_parquet(folder / f"{name}.parquet")
    job = {
        "base": str(weights.base.resolve()),
        "card": asdict(weights.card),
        "options": options.model_dump(mode="json"),
        "embedder": embedder_options.model_dump(mode="json"),
        "checkpoints": None if checkpoints is None else str(checkpoints.resolve()),
    }
    (folder / _JOB).write_text(json.dumps(job), encoding="utf-8")


def read_result(folder: Path, weights: DecoderWeights, embedder_options: EmbedderOptions) -> tuple[TrainedAdapter, pd.DataFrame]:
    """The adapter and history that the first process has written."""
    import pandas as pd
    from peft import PeftModel

    from embedding_adaptation.datasets.adapter import TrainedAdapter
    from embedding_adaptation.runtime import load_embedder

    facts = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    model = PeftModel.from_pretrained(load_embedder(weights, embedder_options).backbone, str(folder / "adapter"))
    return TrainedAdapter(model=model, base=weights.card, **facts), pd.read_parquet(folder / "history.parquet")


def main(folder: Path) -> None:
    """One training process: take part, and write the result if it is the first."""
    import pandas as pd
    import torch

    from embedding_adaptation.embedder.weights import DecoderWeights, ModelCard
    from embedding_adaptation.options import EmbedderOptions
    from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions
    from embedding_adaptation.pipelines.contrastive_finetuning.training import train_here

    job = json.loads((folder / _JOB).read_text(encoding="utf-8"))
    tables = [pd.read_parquet(path) if (path := folder / f"{name}.parquet").exists() else None for name in _TABLES]
    train_pairs, validation_pairs, corpus = tables
    assert train_pairs is not None  # noqa: S101  always written
    assert validation_pairs is not None  # noqa: S101
    rank = int(os.environ.get("RANK", "0"))
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    embedder_options = EmbedderOptions.model_validate(job["embedder"])
    if torch.cuda.is_available():
        local = int(os.environ.get("LOCAL_RANK", "0"))
        torch.cuda.set_device(local)
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        adapter, history = train_here(
            DecoderWeights(Path(job["base"]), ModelCard(**job["card"])),
            train_pairs,
            validation_pairs,
            FinetuningOptions.model_validate(job["options"]),
            embedder_options,
            corpus=corpus,
            checkpoints=None if job["checkpoints"] is None else Path(job["checkpoints"]),
        )
        if rank == 0:
            adapter.model.save_pretrained(str(folder / "adapter"), safe_serialization=True, save_embedding_layers=False)
            history.to_parquet(folder / "history.parquet")
            facts = {name: getattr(adapter, name) for name in ("template", "pooling", "max_length", "steps", "strategy")}
            (folder / "result.json").write_text(json.dumps(facts), encoding="utf-8")
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
