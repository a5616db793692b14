"""Hook that ends a run's cluster with the run."""

from __future__ import annotations

import sys

from kedro.framework.hooks import hook_impl

_SESSION = "embedding_adaptation.cluster.session"


class ClusterEnd:
    """Stop a cluster that the run has started, and remove its blocks of texts and vectors if the run has succeeded."""

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Everything has been saved: blocks are no longer needed."""
        _stop(succeeded=True)

    @hook_impl
    def on_pipeline_error(self) -> None:
        """Finished blocks stay, for the next run."""
        _stop(succeeded=False)


def _stop(*, succeeded: bool) -> None:
    if _SESSION in sys.modules:
        sys.modules[_SESSION].stop(succeeded=succeeded)
