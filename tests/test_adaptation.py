from __future__ import annotations

import os
import subprocess
import sys

import pandas as pd
import pytest

from embedding_adaptation.adaptation import Adaptation, UnusableTextsError, adapt

SCRIPT = """
from embedding_adaptation import adapt
texts = [f"{a} {b} number {n}" for a in ("the late bus", "a plum cake", "our tax form") for b in ("is here", "was good") for n in range(10)]
made = adapt(texts, folder="made", env="test", params={"text_clustering.clusters": 3})
assert made.encode(texts[:2]).shape[0] == 2
assert made.assignments["text"].tolist() == texts
assert sorted(made.clusters["cluster"]) == [0, 1, 2]
assert made.facts["evaluation"] is None
made.save("copy")
print(made)
"""


@pytest.mark.slow
def test_texts_in_memory_become_a_model_a_verdict_and_clusters(project, tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert "Without labels: " in result.stdout
    assert (tmp_path / "copy" / "modules.json").is_file()
    assert (tmp_path / "made" / "08_reporting" / "verdict.json").is_dir()
    assert not (project / "made").exists()


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        ("one text", None, "texts is one text \\('one text'\\); give a list"),
        ([], None, "there are no texts"),
        (["a", None], None, "texts contains None, which is NoneType and not text"),
        (["a", float("nan")], None, "texts contains nan, which is float"),
        (["a", "b"], ["x"], "2 texts and 1 labels; give one label for each text"),
        (["a", "b", "c"], ["x", None, float("nan")], "2 of 3 texts have no label \\(the first is number 1\\); label or leave them out"),
        (["a", "b"], ["x", " "], "1 of 2 texts have no label"),
    ],
)
def test_unusable_texts_are_refused_before_any_work(tmp_path, texts, labels, message):
    with pytest.raises(UnusableTextsError, match=message):
        adapt(texts, labels, folder=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_folder_without_configuration_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no configuration of this project in .*; give the folder of the project"):
        adapt(["a"], folder=tmp_path / "x", project=tmp_path)


def test_what_came_of_it_is_shown_and_saved(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "modules.json").write_text("[]")
    made = Adaptation(tmp_path, model, {"sentence": "It <helps>."}, {}, pd.DataFrame(), pd.DataFrame(), tmp_path / "report.html")
    assert str(made).startswith("It <helps>.\nPage:  ")
    assert "It &lt;helps&gt;." in made._repr_html_()
    assert (made.save(tmp_path / "copy") / "modules.json").is_file()
    with pytest.raises(FileExistsError):
        made.save(tmp_path / "copy")
