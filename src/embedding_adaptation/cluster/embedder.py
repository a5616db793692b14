"""An embedder that leaves many texts to a cluster."""

from __future__ import annotations

import itertools
import logging
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from tqdm.auto import tqdm

from embedding_adaptation.cluster import session
from embedding_adaptation.cluster.blocks import Block, read_vectors, rejected_rows, write_blocks
from embedding_adaptation.cluster.encoding import encode_blocks
from embedding_adaptation.cluster.settings import ClusterError, ClusterSettings
from embedding_adaptation.cluster.worker import EncodingJob
from embedding_adaptation.embedder.device import DeviceName, DtypeName
from embedding_adaptation.embedder.embedder import Embedder, checked_texts, with_repeats
from embedding_adaptation.embedder.shards import Shard, ShardFolder
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.weights import DecoderWeights
from embedding_adaptation.identity import digest_of, texts_in_order

logger = logging.getLogger(__name__)

VECTOR = "vector"


@dataclass(frozen=True)
class ParquetVectors:
    """Vectors in parquet files.

    Attributes:
        folder: The folder; ``rejected`` in it holds what was set aside: ``row``, ``id``, ``reason``.
        files: The files in the order of the texts.
        rows: Number of vectors.
        rejected: Number of texts set aside.
    """

    folder: Path
    files: tuple[Path, ...]
    rows: int
    rejected: int


class ClusterEmbedder(Embedder):
    """An embedder whose methods give the same vectors, but leave many texts to a Ray cluster.

    Few texts, and all texts once weights have been changed in memory, are embedded by this process, as are those of torchrun's processes.
    Load it with :meth:`on`.
    """

    weights: DecoderWeights
    settings: ClusterSettings
    worker_device: DeviceName
    worker_batch_tokens: int | None

    @classmethod
    def on(
        cls,
        settings: ClusterSettings,
        weights: DecoderWeights,
        *,
        device: DeviceName = "auto",
        dtype: DtypeName = "auto",
        max_length: int = 256,
        batch_tokens: int | None = None,
    ) -> Self:
        """Load weights.

        Args:
            settings: The cluster.
            weights: The weights, in a folder that every machine sees.
            device: The device of this process and of workers.
            dtype: The number format of both; ``auto`` is decided here.
            max_length: Maximum sequence length in tokens, including the prompt.
            batch_tokens: Token budget per batch; ``None`` suits each device.
        """
        embedder = cls.load(weights, device=device, dtype=dtype, max_length=max_length, batch_tokens=batch_tokens)
        embedder.weights, embedder.settings = weights, settings
        embedder.worker_device, embedder.worker_batch_tokens = device, batch_tokens
        return embedder

    def encode_strategies(self, texts: Iterable[str], strategies: Iterable[Strategy], *, progress: bool = True) -> dict[str, np.ndarray]:
        """Embed texts with several strategies; see :meth:`Embedder.encode_strategies`.

        Raises:
            ClusterError: If the cluster cannot be used or gives up, or texts could not be embedded; finished blocks stay.
        """
        strategies, texts = list(strategies), checked_texts(texts)
        unique = list(dict.fromkeys(texts))
        job = self._job({f"{VECTOR}.{number}": strategy for number, strategy in enumerate(strategies)})
        if job is None or not strategies or len(unique) < self.settings.min_texts:
            return super().encode_strategies(texts, strategies, progress=progress)
        self.check(strategies)
        identity = digest_of(job.identities)
        folder = self.settings.folder.absolute() / digest_of([identity, texts_in_order(unique)])
        session.keep(folder)
        blocks = list(write_blocks(enumerate(unique), folder, identity, self.settings))
        vectors: dict[str, np.ndarray] = {}
        for block in encode_blocks(blocks, job, self.settings, progress=progress):
            rows, columns = read_vectors(block)
            for column, strategy in job.columns.items():
                if strategy.name not in vectors:
                    vectors[strategy.name] = np.empty((len(unique), columns[column].shape[1]), np.float32)
                vectors[strategy.name][rows] = columns[column]
        _check_complete(blocks)
        return with_repeats(vectors, unique, texts)

    def encode_to_shards(
        self,
        texts: Iterable[str],
        folder: str | Path,
        strategy: Strategy | None = None,
        *,
        shard_size: int = 8192,
        progress: bool = True,
        encode: Callable[[Sequence[str]], np.ndarray] | None = None,
    ) -> list[Path]:
        """Embed any number of texts in constant memory; see :meth:`Embedder.encode_to_shards`, which writes the same shards.

        ``encode`` is asked only if no workers are.

        Raises:
            ClusterError: If the cluster cannot be used or gives up, or texts could not be embedded; finished shards and blocks stay.
        """
        strategy = strategy or self.strategy
        job = self._job({VECTOR: strategy})
        if job is None or isinstance(texts, str):
            return super().encode_to_shards(texts, folder, strategy, shard_size=shard_size, progress=progress, encode=encode)
        self.check([strategy])
        stream = iter(texts)
        head = list(itertools.islice(stream, self.settings.min_texts))
        every = itertools.chain(head, stream)
        if len(head) < self.settings.min_texts:
            return super().encode_to_shards(every, folder, strategy, shard_size=shard_size, progress=progress, encode=encode)
        identity = job.identities[VECTOR]
        files = ShardFolder(Path(folder), identity)
        place = self.settings.folder.absolute() / digest_of([identity, str(Path(folder).absolute())])
        session.keep(place)
        shards: list[Path] = []
        unfinished: dict[Path, Shard] = {}
        blocks: list[Block] = []
        with tqdm(unit="text", desc="write blocks", disable=not progress) as bar:
            while chunk := list(itertools.islice(every, shard_size)):
                chunk = checked_texts(chunk, first=len(shards) * shard_size)
                shard = files.shard(len(shards), chunk)
                shards.append(shard.path)
                bar.update(len(chunk))
                if not files.is_finished(shard):
                    part = place / shard.path.stem
                    unfinished[part] = shard
                    blocks += write_blocks(enumerate(chunk), part, identity, self.settings)
        waiting = Counter(block.folder for block in blocks)
        by_part: dict[Path, list[Block]] = defaultdict(list)
        for block in blocks:
            by_part[block.folder].append(block)
        for block in encode_blocks(blocks, job, self.settings, progress=progress):
            waiting[block.folder] -= 1
            own = by_part[block.folder]
            if not waiting[block.folder] and not sum(map(rejected_rows, own)):
                unfinished[block.folder].write(np.concatenate([read_vectors(one)[1][VECTOR] for one in own]))
                shutil.rmtree(block.folder, ignore_errors=True)
        _check_complete([block for block in blocks if block.folder.is_dir()])
        return shards

    def encode_to_parquet(
        self, rows: Iterable[tuple[Any, Any]], folder: str | Path, strategy: Strategy | None = None, *, progress: bool = True
    ) -> ParquetVectors:
        """Embed any number of texts into parquet files: ``id``, ``vector`` (a list of fixed size) and ``row``, the text's place.

        A text that cannot be embedded is set aside with its reason. Files of an interrupted call with the same texts, weights and strategy
        are kept.

        Args:
            rows: Ids and texts, as :meth:`~embedding_adaptation.texts.stream.TextStream.rows` gives them; consumed lazily.
            folder: The folder for the files, which every machine sees.
            strategy: The strategy; ``None`` is the embedder's own.
            progress: Whether to show a progress bar.

        Raises:
            ClusterError: If the cluster cannot be used or gives up, or weights were changed in memory; finished files stay.
        """
        strategy = strategy or self.strategy
        job = self._job({VECTOR: strategy})
        if job is None:
            msg = "the weights were changed in memory, where workers cannot see them; save the embedder and load it again"
            raise ClusterError(msg)
        self.check([strategy])
        place = Path(folder).absolute()
        blocks = list(tqdm(write_blocks(rows, place, job.identities[VECTOR], self.settings), unit="block", disable=not progress))
        for block in encode_blocks(blocks, job, self.settings, progress=progress):
            block.texts.unlink(missing_ok=True)
        made = {file for block in blocks for file in (block.vectors, block.rejected)}
        for stale in {*place.glob("*/part-*.parquet")} - made:
            stale.unlink()
        rejected = sum(map(rejected_rows, blocks))
        if rejected:
            logger.warning("%d texts could not be embedded; %s says which and why", rejected, place / "rejected")
        return ParquetVectors(place, tuple(block.vectors for block in blocks), sum(block.rows for block in blocks) - rejected, rejected)

    def _job(self, columns: dict[str, Strategy]) -> EncodingJob | None:
        """What workers need to know; ``None`` if they cannot see these weights."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return None
        base = self.identity_without_adapter
        if base is None:
            return None
        # A method of this name on the model itself is something else.
        is_off = any(getattr(module, "disable_adapters", None) is True for module in self.backbone.modules())
        identity = base if is_off else self.identity
        return EncodingJob(
            replace(self.weights, base=self.weights.base.absolute(), adapter=None if is_off else _absolute(self.weights.adapter)),
            columns,
            {column: self.vectors_identity(strategy, weights=identity) for column, strategy in columns.items()},
            self.worker_device,
            str(self.backbone.dtype).removeprefix("torch."),
            self.max_length,
            self.worker_batch_tokens,
            self.settings.threads,
        )


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


def _check_complete(blocks: Sequence[Block]) -> None:
    """Check that all texts were embedded.

    Raises:
        ClusterError: If not; the message names the files with the reasons.
    """
    incomplete = [block for block in blocks if rejected_rows(block)]
    if incomplete:
        count = sum(map(rejected_rows, incomplete))
        msg = (
            f"{count} texts could not be embedded ({incomplete[0].rejected} says which and why); leave them out, or set "
            "embedder.dtype=float32"
        )
        raise ClusterError(msg)
