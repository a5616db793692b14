r"""Train on one or more devices, on one or several machines: each takes part of every batch, and all negatives count.

``torchrun`` starts one process per device; the first one writes. By hand, or on several machines that share a folder::

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
from datetime import timedelta
from pathlib import Path

import pandas as pd
import torch
from peft import PeftModel

from embedding_adaptation.atomic import scratch_prefix
from embedding_adaptation.datasets.adapter import TrainedAdapter
from embedding_adaptation.pipelines.contrastive_finetuning.job import TrainingError, TrainingJob
from embedding_adaptation.pipelines.contrastive_finetuning.loop import train_in_process
from embedding_adaptation.pipelines.contrastive_finetuning.ranks import rank
from embedding_adaptation.runtime import load_embedder

# The others wait while the first process judges and mines.
_LONGEST_WAIT = timedelta(hours=2)
_FACT_NAMES = ("template", "pooling", "max_length", "steps", "strategy", "scales", "collision_rate")
_ADAPTER, _HISTORY, _FACTS = "adapter", "history.parquet", "result.json"


def train(job: TrainingJob) -> tuple[TrainedAdapter, pd.DataFrame]:
    """Train an adapter, and keep the best step by the stopping criterion.

    Each step draws ``batch_size`` compatible pairs; a pair's negatives are all the others. GradCache bounds memory by chunks
    of tokens, so the number of negatives does not depend on the machine. If a run with the same pairs, options and weights was
    interrupted, it resumes from its last checkpoint.

    Args:
        job: Data, model and options.

    Returns:
        The adapter, and its history: one row for each step, with the columns of :data:`.loop.HISTORY_COLUMNS` (NaN where not measured)
        and ``chosen``.

    Raises:
        TrainingError: If there are fewer pairs than one batch needs, the loss is no longer a number, something that the options ask for
            is missing, or a process on one of several devices fails; its output is on stderr.
        BatchError: If too few pairs fit into one batch.

    References:
        - InfoNCE with in-batch negatives: https://arxiv.org/abs/1705.00652
        - GradCache: https://arxiv.org/abs/2101.06983
        - LoRA: https://arxiv.org/abs/2106.09685
    """
    job.check()
    devices = job.options.devices
    if devices == 1:
        return train_in_process(job)
    with tempfile.TemporaryDirectory(prefix=scratch_prefix()) as name:
        job.write(Path(name))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(devices)]
        environment = os.environ | {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // devices))}
        done = subprocess.run([*command, "-m", __name__, name], env=environment, check=False)  # noqa: S603  our own module
        if done.returncode:
            msg = f"training on {devices} devices failed with exit code {done.returncode}; see the output above"
            raise TrainingError(msg)
        return read_result(Path(name), job)


def read_result(folder: Path, job: TrainingJob) -> tuple[TrainedAdapter, pd.DataFrame]:
    """The adapter and history written by the first process."""
    facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    model = PeftModel.from_pretrained(load_embedder(job.weights, job.embedder_options).backbone, str(folder / _ADAPTER))
    return TrainedAdapter(model=model, base=job.weights.card, **facts), pd.read_parquet(folder / _HISTORY)


def main(folder: Path) -> None:
    """Run one training process, and write the result if it is the first."""
    is_first = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if is_first else logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=_LONGEST_WAIT)
    try:
        adapter, history = train_in_process(TrainingJob.read(folder))
        if rank() == 0:
            adapter.model.save_pretrained(str(folder / _ADAPTER), safe_serialization=True, save_embedding_layers=False)
            history.to_parquet(folder / _HISTORY)
            facts = {name: getattr(adapter, name) for name in _FACT_NAMES}
            (folder / _FACTS).write_text(json.dumps(facts), encoding="utf-8")
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
