"""The page of an adaptation: the verdict first, then what is behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedding_adaptation.commands import EXPORT, QUESTIONS, going_on
from embedding_adaptation.comparison_table import exported_score
from embedding_adaptation.figures import ADAPTED_COLOUR, BASE_COLOUR
from embedding_adaptation.pages.attention import shaded_words
from embedding_adaptation.pages.long_texts import LONGEST_TEXT, cut
from embedding_adaptation.pages.questions import questions_data
from embedding_adaptation.pages.rendering import render
from embedding_adaptation.pages.themes import themes_of
from embedding_adaptation.wording import budget_sentences

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from embedding_adaptation.verdict.options import QuestionsOptions

HEADLINES = {
    "better": "Better: adaptation helped.",
    "worse": "Worse: adaptation did not help.",
    "no_difference": "No difference.",
    "cannot_tell": "It cannot be told whether adaptation helped.",
}
_EXAMPLES = 8
_CURVES = {"train_loss": "training", "validation_loss": "held-out texts"}


@dataclass(frozen=True)
class MovedText:
    """A text and its nearest texts.

    Attributes:
        text: The text.
        before: Its nearest texts under the base model.
        after: Those under the adapted model.
    """

    text: str
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True)
class Reports:
    """What the pipelines reported of one adaptation.

    Attributes:
        facts: About the exported model.
        verdict: Whether adaptation helped; empty if it was not judged.
        training: About training.
        history: One row per step: ``step``, ``train_loss``, ``validation_loss``.
        augmentation: About the pairs.
        clustering: Facts about the clusters.
    """

    facts: Mapping[str, Any]
    verdict: Mapping[str, Any]
    training: Mapping[str, Any]
    history: pd.DataFrame
    augmentation: Mapping[str, Any]
    clustering: Mapping[str, Any]


def adaptation_page(
    reports: Reports,
    points: pd.DataFrame,
    summary: pd.DataFrame,
    moved: Sequence[MovedText],
    attention: pd.DataFrame,
    questions: tuple[Mapping[str, Any], QuestionsOptions],
    *,
    total: int,
    corpus: str,
    private: bool,
) -> str:
    """Write the page.

    Args:
        reports: What the pipelines reported.
        points: The texts on the map: ``text``, ``cluster``, ``base_x``, ``base_y``, ``adapted_x``, ``adapted_y``; empty if
            there are too few.
        summary: The clusters, see :func:`.themes.themes_of`.
        moved: Texts whose neighbours changed most.
        attention: Words of some of them: ``text``, ``part``, ``word``, ``start``, ``end``, ``base``, ``adapted``, ``cut``.
        questions: Questions to whoever reads the page, see :func:`.questions.questions_data`, and when answers decide.
        total: Number of texts.
        corpus: Name of the texts.
        private: Leave out all that is of the texts.

    Returns:
        An HTML document.
    """
    facts, training = reports.facts, reports.training
    themes = themes_of(summary, private=private)
    data: dict[str, Any] = {
        "clusters": points["cluster"].astype(int).tolist(),
        "texts": None if private else [cut(text) for text in points["text"]],
        "names": {str(theme.cluster): theme.name for theme in themes},
        "curve": _curves(reports.history),
        "asked": None if private or not questions[0]["questions"] else questions_data(*questions),
    }
    for side in ("base", "adapted"):
        data[side] = points[[f"{side}_x", f"{side}_y"]].to_numpy().round(3).T.tolist() if len(points) else None
    name = facts["base_model"]["name"].rpartition("/")[2]
    trained = training["trained"]
    return render(
        "adaptation.html.j2",
        title="Adaptation to " + (corpus if corpus and not private else "your texts"),
        subtitle=f"{name}, {facts['base_model']['parameters'] / 1e6:,.0f} million parameters, {total:,} texts",
        verdict={
            **headline(reports.verdict, facts),
            "sentence": reports.verdict.get("sentence", "Adaptation was not judged."),
            "exported": exported_sentence(facts),
        },
        facts=[
            ("Texts", f"{total:,}"),
            ("Texts to learn from", f"{training['corpus']['kept']:,}" if training.get("corpus") else "unknown"),
            ("Steps", f"{trained['step']} of {trained['last_step']}"),
            ("Themes", f"{len([theme for theme in themes if theme.cluster >= 0])}"),
            ("Training", _seconds(training["cost"].get("seconds"))),
        ],
        shown=len(points),
        total=total,
        has_map=bool(len(points)),
        no_map=f"{total:,} texts are too few for a map.",
        themes=themes,
        themes_by=reports.clustering.get("weights", "base"),
        private=private,
        asked=data["asked"],
        ask=going_on("kedro ask", QUESTIONS),
        answers=going_on(f"kedro ask --answers ~/Downloads/{data['asked']['file']}", QUESTIONS) if data["asked"] else None,
        export=going_on("kedro run --pipelines=model_export", EXPORT, private=private),
        cut_to=LONGEST_TEXT if not private and (points["text"].str.len() > LONGEST_TEXT).any() else None,
        moved=[] if private else [_shortened(text) for text in moved],
        attention=[] if private else _attention(attention),
        scores=_scores(facts),
        training=_training(reports),
        scales=reports.verdict.get("scales", []),
        pairs=_pairs(reports.augmentation, private=private),
        loading=_loading(facts),
        run=[
            ("Base model", name),
            ("Exported strategy", facts["strategy"]["name"]),
            ("Prompt", _joined(facts["strategy"]["template"])),
            ("Longest text", f"{facts['strategy']['max_length']} tokens with the prompt"),
            ("Loss", training["options"]["loss"]),
            ("Adapter", f"LoRA, rank {training['options']['lora']['rank']}, {training['options']['lora']['layers']}"),
            ("Version of the adapter", facts["adapter"]["version"] or "unversioned"),
            ("Tokens computed in training", f"{training['cost'].get('tokens', 0):,.0f}"),
        ],
        versions="Made with " + ", ".join(f"{package} {version}" for package, version in facts["made_with"].items()),
        data=data,
    )


def headline(verdict: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, str]:
    """The verdict in a few words and its kind: from labels if they decided what is exported, else without them."""
    kind = verdict.get("verdict", "cannot_tell")
    scores = facts["evaluation"] or {}
    sides = ("adapted", "rejected") if facts["strategy"]["weights"] == "base" else ("base", "adapted")
    before, after = ((scores.get(side) or {}).get("v_measure") for side in sides)
    if facts["chosen_by"] != "labels" or not before or not after:
        return {"kind": kind, "headline": HEADLINES[kind]}
    gain = after["mean"] - before["mean"]
    kind, said = ("better", "Better") if gain > 0 else ("worse", "Worse") if gain < 0 else ("no_difference", "No difference")
    return {"kind": kind, "headline": f"{said} on your labels: V-measure {before['mean']:.3f} before, {after['mean']:.3f} after."}


def exported_sentence(facts: Mapping[str, Any]) -> str:
    """What is exported, why, and how far it is from the best strategy."""
    strategy, scored = facts["strategy"], exported_score(facts)
    reason = {
        "answers": ", as your answers say",
        "labels": ", as the labelled texts say",
        "agreement": ", by this verdict",
        None: "",
    }[facts["chosen_by"]]
    sentence = f"Exported are the {strategy['weights']} weights under the strategy {strategy['name']}{reason}"
    return f"{sentence}; V-measure {scored[0]:.3f}, {scored[1]}." if scored else f"{sentence}; not scored, for want of labels."


def _shortened(moved: MovedText) -> MovedText:
    return MovedText(cut(moved.text), tuple(map(cut, moved.before)), tuple(map(cut, moved.after)))


def _attention(words: pd.DataFrame) -> list[dict[str, Any]]:
    """Texts with their words, shaded, and their shares of the attention."""
    shown = []
    for text, rows in words.groupby("text", sort=False):
        inside = rows[rows["part"] == "text"]
        if inside.empty:
            continue
        gained = inside.assign(gain=inside["adapted"] - inside["base"]).nlargest(1, "gain").iloc[0]
        gain = f"Most gained: “{gained['word']}”, {gained['base']:.1%} to {gained['adapted']:.1%}." if gained["gain"] > 0 else ""
        shares = {side: float(inside[side].sum()) for side in ("base", "adapted")}
        shown.append({"text": text, "words": shaded_words(rows), "shares": shares, "gain": gain, "cut": bool(rows["cut"].any())})
    return shown


def _scores(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    scores = facts["evaluation"]
    if not scores or "v_measure" not in scores["adapted"]:
        return []
    base = facts["strategy"]["weights"] == "base"
    rows = [("Exported", facts["strategy"]["name"], scores["adapted"])]
    if scores.get("base"):
        rows.append(("The same with base weights", "", scores["base"]))
    if base and scores.get("rejected"):
        rows.append(("The same with adapted weights, not exported", "", scores["rejected"]))
    rows.append(("Best of all strategies", scores["best"]["strategy"], scores["best"].get("scores") or {"v_measure": scores["best"]}))
    if scores.get("random"):
        rows.append(("Random vectors", "", scores["random"]))
    return [
        {"what": what, "strategy": strategy, "score": _score(values.get("v_measure")), "interval": _interval(values)}
        for what, strategy, values in rows
    ]


def _score(value: Mapping[str, float] | None) -> str:
    if not value:
        return "not scored"
    return f"{value['mean']:.3f} ± {value['sd']:.3f}" if "sd" in value else f"{value['mean']:.3f}"


def _interval(scores: Mapping[str, Mapping[str, float]]) -> str:
    """The score that is tested, with its interval: ``0.700 (0.650 to 0.740)``; empty if there is none."""
    for metric, value in scores.items():
        if "low" in value:
            other = "" if metric == "v_measure_unique" else f", {metric}"
            return f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f}){other}"
    return ""


def _training(reports: Reports) -> str:
    before_after = [
        f"{title} from {values['before']:.3f} to {values['after']:.3f}"
        for measure, title in (("validation_loss", "the loss on held-out texts went"), ("validation_accuracy", "held-out accuracy went"))
        if (values := reports.training["history"].get(measure))
    ]
    trained = reports.training["trained"]
    kept = f", of which step {trained['step']} was kept" if trained["step"] < trained["last_step"] else ""
    steps = f"{trained['last_step']} steps{kept}"
    return f"{'; '.join([steps, *before_after])}. A lower loss alone does not prove that the model is better: the verdict is above."


def _pairs(augmentation: Mapping[str, Any], *, private: bool) -> dict[str, Any]:
    rejected = ", ".join(f"{reason.replace('_', ' ')} {count:,}" for reason, count in augmentation["rejected"].items() if count)
    sources = ", ".join(f"{name} {counts['accepted']:,}" for name, counts in augmentation["generators"].items())
    budget = "".join(f" {line}." for line in budget_sentences(augmentation.get("budget", {})))
    examples = [
        {
            "source": cut(pair["source_text"]),
            "partner": cut(pair["generated_text"]),
            "generator": generator,
            "decision": decision.replace("_", " "),
        }
        for generator, styles in augmentation.get("examples", {}).items()
        for decisions in styles.values()
        for decision, pairs in decisions.items()
        for pair in pairs
    ]
    return {
        "sentence": f"{augmentation['accepted']:,} of {augmentation['candidates']:,} candidates were accepted ({sources}). "
        f"Rejected: {rejected or 'none'}.{budget} Pairs are held out to see whether training goes well; the loss itself may learn from all "
        "texts.",
        "examples": [] if private else examples[:_EXAMPLES],
    }


def _loading(facts: Mapping[str, Any]) -> dict[str, str]:
    if facts["flavour"] == "package":
        code = 'from embedding_adaptation.embedder.packaged import load_packaged\n\nmodel = load_packaged("FOLDER")'
        sentence = "The model is a folder for those who have this package installed. The run's last lines name it."
        return {"sentence": sentence, "code": f"{code}\nvectors = model.encode(texts)"}
    code = 'from sentence_transformers import SentenceTransformer\n\nmodel = SentenceTransformer("FOLDER")\nvectors = model.encode(texts)'
    return {
        "sentence": "The model is a folder that plain sentence-transformers loads; the prompt is built in. The run's last lines name it.",
        "code": code,
    }


def _curves(history: pd.DataFrame) -> list[dict[str, Any]]:
    curves = []
    for (column, name), colour in zip(_CURVES.items(), (BASE_COLOUR, ADAPTED_COLOUR), strict=True):
        rows = history[history[column].notna()] if column in history else history.iloc[:0]
        if len(rows):
            values = [round(float(value), 4) for value in rows[column]]
            curves.append({"name": name, "x": rows["step"].tolist(), "y": values, "colour": colour})
    return curves


def _seconds(seconds: float | None) -> str:
    if seconds is None or math.isnan(seconds):
        return "unknown"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"  # noqa: PLR2004


def _joined(template: str | Sequence[str]) -> str:
    return template if isinstance(template, str) else "; ".join(template)
