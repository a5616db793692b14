"""Between the base model and the trained one: how much of the adapter is kept, chosen without labels."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from embedding_adaptation.pipelines.contrastive_finetuning.judging import nearest, shared_neighbours
from embedding_adaptation.vectors.agreement_of_views import FEWEST, CharacterView

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedding_adaptation.pipelines.contrastive_finetuning.setup import Setup

logger = logging.getLogger(__name__)

Measures = dict[str, float]  # scale, agreement, change, texts
_UP, _MAGNITUDE = "lora_B", "lora_magnitude_vector"


def keep_best_scale(setup: Setup) -> list[Measures]:
    """Scale the adapter by the largest of the scales at which texts' groups agree as much as they ever do with their characters.

    The weights are on a straight line from the base model (0) to the trained one (1), at no cost when the model is used. If training
    went wrong, less of it is better, and none at all may be best.

    Args:
        setup: With the weights to be scaled in its model, which are scaled afterwards.

    Returns:
        For each scale, from 0: ``scale``; ``agreement`` with the view by characters (:class:`CharacterView`); ``change``, the share of
        nearest neighbours that differ from the base model's; ``texts``, on how many it was measured; and ``chosen``, 1 for one of them.
        Empty if nothing was measured.

    References:
        Interpolating weights of a base and a fine-tuned model: https://arxiv.org/abs/2109.01903
    """
    options, texts = setup.job.options, setup.judge.texts
    if options.interpolation is None:
        return []
    if len(texts) < FEWEST or (options.start is not None and options.lora.weight_decomposed):
        logger.info("the adapter is kept whole: how much of it is best cannot be measured on %d texts", len(texts))
        return []
    trained = {name: weight.detach().clone() for name, weight in setup.model.named_parameters() if name in setup.initial}
    view, rows, before = CharacterView(texts), [], np.empty(0)
    for scale in (0.0, *options.interpolation.scales):
        scale_adapter(setup, trained, scale)
        vectors = setup.encode(texts)
        neighbours = nearest(vectors)
        before = neighbours if scale == 0 else before
        change = 1.0 - shared_neighbours(neighbours, before)
        rows.append({"scale": scale, "agreement": view.agreement(vectors), "change": change, "texts": float(len(texts))})
    kept = chosen_scale(rows, options.interpolation.tolerance)
    scale_adapter(setup, trained, kept)
    said = ", ".join(f"{row['scale']:g}: {row['agreement']:.3f}" for row in rows)
    (logger.warning if kept < 1 else logger.info)("kept %g of the adapter; agreement with the texts' characters by scale: %s", kept, said)
    return [row | {"chosen": float(row["scale"] == kept)} for row in rows]


def chosen_scale(rows: Sequence[Mapping[str, float]], tolerance: float) -> float:
    """The largest scale whose agreement is within the tolerance of the best."""
    known = [row for row in rows if math.isfinite(row["agreement"])]
    best = max((row["agreement"] for row in known), default=0.0)
    return max((row["scale"] for row in known if row["agreement"] >= best - tolerance), default=1.0)


def scale_adapter(setup: Setup, trained: Mapping[str, torch.Tensor], scale: float) -> None:
    """Set the adapter to a scale of the trained one.

    Args:
        setup: With the model whose weights are set.
        trained: The trained weights by name.
        scale: 0 gives the base model, 1 the trained one.
    """
    with torch.no_grad():
        for name, weight in setup.model.named_parameters():
            if name not in trained:
                continue
            if _MAGNITUDE in name:  # of a decomposed adapter, which starts at the base weights' norm and not at zero
                weight.copy_(torch.lerp(setup.initial[name], trained[name], scale))
            elif _UP in name:
                weight.copy_(trained[name] * scale)
