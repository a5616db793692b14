"""Kedro project settings: https://docs.kedro.org/en/stable/kedro_project_setup/settings.html."""

import warnings

from embedding_adaptation.cluster_hook import ClusterEnd
from embedding_adaptation.configuration import ProjectConfigLoader
from embedding_adaptation.context import ProjectContext
from embedding_adaptation.hooks import InputChecks
from embedding_adaptation.kept_results import KeptResults
from embedding_adaptation.openmp import wait_briefly
from embedding_adaptation.progress import Progress
from embedding_adaptation.run_summary import RunSummary
from embedding_adaptation.safeguards import Safeguards
from embedding_adaptation.tracking import MlflowTracking

wait_briefly()

# PEFT asks transformers for a deprecated name whenever it adds an adapter; nobody here can change that.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)

HOOKS = (MlflowTracking(), InputChecks(), Safeguards(), Progress(), KeptResults(), RunSummary(), ClusterEnd())

CONTEXT_CLASS = ProjectContext

CONFIG_LOADER_CLASS = ProjectConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    "config_patterns": {"mlflow": ["mlflow*", "mlflow*/**", "**/mlflow*"]},
    # The other kinds of configuration are replaced key by key; parameters are merged, so that an environment names only what it changes.
    "merge_strategy": {"parameters": "soft", "mlflow": "soft", "globals": "soft"},
}
