from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.framework.project import configure_project, pipelines
from kedro.io import DataCatalog, MemoryDataset, Version
from kedro.pipeline import Node, Pipeline
from kedro.runner import ParallelRunner, SequentialRunner, ThreadRunner

from embedding_adaptation import atomic
from embedding_adaptation import kept_results as module
from embedding_adaptation.configuration import ProjectConfigLoader
from embedding_adaptation.datasets.folder import FolderDataset
from embedding_adaptation.datasets.pandas_files import CSVDataset
from embedding_adaptation.datasets.reports import JSONDataset
from embedding_adaptation.datasets.shards import ShardsDataset
from embedding_adaptation.datasets.texts import TextsDataset
from embedding_adaptation.kept_results import FOLDER, KeptResults
from embedding_adaptation.paths import set_project_root
from embedding_adaptation.progress import Progress
from embedding_adaptation.repeatable import repeatable, repeatable_unless
from embedding_adaptation.settings import CONFIG_LOADER_ARGS

CALLS: list[str] = []


@repeatable
def count(texts: pd.DataFrame, work: Path, options: dict) -> tuple[pd.DataFrame, dict]:
    CALLS.append("count")
    table = texts.assign(length=[len(text) * options["times"] for text in texts["text"]])
    return table, {"texts": len(table)}


@repeatable
def longest(counted: pd.DataFrame) -> pd.DataFrame:
    CALLS.append("longest")
    return counted.nlargest(1, "length")


@repeatable
def describe(longest: pd.DataFrame) -> dict:
    CALLS.append("describe")
    return {"longest": longest["text"].iloc[0]}


def plain(counted: pd.DataFrame) -> dict:
    CALLS.append("plain")
    return {"rows": len(counted)}


NODES = [
    Node(count, ["texts", "work", "params:counting"], ["counted", "number"], name="count_node"),
    Node(longest, "counted", "longest", name="longest_node"),
    Node(describe, "longest", "described", name="describe_node"),
    Node(plain, "counted", "plain", name="plain_node"),
]
ALL = ["count", "describe", "longest", "plain"]
# What lies in memory is made again, and what was made from it is not.
NOT_KEPT = ["longest", "plain"]
OUTPUTS = ("counted", "number", "described", "plain")


class Project:
    """A folder in which a small pipeline runs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, 0
        self.options: dict = {"times": 1}
        self.globals: dict = {"output": "out"}
        self.column = "text"
        self.write_texts(["one", "three", "seven"])

    def write_texts(self, texts: list[str]) -> None:
        pd.DataFrame({"text": texts, "title": [text.upper() + "!" * len(texts) for text in texts]}).to_csv(self.folder / "texts.csv")

    def catalog(self) -> DataCatalog:
        self.runs += 1
        version = Version(None, f"{self.runs:03d}")
        out = self.folder / "out" / "08_reporting"
        reports = {name: JSONDataset(filepath=str(out / f"{name}.json"), version=version) for name in OUTPUTS[1:]}
        return DataCatalog(
            {
                "texts": TextsDataset(filepath=str(self.folder / "texts.csv"), text_column=self.column),
                "work": FolderDataset(filepath=str(self.folder / "out" / "work")),
                "counted": CSVDataset(filepath=str(out / "counted.csv"), save_args={"index": False}, version=version),
                "longest": MemoryDataset(),
                "params:counting": MemoryDataset(self.options),
                **reports,
            }
        )

    def run(self, *, nodes=NODES, catalog=None, runner=None) -> list[str]:
        """Run as Kedro does, and return what has been computed."""
        CALLS.clear()
        hooks, kept = _create_hook_manager(), KeptResults()
        hooks.register(kept)
        set_project_root(self.folder)
        kept.after_context_created(context=SimpleNamespace(project_path=self.folder, config_loader={"globals": self.globals}))
        catalog, pipeline = catalog or self.catalog(), Pipeline(nodes)
        kept.before_pipeline_run(pipeline=pipeline, catalog=catalog)
        (runner or SequentialRunner()).run(pipeline, catalog, hooks)
        kept.after_pipeline_run()
        return sorted(CALLS)

    def saved(self, name: str, run: int | None = None) -> Path:
        (dataset,) = (self.folder / "out" / "08_reporting").glob(f"{name}.*")
        return dataset / f"{run or self.runs:03d}" / dataset.name

    def note(self, name: str) -> Path:
        return self.folder / "out" / FOLDER / f"{name}_node.json"


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDDING_ADAPTATION_PROJECT", str(tmp_path))
    return Project(tmp_path)


def test_what_has_not_changed_is_saved_again_and_not_computed(project, caplog):
    caplog.set_level("INFO", logger="embedding_adaptation")
    assert project.run() == ALL
    assert not [message for message in caplog.messages if "earlier run" in message]
    for _ in range(2):
        assert project.run() == NOT_KEPT
    assert caplog.messages[-1].startswith("2 of 4 nodes saved the results of an earlier run again")
    project.globals["keep_results"] = False
    assert project.run() == ALL
    for name in OUTPUTS:
        kept, computed = project.saved(name, 3), project.saved(name, 4)
        assert kept.read_bytes() == computed.read_bytes(), name
        assert not kept.samefile(project.saved(name, 1)), name
    assert json.loads(project.saved("described").read_text()) == {"longest": "three"}


@pytest.mark.parametrize(
    ("change", "computed"),
    [
        (lambda project: project.write_texts(["one", "three", "eight"]), ALL),
        (lambda project: project.write_texts(["one", "three", "seven", "seven"]), ALL),
        (lambda project: setattr(project, "column", "title"), ALL),
        (lambda project: project.options.update(times=2), ALL),
        (lambda project: project.options.update(more=None), ["count", *NOT_KEPT]),  # with the same result, what follows is the same
    ],
    ids=["a text", "one more text", "the column", "an option", "an option without effect"],
)
def test_what_depends_on_a_change_is_computed(project, change, computed):
    project.run()
    change(project)
    assert project.run() == sorted(computed)
    assert project.run() == NOT_KEPT


def test_a_change_back_and_forth_is_computed_each_time_and_right(project):
    results = []
    for times in (1, 2, 1):
        project.options["times"] = times
        assert project.run() == ALL
        results.append(project.saved("counted").read_text())
    assert results[0] == results[2] != results[1]


@pytest.mark.parametrize("name", ["_code", "_machine"])
def test_with_other_code_or_on_another_machine_everything_is_computed(project, monkeypatch, name):
    project.run()
    monkeypatch.setattr(module, name, lambda: "another")
    assert project.run() == ALL
    assert project.run() == NOT_KEPT


def test_the_machine_is_its_processor_and_its_gpus(monkeypatch):
    found = [module._machine()]
    for variable, value in (("CUDA_VISIBLE_DEVICES", ""), ("CUDA_VISIBLE_DEVICES", "1"), ("EDITOR", "vi")):
        monkeypatch.setenv(variable, value)
        module._machine.cache_clear()
        found.append(module._machine())
    module._machine.cache_clear()
    assert len(set(found)) == 3
    assert found[-1] == found[-2]


def test_the_code_is_this_package_as_it_is_and_what_is_installed(tmp_path, monkeypatch):
    package = tmp_path / "package"
    (package / "__pycache__").mkdir(parents=True)
    (package / "one.py").write_text("a = 1")

    def digest() -> str:
        module._own_files.cache_clear()
        module._code.cache_clear()
        return module._code()

    try:
        monkeypatch.setattr(module, "files", lambda name: package)
        first = digest()
        (package / "__pycache__" / "one.pyc").write_text("compiled")
        assert digest() == first
        (package / "one.py").write_text("a = 2")
        changed = digest()
        (package / "one.py").rename(package / "two.py")
        renamed = digest()
        monkeypatch.setattr(module, "distributions", lambda: [SimpleNamespace(name="torch", version="9", requires=None)])
        assert len({first, changed, renamed, digest()}) == 4
    finally:
        module._own_files.cache_clear()
        module._code.cache_clear()


def test_packages_that_only_tools_need_do_not_count(monkeypatch):
    def installed(name: str, version: str, *requires: str) -> SimpleNamespace:
        return SimpleNamespace(name=name, version=version, requires=list(requires))

    def found(*more: SimpleNamespace) -> list[tuple[str, str]]:
        monkeypatch.setattr(module, "distributions", lambda: [own, *packages, *more])
        return module._packages()

    extras = ('mkdocs; extra == "docs"', 'ray; extra == "cluster"', 'bnb; extra == "quantised"')
    own = installed("embedding_adaptation", "1", "torch>=2", "Scikit.Learn[fast]", *extras)
    packages = [installed("torch", "2", "shared", 'old; python_version < "3"'), installed("scikit-learn", "1", 'blas; extra == "fast"')]
    packages += [installed("shared", "1"), installed("blas", "1")]
    before = found()
    assert before == [("blas", "1"), ("embedding-adaptation", "1"), ("scikit-learn", "1"), ("shared", "1"), ("torch", "2")]
    # mkdocs and what it alone needs are tools, but not what torch needs as well.
    assert found(installed("MkDocs", "1", "shared", "theme"), installed("theme", "1", "mkdocs"), installed("ray", "1")) == before
    # What nothing here knows of, such as a kernel for attention, may be found and used by others.
    for other in ("bnb", "flash-attn", "old"):
        assert found(installed(other, "1")) == sorted([*before, (other, "1")])


def test_the_extras_are_those_of_the_project():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert sorted([*module._TOOLS, *module._COMPUTING]) == sorted(project["optional-dependencies"])
    assert project["name"] == module._OWN_NAME


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_file_that_an_option_names_counts_with_its_content(project, is_folder):
    path = project.folder / "other"
    path.mkdir()
    (path / "words.txt").write_text("a")
    project.options |= {"nested": [{"start": "other" if is_folder else "other/words.txt"}], "not a path": "x\0y", "long": "z" * 9999}
    project.run()
    assert project.run() == NOT_KEPT
    (path / "words.txt").write_text("ab")
    assert "count" in project.run()


@pytest.mark.parametrize("word", [".", "..", "/", "out", "~"])
def test_a_word_that_is_the_name_of_a_folder_of_results_too_is_a_word(project, monkeypatch, word):
    monkeypatch.setenv("HOME", str(project.folder))
    project.options["stop_words"] = ["the", word]
    project.run()
    assert project.run() == NOT_KEPT


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "harm",
    [
        lambda project: damage(project.saved("number")),
        lambda project: project.saved("number").unlink(),
        lambda project: project.saved("counted").with_name(".counted.csv.xxh128").unlink(),
        lambda project: shutil.rmtree(project.saved("counted").parent),
        lambda project: project.note("count").unlink(),
        lambda project: project.note("count").write_bytes(b"\xff\x00"),
        lambda project: project.note("count").write_text("[]"),
        lambda project: project.note("count").write_text(project.note("count").read_text()[:-20]),
        lambda project: project.note("count").write_text(project.note("count").read_text().replace('"key": "', '"key": "0')),
        lambda project: project.note("count").write_text(project.note("count").read_text().replace('"001"', '"../001"')),
        lambda project: project.note("count").write_text(project.note("count").read_text().replace('"format": 1', '"format": 0')),
    ],
)
def test_what_is_damaged_missing_or_pruned_is_computed_again(project, harm):
    project.run()
    before = json.loads(project.saved("described").read_text())
    harm(project)
    assert "count" in project.run()
    assert json.loads(project.saved("described").read_text()) == before
    assert project.run() == NOT_KEPT


def test_a_note_that_names_another_version_is_not_believed(project):
    project.run()
    note = project.note("count")
    first = json.loads(note.read_text())
    project.write_texts(["other", "texts"])
    project.run()
    second = json.loads(note.read_text())
    mixed = second | {"key": first["key"]}
    mixed["outputs"]["counted"]["version"] = first["outputs"]["counted"]["version"]
    note.write_text(json.dumps(mixed))
    project.write_texts(["one", "three", "seven"])
    assert project.run() == ALL


def test_nothing_is_kept_where_it_cannot_be_told_that_it_is_the_same(project):
    unknown = project.catalog()
    unknown["work"] = MemoryDataset(Path("somewhere"))
    assert project.run(catalog=unknown) == ALL
    unversioned = project.catalog()
    unversioned["counted"] = CSVDataset(filepath=str(project.folder / "counted.csv"), save_args={"index": False})
    unversioned["work"] = FolderDataset(filepath=str(project.folder / "out" / "work"))
    assert project.run(catalog=unversioned) == ["count", *NOT_KEPT]
    assert not project.note("count").exists()
    assert not project.note("plain").exists()


def test_a_run_that_fails_before_all_is_saved_notes_nothing(project, monkeypatch):
    save = JSONDataset.save

    def fails(self, data):
        if "texts" in data:
            message = "no"
            raise OSError(message)
        save(self, data)

    monkeypatch.setattr(JSONDataset, "save", fails)
    with pytest.raises(OSError, match="no"):
        project.run()
    assert not project.note("count").exists()
    monkeypatch.setattr(JSONDataset, "save", save)
    assert project.run() == ALL


def test_a_note_that_a_killed_run_was_writing_is_removed(project):
    project.run()
    ended = subprocess.Popen([sys.executable, "-c", "import os; print(os.getpid())"], stdout=subprocess.PIPE, text=True)
    number = ended.communicate()[0].strip()
    half = project.note("count").with_name(f".count_node.json.{atomic._HOST}.{number}-abcdefgh")
    half.write_text("{")
    assert project.run() == NOT_KEPT
    assert sorted(path.name for path in half.parent.iterdir()) == ["count_node.json", "describe_node.json"]


def test_notes_hold_nothing_of_the_texts(project):
    project.write_texts(["a very secret text", "another one"])
    project.options["examples"] = ["a secret example"]
    project.run()
    notes = [note.read_text() for note in (project.folder / "out" / FOLDER).iterdir()]
    assert len(notes) == 2
    assert not any("secret" in note or "another" in note for note in notes)


def test_a_store_that_holds_what_a_node_has_added_is_left_as_it_is(project):
    def run(options: dict, *extra: Node) -> tuple[list[str], dict[str, int]]:
        cells = ShardsDataset(filepath=str(project.folder / "out" / "cells"))
        catalog = DataCatalog({"params:cells": MemoryDataset(options), "cells": cells})
        nodes = [Node(fill, "params:cells", "cells", name="fill_node"), *extra]
        return project.run(nodes=nodes, catalog=catalog), {name: len(cells.load()[name]) for name in cells.load()}

    assert run({"rows": [1, 2]}) == (["fill 1", "fill 2"], {"of-1": 1, "of-2": 2})
    assert run({"rows": [1, 2]}) == ([], {"of-1": 1, "of-2": 2})
    assert run({"rows": [3]}) == (["fill 3"], {"of-1": 1, "of-2": 2, "of-3": 3})
    damage(project.folder / "out" / "cells" / "of-2.parquet")
    assert run({"rows": [3]})[0] == ["fill 3"]
    assert run({"rows": [1, 2]}) == (["fill 1", "fill 2"], {"of-1": 1, "of-2": 2, "of-3": 3})
    # Of a run that failed in between, nothing is believed, although something is there.
    with pytest.raises(RuntimeError, match="broken"):
        run({"rows": [4, -1]})
    with pytest.raises(RuntimeError, match="broken"):
        run({"rows": [4, -1]})


@repeatable
def fill(options: dict):
    for rows in options["rows"]:
        if rows < 0:
            message = "broken"
            raise RuntimeError(message)
        CALLS.append(f"fill {rows}")
        yield {f"of-{rows}": pd.DataFrame({"row": range(rows)})}


def test_with_options_by_which_a_server_is_asked_a_node_computes(project):
    def run(options: dict) -> list[str]:
        project.runs += 1
        out = project.folder / "out" / "08_reporting"
        answer = JSONDataset(filepath=str(out / "answer.json"), version=Version(None, f"{project.runs:03d}"))
        catalog = DataCatalog({"params:asking": MemoryDataset(options), "answer": answer})
        return project.run(nodes=[Node(ask, "params:asking", "answer", name="ask_node")], catalog=catalog)

    for _ in range(2):
        assert run({"server": "http://localhost"}) == ["ask"]
    assert [run({"server": None}), run({"server": None})] == [["ask"], []]


@repeatable_unless(lambda options: options["server"] is not None)
def ask(options: dict) -> dict:
    CALLS.append("ask")
    return {}


def test_threads_get_their_own_results(project):
    names = [f"number_{place}" for place in range(12)]

    def catalog() -> DataCatalog:
        project.runs += 1
        version = Version(None, f"{project.runs:03d}")
        out = project.folder / "out" / "08_reporting"
        datasets = {name: JSONDataset(filepath=str(out / f"{name}.json"), version=version) for name in names}
        return DataCatalog(datasets | {f"params:{name}": MemoryDataset({"name": name}) for name in names})

    nodes = [Node(echoed, f"params:{name}", name, name=f"{name}_node") for name in names]
    assert len(project.run(nodes=nodes, catalog=catalog(), runner=ThreadRunner(max_workers=6))) == 12
    assert project.run(nodes=nodes, catalog=catalog(), runner=ThreadRunner(max_workers=6)) == []
    assert [json.loads(project.saved(name).read_text())["name"] for name in names] == names


@repeatable
def echoed(options: dict) -> dict:
    CALLS.append("echoed")
    return options


def test_in_several_processes_everything_is_computed(project):
    nodes = NODES[:1]
    project.run(nodes=nodes)
    from kedro.io.data_catalog import SharedMemoryDataCatalog

    kept = KeptResults()
    kept.after_context_created(context=SimpleNamespace(project_path=project.folder, config_loader={"globals": project.globals}))
    kept.before_pipeline_run(pipeline=Pipeline(nodes), catalog=SharedMemoryDataCatalog({}))
    kept.before_node_run(node=nodes[0], inputs=dict.fromkeys(nodes[0].inputs))
    CALLS.clear()
    count(pd.DataFrame({"text": ["a"]}), Path(), {"times": 1})
    assert CALLS == ["count"]
    assert ParallelRunner  # the runner whose catalog this is


def test_the_time_of_a_kept_result_is_not_noted(project):
    progress = Progress()
    node = NODES[0]
    progress.before_pipeline_run(pipeline=Pipeline([node]))
    for outputs, is_noted in (({"counted": module.KeptVersion(project.folder)}, False), ({"counted": 1}, True)):
        progress.before_node_run(node=node)
        progress.after_node_run(node=node, outputs=outputs)
        assert (node.name in progress._now) is is_noted


def test_all_that_is_marked_in_the_chain_can_be_kept(tmp_path):
    """Whoever adds a dataset of another kind to a node would otherwise not notice that the node is computed each time."""
    configure_project("embedding_adaptation")
    conf = Path(__file__).parents[1] / "conf"
    loader = ProjectConfigLoader(str(conf), env="test", runtime_params={"output": str(tmp_path)}, **CONFIG_LOADER_ARGS)
    catalog = DataCatalog.from_config(loader["catalog"], credentials={"chat_server": {}}, save_version="1")
    nodes = [node for node in pipelines["__default__"].nodes if hasattr(node.func, "repeatable_unless")]
    in_memory = {name for node in nodes for name in node.outputs if catalog.get(name) is None}
    for node in nodes:
        for name in {*node.inputs} - in_memory:
            assert name.startswith("params:") or hasattr(catalog.get(name), "content_identity"), f"{name}, an input of {node.name}"
        for name in {*node.outputs} - in_memory:
            assert module._can_be_kept(catalog.get(name)), f"{name}, which {node.name} saves"
    assert len(nodes) >= 35
    assert in_memory == {"labelled_vectors", "scored_cells", "cluster_profiles"}
