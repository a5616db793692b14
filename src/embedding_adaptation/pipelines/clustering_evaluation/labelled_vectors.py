"""The labelled texts with their vectors."""

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
    """Labelled texts, their vectors under every strategy, and the weights that produced them.

    Attributes:
        texts: ``id``, ``text`` and ``label``.
        vectors: For each strategy's name a float32 array ``[N, D]``, rows in the order of the texts.
        after: Fitted after-processing by strategy, for those that have some.
        models: ``base`` and ``adapted`` weights.
        fingerprints: Fingerprints of the weights that produced the vectors, by the same names.
    """

    texts: pd.DataFrame
    vectors: Mapping[str, np.ndarray]
    after: Mapping[str, AfterProcessing]
    models: Mapping[str, DecoderWeights]
    fingerprints: Mapping[str, str]

    def __deepcopy__(self, memo: object) -> Self:
        """Return itself: it is immutable, and Kedro copies what it passes between nodes."""
        return self

    @classmethod
    def align(
        cls,
        texts: pd.DataFrame,
        embeddings: Mapping[str, Embeddings],
        models: Mapping[str, DecoderWeights],
        identities: Mapping[str, str],
    ) -> Self:
        """Combine texts with their vectors.

        Args:
            texts: ``id``, ``text`` and ``label``.
            embeddings: Vectors of the ``base`` and the ``adapted`` weights.
            models: The weights.
            identities: Identity of each strategy: vectors are looked up by identity, whatever the strategy's name was.

        Raises:
            EvaluationError: If the vectors are of other texts, or of none of the current strategies.
        """
        ids = tuple(texts["id"])
        for namespace, part in embeddings.items():
            if not part.ids:
                msg = f"there are no {namespace}_embeddings; run embedding_extraction first"
                raise EvaluationError(msg)
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
