from __future__ import annotations

import pytest
from kedro.framework.project import configure_project, pipelines
from kedro.validation import TypeExtractor

from embedding_adaptation.parameters import OPTION_TYPES, ParameterError, as_text, check_names, read_value, split_parameters

FILE = "clustering_evaluation.labelled_files.mine"


@pytest.mark.parametrize("typed", ["2023", "yes", "no", "0", "007", "null", "~", "1e5", "2020-01-01", "12:30:00", "true", "1_000", "0x1F"])
def test_names_of_columns_stay_as_they_are_typed(typed):
    assert split_parameters(f"label_column={typed}") == {"label_column": typed}
    given = split_parameters(f"{FILE}.label_column={typed},{FILE}.text_column={typed}")
    assert given["clustering_evaluation"]["labelled_files"]["mine"] == {"label_column": typed, "text_column": typed}


@pytest.mark.parametrize(
    "path",
    ["~/texts.txt", "a #b.txt", "#b.txt", "[draft].txt", "{x}.txt", "it's.txt", "a: b.txt", "*.txt", "@x", "!x y", "a=b.txt", "5 #3"],
)
def test_paths_stay_as_they_are_typed(path):
    assert split_parameters(f"corpus={path},corpus_column=body") == {"corpus": path, "corpus_column": "body"}
    assert split_parameters(f"data_augmentation.generators.given.path={path},seed=1") == {
        "data_augmentation": {"generators": {"given": {"path": path}}},
        "seed": "1",
    }


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("text_clustering.clusters=null", None),
        ("text_clustering.clusters=12", 12),
        ("contrastive_finetuning.learning_rate=1e-5", 1e-5),
        ("contrastive_finetuning.symmetric=no", False),
        ("data_augmentation.filters.copy=null", None),
        ("clustering_evaluation.statistics.baseline=null", None),
        ("clustering_evaluation.statistics.baseline='null'", "null"),
        ("clustering_evaluation.tasks=2023", "2023"),
        ("clustering_evaluation.tasks=[a, b]", ["a", "b"]),
        ("text_clustering.stability.candidates=[2, 3]", [2, 3]),
        ("embedder.templates.topic=yes", "yes"),
        ("embedder.templates.topic='In a word, {text}, means \"'", 'In a word, {text}, means "'),
        (
            "embedder.strategies.mine={weights: base, template: bare, pooling: mean}",
            {"weights": "base", "template": "bare", "pooling": "mean"},
        ),
    ],
)
def test_an_option_decides_how_its_value_is_read(typed, value):
    found = split_parameters(typed)
    for name in typed.partition("=")[0].split("."):
        found = found[name]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("corpus='a, b.txt',corpus_column=x", {"corpus": "a, b.txt", "corpus_column": "x"}),
        ("corpus=\"a, 'b'.txt\" , corpus_column = x", {"corpus": "a, 'b'.txt", "corpus_column": "x"}),
        ("corpus='it''s, b.txt'", {"corpus": "it's, b.txt"}),
        ("separator=','", {"separator": ","}),
        (r'separator="\t"', {"separator": "\t"}),
        ("separator=' '", {"separator": " "}),
        ("corpus=[a, b].txt", None),
        (" , ", {}),
        ("", {}),
    ],
)
def test_values_with_commas_go_in_quotes(text, given):
    if given is None:
        with pytest.raises(ParameterError, match=r"""'b\].txt' is not of the form NAME=VALUE; .*--params "corpus='\[a, b\].txt'\""""):
            split_parameters(text)
    else:
        assert split_parameters(text) == given


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("corpus=a,b.txt", r"""'b\.txt' is not of the form NAME=VALUE; a comma ends a value.*: --params "corpus='a,b\.txt'\""""),
        (" corpus_column=x, corpus=a #1, b.txt", r"""'b\.txt' is not .*: --params "corpus='a #1, b\.txt'\""""),
        ("corpus=it's, b.txt  ", r"""'b\.txt' is not .*: --params "corpus='it''s, b\.txt'\"$"""),
        ("corpus_separator=,", r"'corpus_separator' has no value before the comma; .* quote a comma .*: corpus_separator=','$"),
        ("corpus=,seed=1", "'corpus' has no value before the comma"),
        ("corpus", "'corpus' is not of the form NAME=VALUE$"),
        ("=x", "has no name before the '='"),
        ("embedder..device=x", "has no name"),
        ("corpus='a", "'corpus' begins with a quote that is not closed"),
        ("corpus='a'b", "begins with a quote"),
        ("corpus=a,corpus=b", "'corpus' twice"),
        ("embedder.device=cpu,embedder=x", "'embedder' twice"),
        ("corpus=a,corpus.b=2", "'corpus' both to a value and, with 'corpus.b', as a group"),
    ],
)
def test_what_cannot_be_read_says_how_to_write_it(text, message):
    with pytest.raises(ParameterError, match=message):
        split_parameters(text)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"labeled_texts": "x"}, r"unknown parameter: 'labeled_texts' \(did you mean labelled_texts\?\)$"),
        ({"basemodel": "x", "Corpus": "y"}, r"parameters: 'basemodel' \(did you mean base_model\?\); 'Corpus' \(did you mean corpus"),
        ({"steps": 3}, r"did you mean contrastive_finetuning\.steps"),
        ({"embedder.device": "cpu"}, "the group embedder with device nested in it"),
        ({"qqq": 1}, r"'qqq' \(choose from .*base_model.*text_clustering"),
        ({"embedder": {"devcie": "cpu"}}, r"'embedder\.devcie' \(did you mean embedder\.device\?\)"),
        (
            {"text_clustering": {"stability": {"share": 1, "pair": 2}}},
            r"'text_clustering\.stability\.pair' \(did you mean .*stability\.pairs\?\)",
        ),
        ({"data_augmentation": {"generators": {"given": {"pth": "x"}}}}, r"did you mean data_augmentation\.generators\.given\.path"),
        ({"data_augmentation": {"filters": {"copy": {"max": 1}}}}, r"filters\.copy\.max' \("),
        ({"embedder": {"strategies": {"any": {"wheights": "base"}}}}, r"did you mean embedder\.strategies\.any\.weights"),
        ({"embedder": {"device": {"x": 1}}}, r"embedder\.device takes a single value"),
        ({"embedder": "cpu"}, r"'embedder' \(a group of options, not a value; set embedder\.device"),
        ({"embedder": {"devcie": 1}, "corpu": "x"}, r"'corpu' .*'embedder\.devcie'"),
    ],
)
def test_a_name_that_nothing_takes_is_refused_with_those_nearest(given, message):
    with pytest.raises(ParameterError, match=message):
        check_names(given, ["corpus", "base_model", "labelled_texts", "seed"])


def test_names_that_something_takes_pass():
    given = {
        "corpus": "x",
        "mine": {"anything": 1},
        "embedder": {
            "device": "cpu",
            "templates": {"any name": "{text}"},
            "grid": {"templates": ["bare"]},
            "strategies": {"n": {"after": {}}},
        },
        "data_augmentation": {"filters": {"copy": None}, "generators": {"rewrite": {"server": {"url": "http://x"}}}},
    }
    check_names(given, ["corpus", "mine"])


def test_the_types_of_options_are_those_that_the_nodes_take(project):
    configure_project("embedding_adaptation")
    pipelines.set_requested(None)
    taken = TypeExtractor(dict(pipelines)).extract_types_from_pipelines()
    assert {name: f"{kind.__module__}:{kind.__name__}" for name, kind in taken.items()} == OPTION_TYPES
    assert sorted(path.stem for path in (project / "conf/base/parameters").glob("*.yml")) == sorted(OPTION_TYPES)


def test_text_from_python_or_a_file_is_told_from_what_is_none():
    assert as_text("label_column", 2023) == "2023"
    for wrong in (True, None, 1e5):
        with pytest.raises(ParameterError, match="'label_column' takes text"):
            as_text("label_column", wrong)
    with pytest.raises(ParameterError, match=r"takes a single text, not the list \['a'\]; quote a text"):
        as_text("label_column", ["a"])
    with pytest.raises(ParameterError, match=r"is empty; give it a value \(quote white space, such as a tab\)"):
        as_text("label_column", "")
    with pytest.raises(ParameterError, match=r"has no options such as corpus\.path"):
        as_text("corpus", {"path": "x"})


def test_a_value_that_only_begins_like_a_number_is_text():
    assert [read_value(text) for text in ("5", "5 #3", " 5 ", "5, 6", "[5]", "- 5")] == [5, "5 #3", 5, "5, 6", [5], "- 5"]


def test_a_list_of_names_keeps_its_text():
    given = split_parameters("clustering_evaluation.strategies=[2023, 007, bare_*],text_clustering.stability.candidates=[2, 3]")
    assert given["clustering_evaluation"]["strategies"] == ["2023", "007", "bare_*"]
    assert given["text_clustering"]["stability"]["candidates"] == [2, 3]
