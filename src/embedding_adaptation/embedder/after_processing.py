"""After-processing, fitted on unlabelled texts: centring, removal of common directions, whitening, and truncation of dimensions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_FLOOR = 1e-6  # relative to the largest singular value: directions below it contain nothing but rounding errors


class AfterProcessingError(ValueError):
    """Steps that are impossible for these vectors; the message says what to change."""


@dataclass(frozen=True)
class AfterSteps:
    """The steps applied to pooled vectors, in this order.

    Attributes:
        centre: Subtract the mean of the unlabelled texts' vectors.
        remove_components: Remove this many of the strongest principal components, which all texts share (arXiv 1702.01417); also centres.
        whiten: Give all principal directions the same variance (arXiv 2103.15316); also centres.
        dimensions: Keep this many dimensions: the strongest principal ones if vectors are whitened, otherwise the first ones.
    """

    centre: bool = False
    remove_components: int = 0
    whiten: bool = False
    dimensions: int | None = None

    @property
    def fitted(self) -> bool:
        """Whether the steps need unlabelled texts."""
        return self.centre or self.remove_components > 0 or self.whiten


@dataclass(frozen=True)
class AfterProcessing:
    """Fitted after-processing: an affine map.

    Attributes:
        mean: ``[D]``, subtracted first.
        matrix: ``[D, D']``, multiplied from the right; ``None`` if only the mean is subtracted or dimensions are dropped.
        dimensions: Number of dimensions kept.
    """

    mean: np.ndarray
    matrix: np.ndarray | None
    dimensions: int

    @classmethod
    def fit(cls, vectors: np.ndarray, steps: AfterSteps) -> AfterProcessing:
        """Fit on vectors of unlabelled texts.

        Args:
            vectors: ``[N, D]`` from the strategy without after-processing.
            steps: The steps to fit.

        Raises:
            AfterProcessingError: If there are too few texts for the steps, or fewer components or dimensions than requested.
        """
        count, width = vectors.shape
        kept = steps.dimensions or width
        if not 1 <= kept <= width - (steps.remove_components if steps.whiten else 0):
            msg = f"after-processing cannot keep {kept} dimensions of vectors that have {width}; lower dimensions"
            raise AfterProcessingError(msg)
        mean = vectors.mean(axis=0, dtype=np.float64) if steps.fitted else np.zeros(width)
        if not (steps.remove_components or steps.whiten):
            return cls(mean.astype(np.float32), None, kept)
        needed = max(steps.remove_components, kept if steps.whiten and steps.dimensions else 0) + 1
        if count <= needed or steps.remove_components >= width:
            msg = (
                f"after-processing needs more than {needed} unlabelled texts and more than {steps.remove_components} dimensions, "
                f"but got {count} texts and {width} dimensions; give more texts, or lower remove_components or dimensions"
            )
            raise AfterProcessingError(msg)
        _, strengths, directions = np.linalg.svd(vectors.astype(np.float64) - mean, full_matrices=False)  # [K], [K, D]
        removed = directions[: steps.remove_components]
        if not steps.whiten:
            matrix = (np.eye(width) - removed.T @ removed)[:, :kept]  # [D, D']
        else:
            solid = int((strengths > _FLOOR * strengths[0]).sum())
            used = slice(steps.remove_components, min(steps.remove_components + kept, solid))
            matrix = directions[used].T / strengths[used] * np.sqrt(count - 1)  # [D, D']
        return cls(mean.astype(np.float32), matrix.astype(np.float32), matrix.shape[1])

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Map vectors ``[N, D]`` to ``[N, D']``."""
        centred = vectors - self.mean
        return centred[:, : self.dimensions] if self.matrix is None else centred @ self.matrix
