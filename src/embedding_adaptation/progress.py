"""Hook for the user at the terminal: where a run is, and how long its parts took last time."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl

from embedding_adaptation.atomic import DiskFullError, replacing_file
from embedding_adaptation.datasets.versioned import KeptVersion
from embedding_adaptation.forecast import WORTH_SAYING
from embedding_adaptation.paths import output_folder
from embedding_adaptation.wording import duration

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext
    from kedro.pipeline import Pipeline
    from kedro.pipeline.node import Node

logger = logging.getLogger(__name__)

TIMES_FILE = "node_seconds.json"


class Progress:
    """Say where a run is: one line when a node starts, and one at the end.

    How long each node took is kept in the output folder, and said when it runs again: with other texts it may take longer or shorter. On a
    first run only what the run itself has measured is known; embedding and training say how long they take as soon as they can tell.
    """

    def __init__(self) -> None:
        self._count = self._started = 0
        self._since = 0.0
        self._file: Path | None = None
        self._last: dict[str, float] = {}
        self._now: dict[str, float] = {}
        self._starts: dict[str, float] = {}

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Read how long nodes took last time."""
        self._file = output_folder(context) / TIMES_FILE
        self._last = read_times(self._file)

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline) -> None:
        """Count the nodes, and say how long they took last time if all of them have run before."""
        self._count, self._started, self._since = len(pipeline.nodes), 0, time.perf_counter()
        self._now, self._starts = {}, {}
        known = [self._last[node.name] for node in pipeline.nodes if node.name in self._last]
        if len(known) == self._count and sum(known) >= WORTH_SAYING:
            logger.info("%d nodes; last time they took %s", self._count, duration(sum(known)))

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        """Log the node's number, its pipeline, its name, and how long it took last time."""
        if not self._count:
            return  # a process of a parallel runner, which knows nothing of the others
        self._started += 1
        self._starts[node.name] = time.perf_counter()
        where = ", ".join(sorted(node.tags))
        logger.info(
            "%d/%d %s%s%s",
            self._started, self._count, node.name.removesuffix("_node"), f" ({where})" if where else "", self._expected(node.name),
        )  # fmt: skip

    def _expected(self, name: str) -> str:
        """How long a node took last time or, on a first run, how long the same work on the other weights has just taken."""
        if (last := self._last.get(name)) is not None:
            return f", last time {duration(last)}" if last >= WORTH_SAYING else ""
        function = name.rpartition(".")[2]
        like = next((other for other in self._now if other != name and other.rpartition(".")[2] == function), None)
        if like is None or self._now[like] < WORTH_SAYING:
            return ""
        return f", about {duration(self._now[like])} like {like.removesuffix('_node')}"

    @hook_impl
    def after_node_run(self, node: Node, outputs: dict[str, Any]) -> None:
        """Note how long it took, unless its results are those of an earlier run."""
        if any(isinstance(data, KeptVersion) for data in outputs.values()):
            self._starts.pop(node.name, None)
        self._note(node)

    @hook_impl
    def after_dataset_saved(self, node: Node) -> None:
        """Note how long it took until now: a node that yields its results computes them while they are saved."""
        self._note(node)

    def _note(self, node: Node) -> None:
        if node.name in self._starts:
            self._now[node.name] = time.perf_counter() - self._starts[node.name]

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Log that the run is complete, in Kedro's own words, and how long it took."""
        self._keep()
        logger.info("Pipeline execution completed successfully in %.1f sec.", time.perf_counter() - self._since)

    @hook_impl
    def on_pipeline_error(self) -> None:
        """Keep the times of what is finished."""
        self._keep()

    def _keep(self) -> None:
        if self._file is None or not self._now:
            return
        times = read_times(self._file) | {name: round(seconds, 2) for name, seconds in self._now.items()}
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with replacing_file(self._file) as work:
                work.write_text(json.dumps(times, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        except (OSError, DiskFullError) as error:  # the next run then says less
            logger.debug("%s could not be written: %s", self._file, error)


def read_times(file: Path) -> dict[str, float]:
    """Seconds by name of the node; empty if there is no such file or it cannot be read."""
    try:
        times: Any = json.loads(file.read_text(encoding="utf-8"))
        return {str(name): float(seconds) for name, seconds in times.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
