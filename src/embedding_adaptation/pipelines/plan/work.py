"""What the time of each node grows with, and how that is told from runs on samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from embedding_adaptation.forecast import looks
from embedding_adaptation.vectors.neighbours import SPARE, Search

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedding_adaptation.pipelines.plan.sample_runs import SampleRun

Unit = Literal[
    "texts",
    "drawn",
    "judged",
    "mapped",
    "compared",
    "asked",
    "shown",
    "once",
    "read_to_export",
    "teacher_read_to_export",
    "read_to_compare",
    "base_read_to_compare",
]
# Who does the work: the base model, which reads texts one by one and can do so on many workers, or one process.
Doer = Literal["model", "process"]


@dataclass(frozen=True)
class Work:
    """What a node does.

    Attributes:
        pipeline: Its pipeline.
        unit: What its time grows with.
        doer: Who does it.
        read: Instead of a line of its own: what it reads with the exported strategy, and what with base weights under the teacher's,
            each at the price at which other nodes do.
    """

    pipeline: str
    unit: Unit
    doer: Doer = "process"
    read: tuple[Unit, Unit] | None = None


# Nodes of ``adapt``; one that is not here does its work once.
WORK: Mapping[str, Work] = {
    "clean_corpus_node": Work("data_augmentation", "texts"),
    "generate_candidates_node": Work("data_augmentation", "drawn", "model"),
    "score_candidates_node": Work("data_augmentation", "drawn"),
    "select_pairs_node": Work("data_augmentation", "drawn"),
    "plot_augmentation_node": Work("data_augmentation", "once"),
    "split_pairs_node": Work("contrastive_finetuning", "drawn"),
    "train_adapter_node": Work("contrastive_finetuning", "judged", "model"),
    "describe_training_node": Work("contrastive_finetuning", "once"),
    "plot_training_curve_node": Work("contrastive_finetuning", "once"),
    "judge_adaptation_node": Work("adaptation_verdict", "once"),
    "describe_model_node": Work("model_export", "once"),
    "export_embedder_node": Work("model_export", "once", "model", ("read_to_export", "teacher_read_to_export")),
    "embed_corpus_node": Work("text_clustering", "texts", "model"),
    "cluster_texts_node": Work("text_clustering", "texts"),
    "plot_stability_node": Work("text_clustering", "once"),
    "describe_clusters_node": Work("text_clustering", "texts"),
    "name_clusters_node": Work("text_clustering", "once"),
    "list_assignments_node": Work("text_clustering", "texts"),
    "map_texts_node": Work("text_clustering", "mapped"),
    "grow_tree_node": Work("text_clustering", "once"),
    "write_clusters_page_node": Work("text_clustering", "shown"),
    "report_clustering_node": Work("text_clustering", "once"),
    "compare_weights_node": Work("adaptation_page", "once", "model", ("read_to_compare", "base_read_to_compare")),
    "attention_of_moved_texts_node": Work("adaptation_page", "once"),
    "find_questions_node": Work("adaptation_page", "asked", "model"),
    "write_adaptation_page_node": Work("adaptation_page", "compared"),
}
# What the bytes in a folder grow with.
FOLDERS: Mapping[str, Unit] = {
    "02_intermediate": "drawn",
    "03_primary": "drawn",
    "04_feature/corpus_vectors": "texts",
    "04_feature/embedding_store": "compared",
    "05_model_input": "drawn",
    "07_model_output": "texts",
    "08_reporting": "compared",
}
OTHER = "other"
ROW_BYTES = 100  # of a text beside its vector: about 70 while it is cleaned, and its digest, cluster and distance
VECTOR_COPIES = 2  # as they were read, and with after-processing or smoothed


def units(texts: int, kept: float, parameters: Mapping[str, Any]) -> dict[Unit, float]:
    """How many of each unit a corpus has.

    Args:
        texts: Texts of the corpus.
        kept: Share of them that cleaning keeps.
        parameters: All groups of options.
    """
    augmentation, training = parameters["data_augmentation"], parameters["contrastive_finetuning"]
    most = augmentation["cleaning"]["max_texts"]
    drawn = kept * texts if most is None else min(kept * texts, most)
    # What augmentation has read with base weights is not read again, and no more what was asked about with the exported ones.
    unread = 1.0 - drawn / (kept * texts)
    asked = min(drawn, parameters["adaptation_verdict"]["questions"]["texts"])
    fitted = min(texts, parameters["model_export"]["fitting_texts"])
    compared = min(texts, parameters["adaptation_page"]["max_texts"])
    not_fitted = compared * (1.0 - fitted / texts)
    return {
        "texts": texts,
        "drawn": drawn,
        "judged": min(drawn, training["stopping"]["texts"]),
        "mapped": min(texts, parameters["text_clustering"]["map"]["max_texts"]),
        "compared": compared,
        "asked": asked,
        "shown": min(texts, parameters["text_clustering"]["page_texts"]),
        "once": 1,
        "read_to_export": fitted * (1.0 - asked / texts),
        "teacher_read_to_export": fitted * unread,
        "read_to_compare": not_fitted,
        "base_read_to_compare": not_fitted * unread,
    }


@dataclass(frozen=True)
class Line:
    """A straight line through what two runs took: so much whatever the texts, and so much for each unit.

    Attributes:
        fixed: What does not grow.
        each: What each unit adds.
    """

    fixed: float
    each: float

    @classmethod
    def through(cls, few: tuple[float, float], many: tuple[float, float]) -> Line:
        """The line through two points (units, amount), neither part of which is negative."""
        (x1, y1), (x2, y2) = few, many
        if x2 <= x1:
            return cls(y2, 0.0)
        each = max(0.0, (y2 - y1) / (x2 - x1))
        fixed = y2 - each * x2
        return cls(fixed, each) if fixed >= 0 else cls(0.0, y2 / x2)

    def at(self, count: float) -> float:
        """What so many units take."""
        return self.fixed + self.each * count


def node_lines(runs: Sequence[SampleRun]) -> dict[str, Line]:
    """A line for each node: the base model's work from the runs of the base model, other work from those of the tiny one.

    Args:
        runs: Two of each, the smaller first.
    """
    by_model = {model: [run for run in runs if run.model == model] for model in ("base", "tiny")}
    lines = {}
    for name in by_model["base"][1].nodes:
        work = work_of(name)
        # What happens once may load, merge or write the model, and that depends on its size.
        few, many = by_model["base" if work.doer == "model" or work.unit == "once" else "tiny"]
        lines[name] = Line.through(*((run.counts[work.unit], _outside_the_loop(run, name)) for run in (few, many)))
    prices = reading_prices(lines)
    large = by_model["base"][1]
    for name, line in lines.items():
        if read := work_of(name).read:
            reading = sum(price * large.counts[unit] for price, unit in zip(prices, read, strict=True))
            lines[name] = Line(max(0.0, line.at(1) - reading), 0.0)
    return lines


def reading_prices(lines: Mapping[str, Line]) -> tuple[float, float]:
    """Seconds to read a text with the exported strategy, and with base weights under the teacher's.

    Questions read each text both ways; the exported strategy has one template, the teacher as many or more.
    """
    of_question, of_teacher = (lines[name].each if name in lines else 0.0 for name in ("find_questions_node", "generate_candidates_node"))
    return min(of_question / 2, of_teacher), of_teacher


def work_of(node: str) -> Work:
    """What a node does."""
    return WORK.get(node, Work(OTHER, "once"))


def _outside_the_loop(run: SampleRun, node: str) -> float:
    """Seconds of a node, without the steps and looks of training."""
    seconds = run.nodes.get(node, 0.0)
    loop = run.steps * run.step_seconds + run.looks * run.look_seconds if node == "train_adapter_node" else 0.0
    return max(0.0, seconds - loop)


def training_seconds(run: SampleRun, judged: float, judged_then: float, parameters: Mapping[str, Any]) -> tuple[int, float, int, float]:
    """Steps, seconds of each, looks, and seconds of each, of a whole training run.

    Args:
        run: The larger run of the base model.
        judged: Texts that are judged by.
        judged_then: Those of the run.
        parameters: All groups of options.
    """
    options = parameters["contrastive_finetuning"]
    count = looks(options["steps"], options["validate_every"])
    return options["steps"], run.step_seconds, count, run.look_seconds * judged / max(judged_then, 1)


def search_seconds(drawn: float, pair_seconds: float, parameters: Mapping[str, Any]) -> float:
    """Seconds of the search for neighbours, if that generator is used.

    Args:
        drawn: Texts that are searched.
        pair_seconds: Seconds to compare two vectors of the strategy's width.
        parameters: All groups of options.
    """
    options = parameters["data_augmentation"]["generators"]["neighbours"]
    if not options or not options["weight"]:
        return 0.0
    search = Search(options["search"], options["exact_up_to"])
    return search.comparisons(int(drawn)) * pair_seconds


def memory_bytes(runs: Sequence[SampleRun], counts: Mapping[Unit, float], width: int, parameters: Mapping[str, Any]) -> float:
    """The largest resident memory: that of the largest run, and what vectors and rows of more texts add.

    Args:
        runs: Runs on samples.
        counts: How many of each unit the corpus has.
        width: Dimensions of the vectors.
        parameters: All groups of options.
    """
    base = max(run.peak_bytes for run in runs)
    texts, drawn = int(counts["texts"]), int(counts["drawn"])
    options = parameters["data_augmentation"]["generators"]["neighbours"]
    neighbours = 0
    if options and options["weight"]:
        search = Search(options["search"], options["exact_up_to"])
        vectors = 4 * drawn * width
        neighbours = max(VECTOR_COPIES * vectors, vectors + search.needed_bytes(drawn, width, options["neighbours"] + SPARE))
    smoothing = parameters["text_clustering"]["smoothing"]
    smoothed = VECTOR_COPIES * 4 * texts * width if smoothing and texts <= smoothing["max_texts"] else 0
    return base + max(neighbours, smoothed) + ROW_BYTES * texts
