"""After-processing, fitted on unlabelled texts: centring, removal of common directions, whitening, a learned map, fewer dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from embedding_adaptation.vectors.head import fit_head
from embedding_adaptation.vectors.unit import unit_vectors

_FLOOR = 1e-6  # relative to the largest singular value: directions below it contain nothing but rounding errors


class AfterProcessingError(ValueError):
    """Steps that are impossible for these vectors; the message says what to change."""


@dataclass(frozen=True)
class AfterSteps:
    """The steps applied to pooled vectors, in this order.

    Attributes:
        centre: Subtract this share of the mean of the unlabelled texts' vectors: ``True`` or 1 all of it. If one class makes up most of the
            texts, the mean is mostly that class's, and subtracting all of it takes away what sets the class apart.
        remove_components: Remove this many of the strongest principal components, which all texts share (arXiv 1702.01417); also centres.
        whiten: Give all principal directions the same variance (arXiv 2103.15316); also centres.
        dimensions: Keep this many dimensions: the strongest principal ones if vectors are whitened, distilled or consist of several parts,
            otherwise the first ones.
        distil: Map vectors linearly to those of a teacher, as closely as a penalty of this strength allows (see
            :func:`~embedding_adaptation.vectors.head.fit_head`); also centres. ``None`` does not.
    """

    centre: float | bool = False
    remove_components: int = 0
    whiten: bool = False
    dimensions: int | None = None
    distil: float | None = None

    @property
    def fitted(self) -> bool:
        """Whether the steps need unlabelled texts."""
        return self.centre > 0 or self.remove_components > 0 or self.whiten or self.distil is not None


@dataclass(frozen=True)
class AfterProcessing:
    """Fitted after-processing: an affine map of each part of a vector; of several parts, each is then scaled to unit length.

    Attributes:
        mean: ``[D]``, subtracted first.
        matrix: ``[D, D' / parts]``, of which each part has its own rows, multiplied from the right; ``None`` if only the mean is subtracted
            or dimensions are dropped.
        dimensions: Number of dimensions kept.
        parts: Number of equal parts that vectors consist of.
        projection: ``[D', dimensions]``, multiplied from the right once the parts stand side by side; ``None`` if there is nothing to do
            then, or only one part.
    """

    mean: np.ndarray
    matrix: np.ndarray | None
    dimensions: int
    parts: int = 1
    projection: np.ndarray | None = None

    @classmethod
    def fit(cls, vectors: np.ndarray, steps: AfterSteps, parts: int = 1, targets: np.ndarray | None = None) -> AfterProcessing:
        """Fit on vectors of unlabelled texts.

        Args:
            vectors: ``[N, D]`` from the strategy without after-processing.
            steps: The steps to fit.
            parts: Number of equal parts that vectors consist of, each of which is centred and processed by itself.
            targets: A teacher's vectors of the same texts, ``[N, T]``, if the steps distil.

        Raises:
            AfterProcessingError: If there are too few texts for the steps, or fewer components or dimensions than requested.
        """
        if steps.distil is not None:
            return _distilled(vectors, steps, steps.distil, parts, targets)
        if parts == 1:
            return cls(*_affine(vectors, steps))
        width = vectors.shape[1]
        steps_of_part = AfterSteps(steps.centre, steps.remove_components, steps.whiten)
        fitted = [_affine(part, steps_of_part) for part in np.split(vectors, parts, axis=1)]
        kept = min(dimensions for _, _, dimensions in fitted)
        matrices = [matrix[:, :kept] for _, matrix, _ in fitted if matrix is not None]
        mean = np.concatenate([mean for mean, _, _ in fitted])  # [D]
        whole = cls(mean, np.concatenate(matrices) if matrices else None, kept * parts, parts)
        if steps.dimensions is None:
            return whole
        if not steps.dimensions <= min(len(vectors), whole.dimensions):
            msg = (
                f"after-processing cannot keep {steps.dimensions} principal dimensions of {len(vectors)} vectors that have {width}; lower "
                "dimensions, or give more texts"
            )
            raise AfterProcessingError(msg)
        directions = np.linalg.svd(whole.apply(vectors).astype(np.float64), full_matrices=False)[2]  # [K, D']
        return cls(mean, whole.matrix, steps.dimensions, parts, directions[: steps.dimensions].T.astype(np.float32))

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Map vectors ``[N, D]`` to ``[N, D']``."""
        centred = vectors - self.mean
        if self.parts == 1:
            return centred[:, : self.dimensions] if self.matrix is None else centred @ self.matrix
        of_parts = np.split(centred, self.parts, axis=1)  # [N, D / parts] each
        if self.matrix is not None:
            of_parts = [part @ matrix for part, matrix in zip(of_parts, np.split(self.matrix, self.parts), strict=True)]
        whole = np.concatenate([unit_vectors(part) for part in of_parts], axis=1) / np.float32(np.sqrt(self.parts))
        return whole if self.projection is None else whole @ self.projection

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that are there, by name; with :meth:`settings`, everything that :meth:`restored` needs."""
        named = {"mean": self.mean, "matrix": self.matrix, "projection": self.projection}
        return {name: np.ascontiguousarray(array) for name, array in named.items() if array is not None}

    def settings(self) -> dict[str, int]:
        """The numbers, for JSON."""
        return {"dimensions": self.dimensions, "parts": self.parts}

    @classmethod
    def restored(cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> Self:
        """What :meth:`arrays` and :meth:`settings` describe."""
        return cls(
            arrays["mean"], arrays.get("matrix"), int(settings["dimensions"]), int(settings.get("parts", 1)), arrays.get("projection")
        )


def _distilled(vectors: np.ndarray, steps: AfterSteps, ridge: float, parts: int, targets: np.ndarray | None) -> AfterProcessing:
    """All steps but the last, and then the map to the teacher's vectors."""
    if targets is None or len(targets) != len(vectors):
        msg = f"distilling {len(vectors)} vectors needs a teacher's vectors of the same texts; give targets, or set distil to false"
        raise AfterProcessingError(msg)
    before = AfterProcessing.fit(vectors, AfterSteps(steps.centre or True, steps.remove_components, steps.whiten), parts)
    processed = before.apply(vectors)
    if steps.dimensions is not None and steps.dimensions > min(len(vectors), processed.shape[1]):
        msg = (
            f"after-processing cannot keep {steps.dimensions} of the {min(len(vectors), processed.shape[1])} dimensions that "
            f"{len(vectors)} distilled vectors have; lower dimensions, or give more texts"
        )
        raise AfterProcessingError(msg)
    head = fit_head(processed, targets, ridge=ridge, dimensions=steps.dimensions)  # [D', K]
    if parts > 1:
        return AfterProcessing(before.mean, before.matrix, head.shape[1], parts, head)
    matrix = head if before.matrix is None else (before.matrix @ head).astype(np.float32)  # [D, K]
    return AfterProcessing(before.mean, matrix, head.shape[1])


def _affine(vectors: np.ndarray, steps: AfterSteps) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Mean, matrix and dimensions of the affine map of one part."""
    count, width = vectors.shape
    kept = steps.dimensions or width
    if not 1 <= kept <= width - (steps.remove_components if steps.whiten else 0):
        msg = f"after-processing cannot keep {kept} dimensions of vectors that have {width}; lower dimensions"
        raise AfterProcessingError(msg)
    mean = vectors.mean(axis=0, dtype=np.float64) if steps.fitted else np.zeros(width)
    if not (steps.remove_components or steps.whiten):
        return (float(steps.centre) * mean).astype(np.float32), None, kept
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
    return mean.astype(np.float32), matrix.astype(np.float32), matrix.shape[1]
