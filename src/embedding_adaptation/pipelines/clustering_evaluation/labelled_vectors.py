"""The labelled texts with everything that is known of their vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from embedding_adaptation.pipelines.clustering_evaluation.errors import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import pandas as pd

    from embedding_adaptation.datasets.embeddings import Embeddings
    from embedding_adaptation.embedder.after_processing import AfterProcessing
    from embedding_adaptation.embedder.weights import DecoderWeights


@dataclass(frozen=True)
class LabelledVectors:
    """Labelled texts, their vectors under every strategy, and the weights behind these.

    Attributes:
        texts: ``id``, ``text`` and ``label``.
        vectors: For each strategy's name a float32 array ``[N, D]``, rows in the order of the texts.
        after: The fitted after-processing of the strategies that have some, by name.
        models: ``base`` and ``adapted`` weights.
        fingerprints: What the weights that made the vectors are known by, under the same names.
    """

    texts: pd.DataFrame
    vectors: Mapping[str, np.ndarray]
    after: Mapping[str, AfterProcessing]
    models: Mapping[str, DecoderWeights]
    fingerprints: Mapping[str, str]

    def __deepcopy__(self, memo: object) -> Self:
        """Itself: nothing of it changes, and Kedro copies what it hands from node to node."""
        return self

    @classmethod
    def align(
        cls,
        texts: pd.DataFrame,
        embeddings: Mapping[str, Embeddings],
        models: Mapping[str, DecoderWeights],
        identities: Mapping[str, str],
    ) -> Self:
        """Put vectors beside the texts that they are of.

        Args:
            texts: ``id``, ``text`` and ``label``.
            embeddings: Vectors of the ``base`` and the ``adapted`` weights.
            models: The weights.
            identities: For each strategy what it is known by: vectors are found by that, whatever the strategy was called.

        Raises:
            EvaluationError: If vectors are of other texts, or of no strategy of today.
        """
        ids = tuple(texts["id"])
        for namespace, part in embeddings.items():
            if part.ids != ids:
                msg = (
                    f"the {len(part.ids)} texts of {namespace}_embeddings are not the {len(ids)} labelled texts in the same order; "
                    "run embedding_extraction again with the same labelled_texts"
                )
                raise EvaluationError(msg)
        parts = {namespace: part.renamed(identities) for namespace, part in embeddings.items()}
        vectors = {name: matrix for part in parts.values() for name, matrix in part.vectors.items()}
        if not vectors:
            names = " and ".join(f"{name}_embeddings" for name in embeddings)
            msg = f"{names} contain no vectors of the current strategies; run embedding_extraction again"
            raise EvaluationError(msg)
        after = {name: fitted for part in parts.values() for name, fitted in part.after.items()}
        return cls(texts, vectors, after, models, {namespace: part.weights for namespace, part in parts.items()})
