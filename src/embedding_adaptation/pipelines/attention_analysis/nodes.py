"""Nodes of attention analysis: texts -> recorded attention of base and adapted -> shares -> tables, figures and a page."""

from __future__ import annotations

import logging
from functools import partial
from itertools import islice
from typing import Any

import pandas as pd

from embedding_adaptation.attention.options import AttentionOptions
from embedding_adaptation.attention.recording import AttentionRecording
from embedding_adaptation.attention.rows import AttentionError, AttentionRows
from embedding_adaptation.embedder.weights import DecoderWeights
from embedding_adaptation.figures import Figure
from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.repeatable import repeatable
from embedding_adaptation.texts.stream import TableStream

logger = logging.getLogger(__name__)


@repeatable
def record_attention(
    model: DecoderWeights, base_model: DecoderWeights, texts: pd.DataFrame, options: AttentionOptions, embedder_options: EmbedderOptions
) -> tuple[AttentionRecording, pd.DataFrame]:
    """Prepare the recording of the last token's attention, and measure the effect of removing words, with the template used in fine-tuning.

    Args:
        model: Base weights, or base weights with an adapter.
        base_model: The base weights, which must be those of the adapter.
        texts: Texts with ``id`` and ``text``.
        options: Which texts, layers and heads to record.
        embedder_options: Template, device and number format.

    Returns:
        The recording, which is made when it is saved; and the effect of each removed word.

    Raises:
        AttentionError: If the adapter belongs to another base model.
    """
    from embedding_adaptation.attention.faithfulness import occlude_words
    from embedding_adaptation.runtime import build_strategy, load_embedder

    if not model.shares_base(base_model):
        msg = (
            f"the adapter belongs to {model.card.source!r}, not to {base_model.card.source!r}, so two different base models "
            "would be compared; set base_model to the first, or run 'kedro run --pipelines=data_augmentation,contrastive_finetuning' first"
        )
        raise AttentionError(msg)
    template = build_strategy(embedder_options.adapt, embedder_options).templates[0]
    if not template.suffix and not template.eos:
        logger.warning(
            "template %r has no words after the text: its last token is that of the text, and there is no suffix to measure",
            template.name,
        )
    drawn = options.draw(texts)
    embedder = load_embedder(model, embedder_options)
    recording = AttentionRecording(
        embedder, template, drawn["text"], drawn["id"], layers=options.layers, heads=options.heads, examples=options.examples
    )
    _shown_layers(recording.layers, embedder.layer_count, options)
    occluded = drawn.head(options.occlusion_texts)
    occlusion = occlude_words(
        embedder, template, occluded["text"].tolist(), occluded["id"].tolist(),
        function_words=options.division.function_words, seed=options.seed,
    )  # fmt: skip
    return recording, occlusion


@repeatable
def measure_attention(rows: AttentionRows, options: AttentionOptions) -> tuple[TableStream, TableStream]:
    """Divide recorded attention into shares.

    Args:
        rows: Recorded attention.
        options: How it is divided.

    Returns:
        Shares and other measures, one row per text, layer and head; and the attention on each word of each prompt.
    """
    from embedding_adaptation.attention.shares import measure_rows, measure_words

    division = options.division
    return (
        TableStream(partial(measure_rows, rows, division)),
        TableStream(partial(measure_words, rows, division, _shown_layers(rows.layers, rows.layer_count, options))),
    )


@repeatable
def compare_attention(
    base_attention: pd.DataFrame, adapted_attention: pd.DataFrame, options: AttentionOptions
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Compare base and adapted text by text.

    Args:
        base_attention: Shares of the base model.
        adapted_attention: Shares of the adapted model on the same texts.
        options: Resamples and confidence of the intervals.

    Returns:
        One row per layer and measure; one row per measure over all layers; and the heads, those that changed most first.
    """
    from embedding_adaptation.attention.comparison import ALL, compare_heads, compare_layers

    layers = compare_layers(base_attention, adapted_attention, **_bootstrap(options))
    overall = layers[layers["layer"] == ALL].drop(columns="layer").reset_index(drop=True)
    return layers, overall, compare_heads(base_attention, adapted_attention, **_bootstrap(options))


@repeatable
def compare_words(base_words: pd.DataFrame, adapted_words: pd.DataFrame, options: AttentionOptions) -> pd.DataFrame:
    """Rank words by how much attention they gained or lost over the texts."""
    from embedding_adaptation.attention import comparison

    return comparison.compare_words(base_words, adapted_words, min_texts=options.min_texts_of_word, **_bootstrap(options))


@repeatable
def compare_with_occlusion(
    base_rows: AttentionRows,
    adapted_rows: AttentionRows,
    base_occlusion: pd.DataFrame,
    adapted_occlusion: pd.DataFrame,
    options: AttentionOptions,
) -> pd.DataFrame:
    """Compare the ranking of words by attention with that by the effect of removing them, for base and adapted.

    Args:
        base_rows: Recorded attention of the base model.
        adapted_rows: That of the adapted model.
        base_occlusion: Effects of removed words with the base model.
        adapted_occlusion: Those with the adapted model.
        options: Resamples and confidence of the intervals.

    Returns:
        Mean rank correlations, one row per layer.
    """
    from embedding_adaptation.attention.faithfulness import compare_faithfulness, word_ranks

    base, adapted = (
        word_ranks(rows, occlusion, options.division)
        for rows, occlusion in ((base_rows, base_occlusion), (adapted_rows, adapted_occlusion))
    )
    return compare_faithfulness(base, adapted, **_bootstrap(options))


@repeatable
def plot_layers(attention_shift: pd.DataFrame, attention_heads: pd.DataFrame) -> tuple[Figure, Figure, Figure]:
    """Draw the curves over the layers, the map of layers and spans, and the map of heads."""
    from embedding_adaptation.pipelines.attention_analysis import figures

    return figures.layer_curves(attention_shift), figures.layer_span_map(attention_shift), figures.head_map(attention_heads)


@repeatable
def plot_words(
    base_words: pd.DataFrame,
    adapted_words: pd.DataFrame,
    attention_words: pd.DataFrame,
    options: AttentionOptions,
    embedder_options: EmbedderOptions,
) -> tuple[Figure, Figure, str]:
    """Draw the examples word by word and the words that changed most, and write the page of coloured texts.

    Args:
        base_words: Attention of the base model on each word.
        adapted_words: That of the adapted model.
        attention_words: Words ranked by the attention they gained.
        options: Which texts to show.
        embedder_options: The template, for the page's heading.
    """
    from embedding_adaptation.attention.comparison import paired_words
    from embedding_adaptation.pages.attention import attention_page
    from embedding_adaptation.pipelines.attention_analysis import figures
    from embedding_adaptation.runtime import build_strategy

    words = paired_words(base_words, adapted_words)
    if options.private:
        words = _without_texts(words)
        attention_words = attention_words.assign(word=[f"word {place}" for place in range(1, len(attention_words) + 1)])
    ids = words["id"].drop_duplicates().tolist()
    examples = words.loc[words["example"], "id"].drop_duplicates().tolist()
    layers = f"layers {', '.join(map(str, options.shown_layers))}" if options.shown_layers else "all layers"
    template = build_strategy(embedder_options.adapt, embedder_options).templates[0].pattern
    return (
        figures.word_bars(words, examples or ids[:1], layers=layers),
        figures.word_changes(attention_words, layers=layers),
        attention_page(words, list(islice(ids, options.page_texts)), template=template, layers=layers),
    )


def _without_texts(words: pd.DataFrame) -> pd.DataFrame:
    """Words with numbers for ids, and dots for what is of a text: the part named so, and the tokens that are separate from it."""
    numbers = {text_id: f"text {number}" for number, text_id in enumerate(words["id"].drop_duplicates(), start=1)}
    hidden = words["part"].isin(["text", "sink", "self"])
    return words.assign(id=words["id"].map(numbers), word=words["word"].mask(hidden, "•••"))


@repeatable
def plot_faithfulness(attention_faithfulness: pd.DataFrame) -> Figure:
    """Draw the agreement of attention and occlusion over the layers."""
    from embedding_adaptation.pipelines.attention_analysis.figures import faithfulness_curves

    return faithfulness_curves(attention_faithfulness)


def _bootstrap(options: AttentionOptions) -> dict[str, Any]:
    return {"resamples": options.resamples, "confidence": options.confidence, "seed": options.seed}


def _shown_layers(recorded: tuple[int, ...], count: int, options: AttentionOptions) -> list[int]:
    """The layers to show, counted from 1."""
    resolved = [layer if layer > 0 else count + 1 + layer for layer in options.shown_layers]
    missing = [given for given, layer in zip(options.shown_layers, resolved, strict=True) if layer not in recorded]
    if missing:
        msg = (
            f"layer {missing[0]} in attention_analysis.shown_layers is not recorded; choose from {', '.join(map(str, recorded))}, "
            "or add it to attention_analysis.layers"
        )
        raise AttentionError(msg)
    return resolved
