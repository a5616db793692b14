"""k-means over vectors in parquet files: sums and counts of each file, added up in the order of the files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.cluster import KMeans

from embedding_adaptation.atomic import replacing_file
from embedding_adaptation.cluster import session
from embedding_adaptation.cluster.settings import ClusterError, ClusterSettings
from embedding_adaptation.vectors.kmeans import Assignment, assign
from embedding_adaptation.vectors.store import VectorStore
from embedding_adaptation.vectors.unit import unit_vectors

# Vectors per cluster that the start is found on, as for mini-batches.
_START_VECTORS = 50
_STARTS = 5


@dataclass(frozen=True)
class Statistics:
    """What one file contributes to the next centres.

    Attributes:
        sums: Sum of the unit vectors of each cluster, float64 ``[K, D]``.
        counts: Number of vectors of each cluster, ``[K]``.
        distance: Sum of the cosine distances to the nearest centres.
    """

    sums: np.ndarray
    counts: np.ndarray
    distance: float


def cluster_files(
    files: Sequence[Path],
    clusters: int,
    *,
    seed: int,
    labels: Path | None = None,
    rounds: int = 20,
    tolerance: float = 1e-4,
    settings: ClusterSettings | None = None,
) -> np.ndarray:
    """Spherical k-means over the column ``vector`` of parquet files, of which each process holds one at a time.

    Every round reads all files and moves each centre to the mean direction of its vectors. The result does not depend on who reads which
    file, because contributions are added in the order of the files.

    Args:
        files: The files, as :meth:`~embedding_adaptation.cluster.embedder.ClusterEmbedder.encode_to_parquet` writes them.
        clusters: Number of centres.
        seed: Seed of the vectors that the start is found on, and of that start.
        labels: Folder for the result: for each file one of the same name with ``row``, ``id``, ``cluster`` and ``distance``.
        rounds: Most rounds.
        tolerance: Stop when the mean cosine distance falls by less than this share.
        settings: The cluster; ``None`` does everything in this process.

    Returns:
        Unit vectors ``[K, D]``, the centre of the largest cluster first; fewer if some would be empty.

    Raises:
        ClusterError: If there are fewer vectors than clusters, or the cluster cannot be used.

    References:
        Dhillon and Modha, Concept decompositions for large sparse text data using clustering (Machine Learning 42, 2001).
    """
    sizes = [pq.read_metadata(file).num_rows for file in files]
    if sum(sizes) < clusters:
        msg = f"{sum(sizes)} vectors are too few for {clusters} clusters; ask for fewer clusters"
        raise ClusterError(msg)
    files = [file for file, size in zip(files, sizes, strict=True) if size]
    start = _drawn(files, [size for size in sizes if size], _START_VECTORS * clusters, seed)
    centres = unit_vectors(KMeans(clusters, n_init=_STARTS, random_state=seed).fit(start).cluster_centers_)
    last = np.inf
    for _ in range(rounds):
        every = _each(_statistics, files, centres, settings)
        sums = sum(one.sums for one in every)
        counts = sum(one.counts for one in every)
        distance = sum(one.distance for one in every)
        # An empty cluster stays where it is.
        centres = np.where((counts > 0)[:, None], unit_vectors(np.where((counts > 0)[:, None], sums, centres)), centres)
        if last - distance <= tolerance * last and np.isfinite(last):
            break
        last = distance
    counts = sum(one.counts for one in _each(_statistics, files, centres, settings))
    order = [cluster for cluster in np.argsort(-counts, kind="stable") if counts[cluster]]
    centres = centres[order]
    if labels is not None:
        _each(partial(_write_labels, folder=labels), files, centres, settings)
    return centres


def _statistics(file: Path, centres: np.ndarray) -> Statistics:
    found = _assigned(file, centres)
    return Statistics(found.sums, np.bincount(found.labels, minlength=len(centres)), float(found.distances.sum(dtype=np.float64)))


def _write_labels(file: Path, centres: np.ndarray, folder: Path) -> None:
    found = _assigned(file, centres)
    table = pq.read_table(file, columns=["row", "id"])
    table = table.append_column("cluster", pa.array(found.labels)).append_column("distance", pa.array(found.distances))
    with replacing_file(folder / file.name) as work:
        pq.write_table(table, work)


def _assigned(file: Path, centres: np.ndarray) -> Assignment:
    return assign(VectorStore.of(_matrix(file)), centres)


def _matrix(file: Path) -> np.ndarray:
    column = pq.read_table(file, columns=["vector"])["vector"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), column.type.list_size)


def _drawn(files: Sequence[Path], sizes: Sequence[int], count: int, seed: int) -> np.ndarray:
    """Unit vectors drawn from all files, ``[n, D]``."""
    rows = np.sort(np.random.default_rng(seed).choice(sum(sizes), min(sum(sizes), count), replace=False))
    ends = np.cumsum(sizes)
    parts = []
    for file, first, last in zip(files, ends - sizes, ends, strict=True):
        own = rows[(rows >= first) & (rows < last)] - first
        if len(own):
            parts.append(_matrix(file)[own])
    return unit_vectors(np.concatenate(parts))


def _each(
    function: Callable[[Path, np.ndarray], Any], files: Sequence[Path], centres: np.ndarray, settings: ClusterSettings | None
) -> list[Any]:
    """A function's results for all files, in their order."""
    if settings is None:
        return [function(file, centres) for file in files]
    session.connect(settings)
    import ray

    task = ray.remote(num_cpus=settings.threads)(_call)
    shared = ray.put(centres)
    results: list[Any] = []
    most = 2 * session.workers(settings)[0]
    waiting: list[Any] = []
    try:
        for file in files:
            waiting.append(task.remote(function, file, shared))
            if len(waiting) >= most:
                results.append(ray.get(waiting.pop(0)))
        return results + ray.get(waiting)
    except ray.exceptions.RayError as error:
        msg = f"clustering on the cluster failed ({str(error).strip().splitlines()[-1]}); run again"
        raise ClusterError(msg) from error


def _call(function: Callable[[Path, np.ndarray], Any], file: Path, centres: np.ndarray) -> Any:
    return function(file, centres)
