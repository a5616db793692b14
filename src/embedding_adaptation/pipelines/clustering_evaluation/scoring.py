"""Clustering scores of precomputed vectors: mteb's fast protocol, and scores on unique documents.

mteb's task objects draw documents and bootstraps from a generator that is never reset, and importing or building them reseeds the process.
So every score gets a fresh task object, and the process's random state is put back afterwards. mteb's result cache knows a model by its
name only; it is never used.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mteb.abstasks import AbsTask

TASK_NAME = "LabelledTexts"
_KMEANS_BATCH = 512  # as in mteb's protocol, so that both scores cluster alike


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Put Python's, NumPy's and torch's random state back when the block ends."""
    import torch

    python, numpy, pytorch = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002  the global state is the point
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(pytorch)


def labelled_texts_task(texts: Sequence[str], labels: Sequence[str], seed: int) -> AbsTask:
    """A fresh mteb clustering task (fast protocol) over the given texts; all of them are embedded."""
    from mteb.abstasks.clustering import AbsTaskClustering
    from mteb.abstasks.task_metadata import TaskMetadata

    from datasets import Dataset, DatasetDict

    class LabelledTexts(AbsTaskClustering):
        metadata = TaskMetadata(
            dataset={"path": "local", "revision": "local"},
            name=TASK_NAME,
            description="The user's labelled texts.",
            type="Clustering",
            eval_langs=["eng-Latn"],
            main_score="v_measure",
        )
        max_fraction_of_documents_to_embed = None

        def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
            """Nothing to load: the dataset is set below."""

    task = LabelledTexts(seed=seed)
    # Labels get a prefix, because the protocol leaves out documents whose label reads -1.
    columns = {"sentences": list(texts), "labels": [f"label {label}" for label in labels]}
    task.dataset = DatasetDict({"test": Dataset.from_dict(columns)})
    task.data_loaded = True
    return task


def mteb_scores(vectors: np.ndarray, texts: Sequence[str], labels: Sequence[str], seed: int) -> tuple[float, float]:
    """Mean V-measure of mteb's fast clustering protocol, and its standard deviation over the bootstraps.

    Args:
        vectors: One row a text, ``[N, D]`` float32.
        texts: The texts. Equal texts must have equal vectors.
        labels: Their labels.
        seed: Seed of the task object.
    """
    import mteb
    from mteb.models import ModelMeta
    from mteb.models.abs_encoder import AbsEncoder

    class PrecomputedEncoder(AbsEncoder):
        """Looks up each text's vector."""

        def __init__(self) -> None:
            self.rows = dict(zip(texts, vectors, strict=True))
            self.mteb_model_meta = ModelMeta.create_empty(overwrites={"name": "local/precomputed", "revision": "local"})

        def encode(self, inputs: Any, **kwargs: Any) -> np.ndarray:  # noqa: ARG002
            return np.stack([self.rows[text] for batch in inputs for text in batch["text"]])

    with preserved_random_state():
        task = labelled_texts_task(texts, labels, seed)
        result = mteb.evaluate(PrecomputedEncoder(), [task], cache=None, show_progress_bar=False)
    scores = result.task_results[0].scores["test"][0]
    return float(scores["v_measure"]), float(scores["v_measure_std"])


def unique_document_scores(vectors: np.ndarray, texts: Sequence[str], labels: Sequence[str], seed: int) -> dict[str, float]:
    """V-measure and adjusted mutual information of one clustering of the unique documents, with k the number of labels.

    The protocol's bootstrap draws documents with replacement, and copies of a document always fall into the same cluster, which lifts both
    scores even of random vectors. Here every document counts once, so AMI is near zero for random vectors.

    Args:
        vectors: One row a text, ``[N, D]``.
        texts: The texts; of equal ones only the first is scored.
        labels: Their labels.
        seed: Seed of the clustering.
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.metrics import adjusted_mutual_info_score, v_measure_score

    first = sorted({text: index for index, text in reversed(list(enumerate(texts)))}.values())
    kept = np.asarray(labels)[first]
    kmeans = MiniBatchKMeans(n_clusters=len(set(kept)), batch_size=_KMEANS_BATCH, init="k-means++", n_init=1, random_state=seed)
    clusters = kmeans.fit_predict(vectors[first])
    return {
        "v_measure_unique": float(v_measure_score(kept, clusters)),
        "ami_unique": float(adjusted_mutual_info_score(kept, clusters)),
    }


def random_vectors(texts: Sequence[str], dimension: int, seed: int) -> np.ndarray:
    """Unit vectors drawn at random, the same for equal texts, ``[N, D]`` float32: what no information scores."""
    unique = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    matrix = np.random.default_rng(seed).standard_normal((len(unique), dimension)).astype(np.float32)  # [U, D]
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix[[unique[text] for text in texts]]
