"""Kedro commands in forked copies of this process, in which everything is imported already, and the faults that strike them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Callable

PROJECT = Path(__file__).parents[2]
OUTPUT = Path("build") / "kedro-test"
CHECKSUM = ".xxh128"
DATA_NODES = {"corpus.txt": 48, "labelled_texts.csv": 60}  # lines of the bundled texts that are enough


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code, negative for a signal, and all it said."""

    code: int
    output: str

    @property
    def sentence(self) -> str:
        """The last line of what it said."""
        return self.output.strip().splitlines()[-1] if self.output.strip() else ""


class Saboteur:
    """A Kedro hook that watches, and strikes once: where, when and how its subclasses say."""

    node = ""

    def __init__(self) -> None:
        self.now = ""
        self.commits: dict[str, list[str]] = {}

    def install(self) -> None:
        from kedro.framework.hooks import hook_impl

        from embedding_adaptation import settings

        saboteur = self

        class Hooks:
            """What Kedro calls."""

            @hook_impl
            def before_node_run(self, node: Any) -> None:
                saboteur.now = node.name
                saboteur.commits.setdefault(node.name, [])
                saboteur.begins(node.name)

            @hook_impl
            def before_dataset_saved(self) -> None:
                self.before = len(saboteur.commits[saboteur.now])

            @hook_impl
            def after_dataset_saved(self, dataset_name: str) -> None:
                # Written in place: a kill in the middle would have left half of it under its own name.
                file = self._file(dataset_name)
                if file is not None and len(saboteur.commits[saboteur.now]) == self.before:
                    saboteur.commits[saboteur.now].append(str(file))
                    saboteur.commits_file(file)

            @hook_impl
            def after_catalog_created(self, catalog: Any) -> None:
                self.catalog = catalog

            @hook_impl
            def after_pipeline_run(self) -> None:
                saboteur.ends()

            def _file(self, name: str) -> Path | None:
                dataset = self.catalog.get(name)
                if not getattr(dataset, "_version", None):
                    return None
                return Path(str(dataset._get_load_path()))

        settings.HOOKS = (*settings.HOOKS, Hooks())
        for name in ("replace", "rename"):
            original = getattr(Path, name)

            def commit(work: Path, target: Any, original: Any = original) -> Any:
                if work.name.startswith(".") and f".{os.getpid()}-" in work.name and CHECKSUM not in work.name and self.now:
                    self.commits.setdefault(self.now, []).append(str(target))
                    self.commits_file(work)
                return original(work, target)

            setattr(Path, name, commit)

    def begins(self, node: str) -> None:
        """A node begins."""

    def commits_file(self, work: Path) -> None:
        """A file or folder is whole, and about to get its name."""

    def ends(self) -> None:
        """The run has ended well."""


class Recorder(Saboteur):
    """Strikes nowhere, and writes down what each node writes."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def ends(self) -> None:
        self.file.write_text(json.dumps(self.commits))


class KillAtStart(Saboteur):
    """``kill -9`` as soon as a node begins."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self.node = node

    def begins(self, node: str) -> None:
        if node == self.node:
            os.kill(os.getpid(), signal.SIGKILL)


class KillInWriting(Saboteur):
    """``kill -9`` when a node has written half the bytes of its n-th output."""

    def __init__(self, node: str, number: int) -> None:
        super().__init__()
        self.node, self.number = node, number

    def commits_file(self, work: Path) -> None:
        if self.now == self.node and len(self.commits[self.node]) == self.number:
            halve(work)
            os.kill(os.getpid(), signal.SIGKILL)


class FillDisk(Saboteur):
    """All space of the disk is taken when a node begins."""

    def __init__(self, node: str, disk: Path) -> None:
        super().__init__()
        self.node, self.disk = node, disk

    def begins(self, node: str) -> None:
        if node == self.node:
            fill(self.disk)


class Call(Saboteur):
    """Calls a function when a node begins."""

    def __init__(self, node: str, function: Any) -> None:
        super().__init__()
        self.node, self.function = node, function

    def begins(self, node: str) -> None:
        if node == self.node:
            self.function()


class ClockSetBack(Saboteur):
    """The clock of this run is set back by a day."""

    def install(self) -> None:
        from datetime import UTC, datetime, timedelta

        from kedro.framework.session import session
        from kedro.io import core

        from embedding_adaptation import context

        def earlier() -> str:
            text = (datetime.now(tz=UTC) - timedelta(days=1)).strftime(core.VERSION_FORMAT)
            return text[:-4] + text[-1:]

        for module in (session, core, context):
            module.generate_timestamp = earlier
        super().install()


def halve(path: Path) -> None:
    """Leave of a file half its bytes; of a folder half its files, the last of these cut."""
    if path.is_file():
        os.truncate(path, path.stat().st_size // 2)
        return
    files = sorted(file for file in path.rglob("*") if file.is_file())
    for file in files[len(files) // 2 + 1 :]:
        file.unlink()
    if files:
        halve(files[len(files) // 2])


def fill(disk: Path) -> None:
    """Take all space of a small disk."""
    with (disk / "ballast").open("wb", buffering=0) as ballast:
        for size in (1 << 20, 1 << 12):
            with contextlib.suppress(OSError):
                while True:
                    ballast.write(b"\0" * size)


def start(project: Path, *arguments: str, fault: Saboteur | None = None, **environment: str) -> tuple[int, Path]:
    """Begin ``kedro run ARGUMENTS`` in a fork; returns its process and the file it writes to."""
    log = project.with_name(f"{project.name}.{time.monotonic_ns()}.log")
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        _be_kedro(project, arguments, fault, environment, log)
    return process, log


def finish(process: int, log: Path, seconds: float = 300) -> Outcome:
    """Wait for a command."""
    deadline = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return Outcome(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"))
        if time.monotonic() > deadline:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            raise TimeoutError(log.read_text(errors="replace")[-3000:])
        time.sleep(0.01)


def kedro(project: Path, *arguments: str, fault: Saboteur | None = None, **environment: str) -> Outcome:
    """Run ``kedro run ARGUMENTS`` to its end."""
    return finish(*start(project, *arguments, fault=fault, **environment))


def _be_kedro(project: Path, arguments: tuple[str, ...], fault: Saboteur | None, environment: dict[str, str], log: Path) -> None:
    code = 1
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in (1, 2):
            os.dup2(handle, number)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        os.chdir(project)
        os.environ.update({"KEDRO_ENV": "test", "COLUMNS": "120", "DO_NOT_TRACK": "1", **environment})
        sys.argv = ["kedro", "run", *arguments]
        from kedro.framework.cli.cli import main
        from kedro.framework.project import LOGGING

        LOGGING.configure(yaml.safe_load((project / "conf" / "logging.yml").read_text()))
        if fault is not None:
            fault.install()
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:  # noqa: BLE001  whatever it is, it is how the command ended
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def make_project(folder: Path, *, tracking: bool = False) -> Path:
    """A copy of the project with little work in it: its configuration and the first of its texts."""
    folder.mkdir(parents=True)
    for name in ("conf", "pyproject.toml", ".telemetry"):
        source = PROJECT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    (folder / "src").mkdir()
    raw = folder / "data" / "01_raw"
    raw.mkdir(parents=True)
    for file in (PROJECT / "data" / "01_raw").iterdir():
        lines = file.read_text().splitlines(keepends=True)
        (raw / file.name).write_text("".join(lines[: DATA_NODES.get(file.name)]))
    file = folder / "conf" / "test" / "parameters.yml"
    options = yaml.safe_load(file.read_text())
    options["clustering_evaluation"] |= {
        "seeds": [0],
        "strategies": ["prompted_last", "prompted_last_adapted"],
        "statistics": {"resamples": 100},
        "cluster_count": {"candidates": 2, "max_documents": 40},
    }
    options["attention_analysis"] |= {"max_texts": 4, "occlusion_texts": 1, "resamples": 50}
    options["data_augmentation"]["shard_size"] = 6
    options["text_clustering"] |= {"stability": {"candidates": [2, 3], "pairs": 2, "max_texts": 40}, "map": {"max_texts": 40}}
    options["contrastive_finetuning"]["steps"] = 3
    file.write_text(yaml.safe_dump(options))
    if not tracking:
        (folder / "conf" / "test" / "mlflow.yml").write_text("enabled: false\n")
    return folder


def copied(project: Path, folder: Path) -> Path:
    """A copy of a project as it is."""
    shutil.copytree(project, folder, symlinks=True)
    return folder


STORES = (
    "03_primary/*/**/[!.]*.parquet",
    "07_model_output/evaluation_cells/**/[!.]*.parquet",
    "06_models/training_checkpoints/*/*/step-*/adapter_model.safetensors",
    "04_feature/embedding_store/**/[!.]*.safetensors",
    "04_feature/corpus_vectors/[!.]*.safetensors",
    "06_models/base_model/*/base_model/*",
)


def stored(project: Path) -> dict[Path, int]:
    """Finished files of all stores that later runs use again, and the converted base models: when each was written."""
    output = project / OUTPUT
    files = [file for pattern in STORES for file in output.glob(pattern) if file.is_file() and not _is_hidden(file.relative_to(output))]
    # A table of pairs has versions, and is no store.
    return {file.relative_to(project): file.stat().st_mtime_ns for file in files if file.parents[1].name != file.name}


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def names(project: Path) -> set[str]:
    """What the stores hold, without the names of versions."""
    return {re.sub(r"/\d{4}-[^/]+Z/", "/", file.as_posix()) for file in stored(project)}


def leftovers(project: Path) -> list[Path]:
    """Unfinished files."""
    return [path for path in (project / OUTPUT).rglob(".*-????????") if CHECKSUM not in path.suffixes or path.suffix != CHECKSUM]


WAYS = ("truncated", "zeroed", "flipped", "deleted")


def damage(file: Path, way: str) -> None:
    """Damage a file: cut it in half, overwrite it with zeros, flip one bit in its middle, or delete it."""
    content = bytearray(file.read_bytes())
    if way == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif way == "zeroed":
        file.write_bytes(bytes(len(content)))
    elif way == "flipped":
        content[len(content) // 2] ^= 1 << 3
        file.write_bytes(content)
    else:
        file.unlink()


def in_fork(function: Callable[[], Any]) -> Any:
    """What a function returns, called in a fork; the value goes through JSON."""
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.write(write, json.dumps(function()).encode())
        except BaseException:  # noqa: BLE001  told by the missing answer
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        content = answer.read()
    os.waitpid(process, 0)
    return json.loads(content)
