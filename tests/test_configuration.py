from __future__ import annotations

from pathlib import Path

import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from embedding_adaptation import paths
from embedding_adaptation.configuration import ProjectConfigLoader
from embedding_adaptation.parameters import ParameterError
from embedding_adaptation.settings import CONFIG_LOADER_ARGS

CATALOG = """
corpus:
  type: x.Texts
  filepath: ${runtime_params:corpus,data/corpus.txt}
  text_column: ${runtime_params:corpus_column,text}
  rows: ${runtime_params:rows,5}
  mirror: {path: "${runtime_params:mirror,null}"}
base_model:
  type: x.Model
  source: ${runtime_params:base_model,${globals:base_model}}
  filepath: ${globals:output}/06_models
"""


@pytest.fixture
def conf(tmp_path):
    files = {
        "base/catalog.yml": CATALOG,
        "base/parameters.yml": "embedder: {device: auto, seed: '${globals:seed}'}\nfolds: 3\nnote: plain\n",
        "base/globals.yml": "base_model: random:tiny-llama\noutput: data\nseed: 0\n",
    }
    for name, text in files.items():
        file = tmp_path / "conf" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    (tmp_path / "conf" / "local").mkdir()
    return tmp_path / "conf"


def loader(conf: Path, **given) -> ProjectConfigLoader:
    return ProjectConfigLoader(str(conf), runtime_params=given, **CONFIG_LOADER_ARGS)


@pytest.mark.parametrize("column", ["2023", "yes", "null", "007", "1e5", 2023])
def test_a_dataset_gets_text_as_it_was_given(conf, column):
    assert loader(conf, corpus_column=column)["catalog"]["corpus"]["text_column"] == str(column)


def test_a_dataset_gets_a_number_where_its_default_is_one(conf):
    found = loader(conf, rows="7", corpus_column="7")["catalog"]["corpus"]
    assert (found["rows"], found["text_column"]) == (7, "7")
    assert loader(conf)["catalog"]["corpus"] | {"mirror": None} == {
        "type": "x.Texts", "filepath": "data/corpus.txt", "text_column": "text", "rows": 5, "mirror": None,
    }  # fmt: skip


def test_what_is_no_text_is_refused_for_a_dataset_that_takes_text(conf):
    with pytest.raises(ParameterError, match="'corpus_column' takes text, not True"):
        loader(conf, corpus_column=True)["catalog"]


def test_none_leaves_the_default(conf):
    assert loader(conf, corpus_column=None, base_model=None)["catalog"]["corpus"]["text_column"] == "text"
    assert loader(conf, base_model=None)["catalog"]["base_model"]["source"] == "random:tiny-llama"


def test_paths_in_the_catalog_may_hold_tildes_colons_and_number_signs(conf, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(paths._ROOT, str(tmp_path))

    def corpus(path):
        return loader(conf, corpus=path)["catalog"]["corpus"]["filepath"]

    assert corpus("~/my texts #1.txt") == str(tmp_path / "home" / "my texts #1.txt")
    assert corpus("notes: may.txt") == str(tmp_path / "notes: may.txt")
    assert corpus("data/x #2.txt") == "data/x #2.txt"  # Kedro puts the project's root before it
    assert corpus("a:b.txt") == str(tmp_path / "a:b.txt")  # no drive, but on Windows
    assert corpus("s3://bucket/x.txt") == "s3://bucket/x.txt"
    assert loader(conf, mirror="~/mirror")["catalog"]["corpus"]["mirror"]["path"] == str(tmp_path / "home" / "mirror")
    assert loader(conf, output="~/results")["catalog"]["base_model"]["filepath"] == str(tmp_path / "home" / "results" / "06_models")


def test_a_parameter_of_the_run_sets_the_global_of_its_name(conf):
    found = loader(conf, seed="7", output="2024", base_model="models/new")
    assert found["globals"] == {"base_model": "models/new", "output": "2024", "seed": 7}
    assert found["parameters"]["embedder"]["seed"] == 7
    assert found["catalog"]["base_model"] == {"type": "x.Model", "source": "models/new", "filepath": "2024/06_models"}


@pytest.mark.parametrize(("given", "kind"), [("abc", "a whole number"), ("1.5", "a whole number"), (True, "a whole number")])
def test_a_global_keeps_its_kind(conf, given, kind):
    with pytest.raises(ParameterError, match=f"parameter 'seed' takes {kind} such as 0, not {given!r}"):
        loader(conf, seed=given)


def test_own_parameters_outside_of_groups_keep_their_type(conf):
    found = loader(conf, folds="5", note="2023")["parameters"]
    assert (found["folds"], found["note"]) == (5, "2023")


def test_names_that_a_project_adds_itself_are_taken(conf):
    (conf / "local" / "catalog.yml").write_text("mine:\n  type: x.Y\n  load_args: {sheet: ['${runtime_params:sheet}']}\n", encoding="utf-8")
    (conf / "local" / "parameters.yml").write_text("my_group: {size: 1}\n", encoding="utf-8")
    loader(conf, sheet="a", corpus="x", my_group={"size": 2}, folds="5", seed="1").check_names()
    with pytest.raises(ParameterError, match=r"'sheets' \(did you mean sheet\?\)"):
        loader(conf, sheets="a").check_names()


def test_a_name_whose_entry_the_environment_has_replaced_is_taken_no_more(conf):
    loader(conf, corpus_column="x").check_names()
    (conf / "local" / "catalog.yml").write_text("corpus:\n  type: x.Texts\n  filepath: mine.txt\n", encoding="utf-8")
    with pytest.raises(ParameterError, match="'corpus_column'"):
        loader(conf, corpus_column="x").check_names()


def test_without_parameters_of_the_run_nothing_is_read_for_their_names(conf, monkeypatch):
    found = loader(conf)
    monkeypatch.setattr(found, "_read_raw_config", lambda key: pytest.fail(f"{key} was read"))
    found.check_names()


@pytest.mark.parametrize("where", [".", "notebooks"])
def test_a_session_refuses_unknown_names_wherever_it_is_opened(project, where, monkeypatch):
    monkeypatch.setenv(paths._ROOT, "")
    monkeypatch.chdir(project / where)
    bootstrap_project(project)
    given = {"labeled_texts": "nope.csv", "corpus_colum": "x", "basemodel": "foo/bar", "embedder": {"devcie": "cpu"}}
    with KedroSession.create(env="test", runtime_params=given) as session, pytest.raises(ParameterError) as refused:
        session.run(pipeline_names=["text_clustering"])
    for name in ("labelled_texts", "corpus_column", "base_model", "embedder.device"):
        assert f"did you mean {name}" in str(refused.value)


def test_a_session_resolves_paths_wherever_it_is_opened(project, monkeypatch):
    monkeypatch.setenv(paths._ROOT, "")
    monkeypatch.chdir(project / "notebooks")
    bootstrap_project(project)
    given = {"corpus": "data/01_raw/corpus.txt", "base_model": "data/01_raw"}
    with KedroSession.create(env="test", runtime_params=given) as session:
        catalog = session.load_context().catalog
    assert catalog.get("corpus")._describe()["filepath"] == str(project / "data/01_raw/corpus.txt")
    with pytest.raises(Exception, match="'data/01_raw'") as refused:
        catalog.get("base_model").check_input()
    assert "Hub" not in str(refused.value)


def test_the_name_of_a_dataset_that_takes_no_parameter_is_not_taken(conf):
    (conf / "local" / "catalog.yml").write_text("mine:\n  type: x.Y\n  filepath: x\n", encoding="utf-8")
    loader(conf, corpus="x").check_names()  # which the entry of that name takes
    with pytest.raises(ParameterError, match="'mine'"):
        loader(conf, mine="x").check_names()


def test_an_entry_that_takes_its_own_name_no_more_gives_it_up_though_others_take_it(conf):
    other = "other:\n  type: x.Y\n  filepath: '${runtime_params:corpus,x}'\ncorpus:\n  type: x.Texts\n  filepath: mine.txt\n"
    (conf / "local" / "catalog.yml").write_text(other, encoding="utf-8")
    with pytest.raises(ParameterError, match="'corpus'"):
        loader(conf, corpus="y").check_names()


def test_a_parameter_file_may_take_a_parameter_of_the_run(conf):
    (conf / "local" / "parameters.yml").write_text("size: '${runtime_params:my_size,3}'\n", encoding="utf-8")
    found = loader(conf, my_size="5")
    found.check_names()
    assert found["parameters"]["size"] == 5
    assert found.consumers_of_run_parameters() == {"my_size": {"params:size"}}


def test_it_is_known_which_datasets_take_a_parameter_of_the_run(conf):
    assert loader(conf, corpus_column="x", embedder={"device": "cpu"}, seed="1", base_model="x").consumers_of_run_parameters() == {
        "corpus_column": {"corpus"},
        "embedder": {"params:embedder"},
    }
    assert loader(conf).consumers_of_run_parameters() == {}


def test_private_texts_are_shown_and_copied_nowhere_and_their_numbers_are(project):
    def catalog(**given):
        return ProjectConfigLoader(str(project / "conf"), env="base", runtime_params=given, **CONFIG_LOADER_ARGS)["catalog"]

    public, private = catalog(), catalog(private="true")
    holding = {name for name, entry in public.items() if (entry.get("metadata") or {}).get("texts")}
    assert {"positive_pairs", "augmentation_report", "attention_page", "adaptation_page", "clusters_page"} <= holding
    for name in holding:
        metadata = private[name]["metadata"]
        assert metadata["kedro-viz"]["preview"] is False, name
        assert "artifact" not in metadata.get("mlflow", {}), name
    assert private["augmentation_report"]["metadata"]["mlflow"] == {"headline": "pairs"}
    assert {name for name in public if public[name] != private[name]} <= holding
