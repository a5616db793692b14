from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from embedding_adaptation import served_texts
from embedding_adaptation.served_texts import texts_of


@pytest.mark.parametrize(
    "data",
    [
        ["a", ""],
        ("a", ""),
        np.array(["a", ""], dtype=object),
        np.array(["a", ""]),
        pd.Series(["a", ""]),
        pd.DataFrame({"any name": ["a", ""]}),
    ],
)
def test_texts_come_through_as_they_are(data):
    assert texts_of(data) == ["a", ""]
    assert texts_of("a") == texts_of(np.array("a", dtype=object)) == ["a"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (["a", None], r"input 1 is missing \(null\), not a text \(1 of 2 are not\); give a list of strings"),
        (pd.DataFrame({"t": ["a", None]}), "input 1 is missing"),
        (pd.DataFrame({"t": pd.Series(["a", None], dtype="string")}), "input 1 is missing"),
        (np.array(["a", None], dtype=object), "input 1 is missing"),
        ([1, 2], r"input 0 is 1 \(int\), not a text \(2 of 2 are not\)"),
        (np.array([1.5]), r"input 0 is 1.5 \(float\)"),
        ([True], r"input 0 is True \(bool\)"),
        ([b"a"], r"input 0 is b'a' \(bytes\)"),
        (np.array([["a", "b"]], dtype=object), r"input 0 is \['a', 'b'\] \(list\)"),
        ([{"text": "a"}], r"input 0 is \{'text': 'a'\} \(dict\)"),
        (None, "input 0 is missing"),
        (pd.DataFrame({"t": ["a"], "u": ["b"]}), r"the input has 2 columns \(t, u\), but only one can hold the texts"),
    ],
)
def test_what_is_no_text_is_named_with_its_place_and_the_way_out(data, message):
    with pytest.raises(MlflowException, match=message) as caught:
        texts_of(data)
    assert caught.value.get_http_status_code() == 400


def test_the_file_works_where_this_package_is_not_installed():
    tree = ast.parse(Path(served_texts.__file__).read_text())
    names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert names
    assert not [name for name in names if name.startswith("embedding_adaptation")]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"corpus": {"name": "mine.txt", "texts": 1203, "clean": "c1", "raw": ""}}, r"adapted to mine.txt \(1,203 clean texts\):"),
        ({"corpus": {"name": "", "texts": 0, "clean": "c1", "raw": ""}}, "adapted to a corpus without a name:"),
        ({"corpus": None}, "does not say which texts it was adapted to"),
        (None, "does not say which texts it was adapted to"),
    ],
)
def test_whoever_serves_a_model_is_told_which_texts_it_was_adapted_to(tmp_path, settings, said):
    if settings is not None:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "embedder.json").write_text(json.dumps(settings))
    assert re.search(said, served_texts.adapted_to(tmp_path))
