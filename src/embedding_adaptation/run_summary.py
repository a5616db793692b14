"""Hook for the user at the terminal: what a run has found, where it is, and how to go on."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl

from embedding_adaptation import commands
from embedding_adaptation.comparison_table import comparison_table, exported_score
from embedding_adaptation.wording import duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from kedro.io import DataCatalog
    from kedro.pipeline import Pipeline
    from rich.table import Table

COMPARISON, VERDICT, REPORT = "strategy_comparison", "verdict", "report"
MODEL, FACTS = "adapted_embedder", "model_facts"
CLUSTERS, SUMMARY, ASSIGNMENTS = "clustering_report", "cluster_summary", "cluster_assignments"
OPTIONS = "params:text_clustering"
PLAN, PLAN_TABLE = "plan", "plan_table"
# Pages to look at: what they are about, by dataset.
PAGES = {"adaptation_page": "Page", "clusters_page": "Clusters"}
_NAMES_SHOWN = 5
LATEST = "latest"

logger = logging.getLogger(__name__)


class RunSummary:
    """Show at the end of a run: the comparison of strategies, the plan, the verdict, the clusters, and where pages and model are."""

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any]) -> None:
        """Note what commands that go on from this run have to repeat."""
        commands.remember(run_params.get("env"), run_params.get("runtime_params"))

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Print to the terminal what this run has produced."""
        made = pipeline.all_outputs() & {COMPARISON, VERDICT, REPORT, MODEL, CLUSTERS, PLAN, *PAGES}
        if not made:
            return
        from rich.console import Console

        console = Console()
        if MODEL in made:
            link_latest(Path(saved_path(catalog.get(MODEL))))
        if COMPARISON in made:
            console.print(comparison_table(catalog.load(COMPARISON)))
        if PLAN in made:
            console.print(plan_table(catalog.load(PLAN_TABLE)))
        for line in summary_lines(made, catalog):
            console.print(line, soft_wrap=True, highlight=False, markup=False)


def summary_lines(made: set[str], catalog: DataCatalog) -> Iterator[str]:
    """What a run has produced, apart from the comparison of strategies, in lines.

    Args:
        made: Names of the datasets it has produced.
        catalog: The catalog, which has them.
    """
    if PLAN in made:
        yield from _plan(catalog.load(PLAN))
        yield f"Plan:     {saved_path(catalog.get(PLAN))}"
    if VERDICT in made:
        yield catalog.load(VERDICT)["sentence"]
    if CLUSTERS in made:
        # In a run, Kedro has made typed options of the mapping.
        private = OPTIONS in catalog and bool(dict(catalog.load(OPTIONS)).get("private", False))
        yield _clusters(catalog.load(CLUSTERS), catalog.load(SUMMARY), private=private)
        yield f"Table:    {link_latest(Path(saved_path(catalog.get(ASSIGNMENTS))))}"
    if REPORT in made:
        yield f"Report:   {link_latest(Path(saved_path(catalog.get(REPORT))))}"
    for name, title in PAGES.items():
        if name in made:
            yield f"{title + ':':<9} {link_latest(Path(saved_path(catalog.get(name))))}"
    if MODEL in made:
        facts, path = catalog.load(FACTS), saved_path(catalog.get(MODEL))
        yield f"Model:    {path}"
        yield f"          {_exported(facts)}"
        yield f"          {loading_line(facts, path)}"


def plan_table(table: pd.DataFrame) -> Table:
    """What each pipeline takes, by number of workers, as a table for the terminal."""
    from rich.table import Table

    workers = [name.removeprefix("seconds_") for name in map(str, table) if name.startswith("seconds_")]
    shown = Table(title=f"What adapt takes for {int(table['texts'].iloc[0]):,} texts, by number of workers")
    shown.add_column("pipeline")
    for count in workers:
        shown.add_column(count, justify="right")
    for row in table.to_dict("records"):
        cells = []
        for count in workers:
            cost = row.get(f"cost_{count}")
            cells.append(duration(row[f"seconds_{count}"]) + ("" if cost is None else f" ({cost:,.2f})"))
        shown.add_row(str(row["pipeline"]), *cells)
    return shown


def _plan(plan: dict[str, Any]) -> Iterator[str]:
    """What a plan says besides times."""
    fits = "" if plan["fits_into_memory"] else ", more than this machine has free"
    yield (
        f"{plan['texts']:,} texts, {plan['tokens']:,} tokens: memory {plan['memory_bytes'] / 1e9:,.1f} GB{fits}, "
        f"disk {plan['disk_bytes'] / 1e9:,.1f} GB"
    )
    rejected = duration(plan["seconds_if_rejected"])
    yield f"If adaptation is not found to help, one worker takes {rejected}: the base model has read some of the texts by then."
    if any(cost is not None for cost in plan["cost"].values()):
        yield f"Costs in brackets are in {plan['currency']}; of several workers, all are paid to the end."


def loading_line(facts: dict[str, Any], path: Any) -> str:
    """The line of Python that loads the exported model."""
    if facts["flavour"] == "package":
        return f'from embedding_adaptation.embedder.packaged import load_packaged; model = load_packaged("{path}")'
    return f'from sentence_transformers import SentenceTransformer; model = SentenceTransformer("{path}")'


def _exported(facts: dict[str, Any]) -> str:
    """Which strategy is exported, and how far it is from the best."""
    name, scored = facts["strategy"]["name"], exported_score(facts)
    return f"{name}, V-measure {scored[0]:.3f}: {scored[1]}" if scored else f"{name}, not scored on labelled texts"


def _clusters(report: dict[str, Any], summary: pd.DataFrame, *, private: bool) -> str:
    """How many clusters there are, and the largest by name unless names, which are words of the texts, are private."""
    if private:
        return f"{report['clusters']} clusters of {report['texts']:,} texts"
    largest = summary[summary["cluster"] >= 0].sort_values("size", ascending=False).head(_NAMES_SHOWN)
    names = "; ".join(f"{name} ({share:.0%})" for name, share in zip(largest["name"], largest["share"], strict=True))
    return f"{report['clusters']} clusters of {report['texts']:,} texts, the largest: {names}"


def link_latest(path: Path) -> Path:
    """Let ``latest/NAME`` in the output folder lead to the newest version of a file or folder.

    Args:
        path: ``OUTPUT/LAYER/NAME/VERSION/NAME``, as Kedro writes versions.

    Returns:
        The link, or the path itself where there can be none: it has no version, or the file system has no symbolic links.
    """
    if len(path.parts) < 5 or path.parents[1].name != path.name or not path.exists():  # noqa: PLR2004
        return path
    folder = path.parents[3] / LATEST
    link, work = folder / path.name, folder / f".{path.name}.{os.getpid()}"
    try:
        folder.mkdir(exist_ok=True)
        work.unlink(missing_ok=True)
        work.symlink_to(os.path.relpath(path, folder), target_is_directory=path.is_dir())
        work.replace(link)
    except OSError as error:
        logger.debug("%s could not be linked: %s", link, error)
        return path
    return link


def saved_path(dataset: Any) -> Any:
    """Where a dataset's newest version is, or the one this run has saved."""
    return dataset._get_load_path()  # noqa: SLF001  kedro has no public getter for a versioned path
