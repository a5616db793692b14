"""Hard negatives from the corpus: close to an anchor, and not its positive."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from embedding_adaptation.vectors.unit import unit_vectors

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from embedding_adaptation.pipelines.contrastive_finetuning.options import HardNegativesOptions

logger = logging.getLogger(__name__)


def mined_negatives(
    encode: Callable[[list[str]], np.ndarray], pairs: pd.DataFrame, corpus: pd.DataFrame, options: HardNegativesOptions, seed: int
) -> list[str]:
    """A hard negative for each pair.

    Candidates are the corpus's texts between the ranks ``skip`` and ``skip + within`` of closeness to the anchor: the closest ones are
    likely to be positives nobody has named. They must be less similar than the positive by a margin, and may neither be a text of the pair
    nor come from its source. Where there is none, a random text takes the place.

    Args:
        encode: Embeds texts, ``[N, D]``.
        pairs: ``source_text``, ``generated_text`` and ``source_id``; ``other_id`` where known.
        corpus: ``id`` and ``text``.
        options: Ranks and margin.
        seed: Seed of the draw.

    Returns:
        A text for each pair, in their order.

    References:
        Ranks to skip and relative margins: https://arxiv.org/abs/2407.15831
    """
    candidates = corpus.head(options.texts)
    ids, texts = candidates["id"].astype(str).to_numpy(), candidates["text"].tolist()
    rng = np.random.default_rng(seed)
    of_texts = unit_vectors(encode(texts))  # [M, D]
    anchors, positives = (unit_vectors(encode(pairs[column].tolist())) for column in ("source_text", "generated_text"))  # [N, D] each
    limits = (anchors * positives).sum(axis=1) * (1 - options.relative_margin)  # [N]
    own = [pairs["source_id"].astype(str), pairs["other_id"].astype(str)] if "other_id" in pairs else [pairs["source_id"].astype(str)]
    chosen: list[str] = []
    missing = 0
    columns = zip(anchors, limits, pairs["source_text"], pairs["generated_text"], *own, strict=True)
    for anchor, limit, source, positive, *sources in columns:
        scores = of_texts @ anchor  # [M]
        order = np.argsort(-scores, kind="stable")[options.skip : options.skip + options.within]
        usable = [
            place
            for place in order.tolist()
            if scores[place] < limit and ids[place] not in sources and texts[place] not in (source, positive)
        ]
        if not usable:
            missing += 1
            usable = [place for place in range(len(texts)) if ids[place] not in sources]
        chosen.append(texts[usable[int(rng.integers(len(usable)))]])
    logger.info("hard negatives for %d of %d pairs; a random text for the others", len(chosen) - missing, len(chosen))
    return chosen
