"""``kedro prune``: remove all but the newest versions of what runs have written."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embedding_adaptation.atomic import remove_folder
from embedding_adaptation.kept_results import FOLDER as KEPT_RESULTS
from embedding_adaptation.params_option import parsed_parameters
from embedding_adaptation.paths import output_folder
from embedding_adaptation.run_command import in_a_sentence, quiet_kedro
from embedding_adaptation.run_summary import FACTS
from embedding_adaptation.tracking import tracking_uri

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kedro.framework.context import KedroContext

# As Kedro writes versions: 2026-11-26T22.36.59.718Z.
_VERSION = re.compile(r"\d{4}-\d\d-\d\dT\d\d\.\d\d\.\d\d\.\d{3}Z")
# Files and folders that only save time.
CACHES = ("embedding_store", "training_checkpoints", "corpus_shards")


@click.command()
@click.option("--keep", type=click.IntRange(min=1), default=3, show_default=True, help="Newest versions of each dataset to keep.")
@click.option(
    "--caches", is_flag=True, help="Also remove what only saves time: vectors of texts, checkpoints of training, notes on results."
)
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option("--env", "-e", help="Kedro's configuration environment.")
@click.option("--params", default="", callback=parsed_parameters, help="Parameters, as for kedro run.")
def prune(*, keep: int, caches: bool, dry_run: bool, env: str | None, params: dict[str, Any]) -> None:
    """Remove old versions of all datasets in the output folder; inputs and the base model stay.

    Adapters of models that the registry calls champion or candidate stay, too, and so do those that the remaining model_facts name. Models
    in MLflow's store are not touched. Do not run it while another run reads an older version by name.
    """
    with quiet_kedro(), in_a_sentence(click.exceptions.Exit):
        from kedro.framework.session import KedroSession

        with KedroSession.create(env=env, runtime_params=params) as session:
            context: KedroContext = session.load_context()  # type: ignore[attr-defined]  # missing in its class
            output = output_folder(context)
            entries = context.config_loader["catalog"]
            doomed = list(old_versions(output, keep, protected=registered_adapters(context) | described_adapters(output, keep)))
            if caches:
                folders = [*(Path(context.project_path) / entries[name]["filepath"] for name in CACHES), output / KEPT_RESULTS]
                doomed += [folder for folder in folders if folder.is_dir()]
            freed = 0
            for path in doomed:
                size = size_of(path)
                freed += size
                click.echo(f"{'would remove' if dry_run else 'removed'} {os.path.relpath(path, output)} ({size / 1e6:,.1f} MB)")
                if not dry_run:
                    remove_folder(path)
            click.echo(f"{len(doomed)} {'to remove' if dry_run else 'removed'}, {freed / 1e6:,.1f} MB")


def old_versions(output: Path, keep: int, protected: set[str]) -> Iterator[Path]:
    """Folders of versions that are not among the newest of their dataset, in a stable order.

    Args:
        output: The output folder; its layers hold ``NAME/VERSION/NAME``.
        keep: How many to keep of each dataset.
        protected: Versions of adapters to keep.
    """
    for dataset in sorted(output.glob("0[2-8]_*/*")):
        if not dataset.is_dir() or dataset.name == "base_model":
            continue
        versions = sorted((path for path in dataset.iterdir() if path.is_dir() and _VERSION.fullmatch(path.name)), reverse=True)
        whole = [path for path in versions if (path / dataset.name).exists()]
        kept = {path.name for path in whole[:keep]} | (protected if dataset.name == "adapter" else set())
        newest = whole[0].name if whole else ""
        # One without its file is left from a run that failed, unless it is newer than all others: then a run may be writing it.
        yield from (path for path in reversed(versions) if path.name not in kept and path.name < newest)


def described_adapters(output: Path, keep: int) -> set[str]:
    """Versions of adapters that the newest facts about exported models name: a run that had nothing to compute has copied both.

    Args:
        output: The output folder.
        keep: How many versions of each dataset are kept.
    """
    facts = sorted(output.glob(f"0[2-8]_*/{FACTS}.json/*/{FACTS}.json"), reverse=True)[:keep]
    named = set()
    for path in facts:
        try:
            named.add(str(json.loads(path.read_text(encoding="utf-8"))["adapter"]["version"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # damaged: it names nothing
    return named


def registered_adapters(context: KedroContext) -> set[str]:
    """Versions of the adapters of all models in MLflow that have an alias; empty if runs are not tracked."""
    settings = context.config_loader["mlflow"]
    uri = tracking_uri(Path(context.project_path), settings.get("tracking_uri"))
    if not settings.get("enabled", True) or (uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists()):
        return set()
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    return {
        adapter
        for model in client.search_registered_models()
        for version in model.aliases.values()
        if (adapter := client.get_model_version(model.name, str(version)).tags.get("adapter.version"))
    }


def size_of(path: Path) -> int:
    """Bytes that removing a folder frees: files that have another name elsewhere stay on the disk."""
    files = (file.lstat() for file in path.rglob("*") if file.is_file() and not file.is_symlink())
    return sum(stat.st_size for stat in files if stat.st_nlink == 1)
