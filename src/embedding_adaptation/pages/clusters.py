"""The page of ``text_clustering``: a map, a table of themes, what is alike, and the texts to take away."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

from embedding_adaptation.pages.long_texts import common_limit, cut
from embedding_adaptation.pages.rendering import render
from embedding_adaptation.pages.themes import themes_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd


_BUDGET = 8_000_000  # bytes of texts, besides four million of Plotly


def clusters_page(
    points: pd.DataFrame,
    summary: pd.DataFrame,
    merges: pd.DataFrame,
    facts: Mapping[str, Any],
    *,
    others: pd.DataFrame,
    corpus: str,
    private: bool,
    no_structure: bool,
) -> str:
    """Write the page.

    Args:
        points: The texts on the map: ``id``, ``text``, ``cluster``, ``x`` and ``y``.
        summary: The clusters, see :func:`.themes.themes_of`.
        merges: Merges of the tree: ``left_name``, ``right_name``, ``distance``, ``texts``.
        facts: The facts about the clustering, with ``texts``, their number.
        others: Texts that are not on the map and can be taken away with the others: ``id``, ``text``, ``cluster``.
        corpus: Name of the texts.
        private: Leave out all that is of the texts.
        no_structure: Whether no groups were found in the texts.

    Returns:
        An HTML document.
    """
    themes, total = themes_of(summary, private=private), int(facts["texts"])
    here = len(points) + len(others)
    data: dict[str, Any] = {
        "points": points[["x", "y"]].to_numpy().round(3).T.tolist(),
        "clusters": points["cluster"].astype(int).tolist(),
        "texts": None,
        "names": {str(theme.cluster): theme.name for theme in themes},
    }
    limit = None if private else common_limit([*points["text"], *others["text"]], _BUDGET)
    if not private:
        texts, more = ([text if limit is None else cut(text, limit) for text in table["text"]] for table in (points, others))
        data |= {"texts": texts, "ids": points["id"].astype(str).tolist()}
        data["more"] = [
            [text_id, text, int(cluster)] for text_id, text, cluster in zip(others["id"].astype(str), more, others["cluster"], strict=True)
        ]
    return render(
        "clusters.html.j2",
        title="Themes of " + (corpus if corpus and not private else "your texts"),
        subtitle=_subtitle(len([theme for theme in themes if theme.cluster >= 0]), total, facts),
        caution=no_structure,
        themes=themes,
        merges=[] if private else merges.to_dict("records"),
        shown=len(points),
        total=total,
        private=private,
        cut_to=limit,
        download=_download(here, total, limit),
        versions=f"embedding-adaptation {metadata.version('embedding-adaptation')}",
        data=data,
    )


def _download(here: int, total: int, limit: int | None) -> str:
    """What the file holds that the page gives."""
    what = "Each text with its theme" if here == total else f"The {here:,} texts of this page with their themes"
    cut_to = f", cut to {limit:,} characters" if limit else ""
    missing = "" if here == total else f"all {total:,}"
    missing = (f"{missing}, uncut," if missing else "uncut ones") if limit else missing
    return f"{what}{cut_to}{f'; {missing} are in the dataset cluster_assignments' if missing else ''}."


def _subtitle(themes: int, total: int, facts: Mapping[str, Any]) -> str:
    found = f"{themes} themes of {total:,} texts"
    return f"{found}, under the strategy {facts['strategy']} with {facts['weights']} weights." if facts.get("strategy") else f"{found}."
