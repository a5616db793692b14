"""The page of ``text_clustering``: a map, a table of themes, what is alike, and the texts to take away."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

from embedding_adaptation.pages.rendering import render
from embedding_adaptation.pages.themes import themes_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd


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
    if not private:
        data |= {"texts": points["text"].tolist(), "ids": points["id"].astype(str).tolist()}
        data["more"] = [[str(row["id"]), row["text"], int(row["cluster"])] for row in others.to_dict("records")]
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
        download="Each text with its theme."
        if here == total
        else f"The {here:,} texts of this page with their themes; all {total:,} are in the dataset cluster_assignments.",
        versions=f"embedding-adaptation {metadata.version('embedding-adaptation')}",
        data=data,
    )


def _subtitle(themes: int, total: int, facts: Mapping[str, Any]) -> str:
    found = f"{themes} themes of {total:,} texts"
    return f"{found}, under the strategy {facts['strategy']} with {facts['weights']} weights." if facts.get("strategy") else f"{found}."
