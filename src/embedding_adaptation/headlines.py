"""What a run says in a few numbers, the first that MLflow shows of it, and the texts it used as MLflow datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedding_adaptation.comparison_table import LABELLED_TEXTS
from embedding_adaptation.tracking_tags import BEST, DESCRIPTION, EXPORTED, VERDICT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd

# MLflow sorts by name: all of these come before training_history.
METRICS: dict[str, str] = {
    "adaptation_verdict": "1 better, 0 no difference shown, -1 worse; missing if it cannot be told",
    "best_score": "highest V-measure on the labelled texts, over all strategies",
    "exported_score": "V-measure of the exported model on the labelled texts, mean over seeds",
    "gain": "V-measure that adaptation adds to the exported strategy, on average over the documents drawn",
    "gain_high": "upper end of its interval (95 %)",
    "gain_low": "lower end of its interval; above 0, the gain is real",
    "mean_cohesion": "mean cosine similarity of a text and the centre of its cluster",
    "noise_share": "share of texts that belong to no cluster",
    "number_of_clusters": "clusters that `text_clustering` has found",
    "number_of_pairs": "pairs that passed all filters",
    "number_of_texts": "texts of the corpus after cleaning",
}
_VERDICTS = {"better": 1.0, "no_difference": 0.0, "worse": -1.0}


class Headlines:
    """Collects a run's reports and says in numbers and tags what each of them adds."""

    def __init__(self) -> None:
        self._gains: dict[str, dict[str, float]] = {}

    def of(self, kind: str, report: Any) -> tuple[dict[str, float], dict[str, str]]:
        """The metrics and the tags that a report adds.

        Args:
            kind: One of :data:`KINDS`.
            report: The dataset's content.
        """
        return KINDS[kind](self, report)

    def _verdict(self, verdict: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
        if not verdict:
            return {}, {}
        said = str(verdict["verdict"])
        metrics = {"adaptation_verdict": _VERDICTS[said]} if said in _VERDICTS else {}
        return metrics, {VERDICT: said, DESCRIPTION: str(verdict["sentence"])}

    def _differences(self, differences: pd.DataFrame) -> tuple[dict[str, float], dict[str, str]]:
        for row in differences.to_dict("records"):
            if row["task"] == LABELLED_TEXTS and row["question"] == "adaptation":
                self._gains[str(row["strategy"])] = {
                    "gain": float(row["difference"]),
                    "gain_low": float(row["low"]),
                    "gain_high": float(row["high"]),
                }
        return {}, {}

    def _comparison(self, comparison: pd.DataFrame) -> tuple[dict[str, float], dict[str, str]]:
        rows = comparison[(comparison["task"] == LABELLED_TEXTS) & (comparison["standing"] == "best")]
        if rows.empty:
            return {}, {}
        return {"best_score": float(rows["v_measure"].iloc[0])}, {BEST: str(rows["strategy"].iloc[0])}

    def _model(self, facts: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
        name = str(facts["strategy"]["name"])
        scores = (facts.get("evaluation") or {}).get("adapted") or {}
        metrics = {"exported_score": float(scores["v_measure"]["mean"])} if "v_measure" in scores else {}
        return metrics | self._gains.get(name, {}), {EXPORTED: name}

    def _corpus(self, report: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
        return _picked(report, number_of_texts="kept"), {}

    def _pairs(self, report: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
        return _picked(report, number_of_pairs="accepted"), {}

    def _clusters(self, report: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
        return _picked(report, mean_cohesion="cohesion", noise_share="noise_share", number_of_clusters="clusters"), {}


def _picked(report: Mapping[str, Any], **fields: str) -> dict[str, float]:
    """Metrics by the fields that hold them, as far as the report has numbers there."""
    return {metric: float(report[field]) for metric, field in fields.items() if isinstance(report.get(field), int | float)}


KINDS: dict[str, Callable[[Headlines, Any], tuple[dict[str, float], dict[str, str]]]] = {
    "verdict": Headlines._verdict,  # noqa: SLF001
    "differences": Headlines._differences,  # noqa: SLF001
    "comparison": Headlines._comparison,  # noqa: SLF001
    "model": Headlines._model,  # noqa: SLF001
    "corpus": Headlines._corpus,  # noqa: SLF001
    "pairs": Headlines._pairs,  # noqa: SLF001
    "clusters": Headlines._clusters,  # noqa: SLF001
}


def used_texts(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Name, digest and size of the texts that a report is about; ``None`` if it is about no known ones. Never a text.

    Args:
        report: A corpus report (``corpus``, ``texts``, ``kept``, ``identity``) or an evaluation report (``data``).
    """
    if "identity" in report:
        profile = {"num_rows": report["texts"], "clean_texts": report["kept"]}
        return {"name": report["corpus"], "digest": report["identity"]["raw"], "profile": profile}
    data = report.get("data") or {}
    if "fingerprint" not in data:
        return None
    return {"name": data["name"], "digest": data["fingerprint"], "profile": {"num_rows": data["texts"], "labels": data["labels"]}}
