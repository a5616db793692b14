"""From runs on samples to a plan for all texts: seconds, memory, disk and cost, with the arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from embedding_adaptation.pipelines.plan.sample_runs import SampleRun
from embedding_adaptation.pipelines.plan.work import (
    FOLDERS,
    Line,
    Unit,
    memory_bytes,
    node_lines,
    reading_prices,
    search_seconds,
    training_seconds,
    units,
    work_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedding_adaptation.pipelines.plan.options import PlanOptions

START, TOTAL = "start", "all"
_HOUR = 3600.0
_GENERATE, _TRAIN = "generate_candidates_node", "train_adapter_node"
_EMBED, _EXPORT = "embed_corpus_node", "export_embedder_node"


def estimated(measured: Mapping[str, Any], parameters: Mapping[str, Any], options: PlanOptions) -> tuple[dict[str, Any], pd.DataFrame]:
    """The plan, and its table; see :func:`~.nodes.plan_run`.

    Time that the base model spends on single texts, and on steps of training, is divided among workers; the rest is one process's.
    """
    runs = [SampleRun(**facts) for facts in measured["runs"]]
    texts = options.texts or measured["texts"]
    kept = runs[-1].kept
    counts = units(texts, kept, parameters)
    terms = _terms(runs, counts, measured, parameters)
    start = max(0.0, _start(runs))
    terms.append(
        {"pipeline": START, "node": "", "seconds": start, "shared": 0.0, "arithmetic": f"{start:.1f} s until the first node, and to end"}
    )
    memory = memory_bytes(runs, counts, measured["width"], parameters)
    disk = _disk_bytes([run for run in runs if run.model == "base"], counts)
    tokens = measured["tokens_a_text"] * texts
    table = pd.DataFrame(_rows(terms, options))
    table.insert(1, "texts", texts)
    table["memory_gb"] = (table["pipeline"] == TOTAL).map({True: round(memory / 1e9, 2), False: float("nan")})
    table["disk_gb"] = (table["pipeline"] == TOTAL).map({True: round(disk / 1e9, 2), False: float("nan")})
    plan = {
        "texts": texts,
        "tokens": round(tokens),
        "tokens_read": round(measured["tokens_read_a_text"] * texts),
        "seconds": {str(workers): round(_seconds(terms, workers, options.efficiency), 1) for workers in options.workers},
        "seconds_if_rejected": round(_if_rejected(runs, terms, counts), 1),
        "cost": {
            str(workers): _cost(_seconds(terms, workers, options.efficiency), workers, options.price_an_hour) for workers in options.workers
        },
        "currency": options.currency,
        "memory_bytes": round(memory),
        "fits_into_memory": bool(memory <= measured["available_bytes"]),
        "disk_bytes": round(disk),
        "efficiency": options.efficiency,
        "terms": terms,
    }
    return plan, table


def _terms(
    runs: Sequence[SampleRun], counts: Mapping[Unit, float], measured: Mapping[str, Any], parameters: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """What each node takes: all its seconds, those that workers share, and how they are told."""
    terms = []
    large = [run for run in runs if run.model == "base"][1]
    lines = node_lines(runs)
    prices = reading_prices(lines)
    for node, line in lines.items():
        work = work_of(node)
        count = counts[work.unit]
        seconds = line.at(count)
        shared = line.each * count if work.doer == "model" else 0.0
        arithmetic = f"{line.fixed:.2f} s"
        if line.each and work.unit != "once":
            arithmetic += f" + {count:,.0f} {work.unit} x {_small(line.each)}"
        for price, unit in zip(prices, work.read or (), strict=work.read is not None):
            seconds += price * counts[unit]
            shared += price * counts[unit]
            arithmetic += f" + {counts[unit]:,.0f} {unit} x {_small(price)}"
        if node == _GENERATE:
            search = search_seconds(count, measured["pair_seconds"], parameters)
            seconds += search
            arithmetic += f" + {search:,.1f} s of search for neighbours ({_small(measured['pair_seconds'])} a comparison)"
        if node == _TRAIN:
            steps, step, looks, look = training_seconds(large, count, large.counts["judged"], parameters)
            seconds += steps * step + looks * look
            shared += steps * step
            arithmetic += f" + {steps} steps x {step:.2f} s + {looks} looks x {look:.2f} s"
        terms.append(
            {
                "pipeline": work.pipeline,
                "node": node.removesuffix("_node"),
                "seconds": round(seconds, 2),
                "shared": round(shared, 2),
                "arithmetic": arithmetic,
            }
        )
    return terms


def _if_rejected(runs: Sequence[SampleRun], terms: Sequence[Mapping[str, Any]], counts: Mapping[Unit, float]) -> float:
    """Seconds of one worker if adaptation does not help: base weights, which have read what was drawn, cluster and are exported."""
    lines = node_lines(runs)
    _, of_teacher = reading_prices(lines)
    instead = {_EMBED: (counts["texts"] - counts["drawn"]) * of_teacher, _EXPORT: 0.0}
    seconds = _seconds(terms, 1, 1.0)
    for term in terms:
        node = f"{term['node']}_node"
        if node in instead:
            seconds += lines[node].fixed + instead[node] - term["seconds"]
    return seconds


def _rows(terms: Sequence[Mapping[str, Any]], options: PlanOptions) -> list[dict[str, Any]]:
    """A row for each pipeline, and one for all."""
    rows = []
    for pipeline in [*dict.fromkeys(term["pipeline"] for term in terms), TOTAL]:
        own = [term for term in terms if pipeline in {term["pipeline"], TOTAL}]
        row: dict[str, Any] = {"pipeline": pipeline}
        for workers in options.workers:
            seconds = _seconds(own, workers, options.efficiency)
            row[f"seconds_{workers}"] = round(seconds, 1)
            if options.price_an_hour is not None:
                row[f"cost_{workers}"] = _cost(seconds, workers, options.price_an_hour)
        rows.append(row)
    return rows


def _seconds(terms: Sequence[Mapping[str, Any]], workers: int, efficiency: float) -> float:
    """Seconds with so many workers: what they share is divided among them, less what several lose."""
    shared = sum(term["shared"] for term in terms)
    alone = sum(term["seconds"] for term in terms) - shared
    return alone + (shared if workers == 1 else shared / (workers * efficiency))


def _cost(seconds: float, workers: int, price: float | None) -> float | None:
    """Price of so many workers, all of them paid until the end."""
    return None if price is None else round(seconds / _HOUR * workers * price, 2)


def _start(runs: Sequence[SampleRun]) -> float:
    """Seconds of a process outside its nodes."""
    outside = sorted(run.seconds - sum(run.nodes.values()) for run in runs)
    return outside[len(outside) // 2]


def _disk_bytes(runs: Sequence[SampleRun], counts: Mapping[Unit, float]) -> float:
    few, many = runs
    total = 0.0
    for folder, size in many.disk_bytes.items():
        unit = FOLDERS.get(folder, FOLDERS.get(folder.partition("/")[0], "once"))
        points = [(run.counts[unit], run.disk_bytes.get(folder, 0)) for run in (few, many)]
        total += size if unit == "once" else Line.through(*points).at(counts[unit])
    return total


def _small(seconds: float) -> str:
    """A short time: ``3.2 ms``, ``41.0 ns``."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
