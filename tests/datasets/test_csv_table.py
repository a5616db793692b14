from __future__ import annotations

import csv
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kedro.config import OmegaConfigLoader
from kedro.io import Version
from kedro.io.core import DatasetError

from embedding_adaptation.datasets.csv_table import CSVTableDataset
from embedding_adaptation.settings import CONFIG_LOADER_ARGS

NASTY = [
    "one\rtwo", "one\r\ntwo", "ends\r", "\r", "line\nfeed", "nul\0here", "NA", "null", "nan", "None", "", "=1+1", "@x", "007", "1e5",
    "True", "1,5", ' "quoted" ', '"', '""', "\\", 'back\\"slash', "  spaces  ", "\u2028", "\x1a", "\ufeffmark", "#", "semi;colon",
    "tab\tbed", "\U0001f600",
]  # fmt: skip


def dataset(tmp_path, **options):
    return CSVTableDataset(filepath=str(tmp_path / "t.csv"), **options)


def test_texts_come_back_as_they_were_whatever_they_hold(tmp_path):
    table = pd.DataFrame(
        {"name": NASTY, "near_1": NASTY[::-1], "number": range(len(NASTY)), "score": [np.nan, *np.arange(len(NASTY) - 1) / 4]}
    )
    dataset(tmp_path).save(table)
    back = dataset(tmp_path, texts=["name", "near_*"]).load()
    assert back["name"].tolist() == NASTY
    assert back["near_1"].tolist() == NASTY[::-1]
    pd.testing.assert_frame_equal(back[["number", "score"]], table[["number", "score"]])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=10), st.text("\r\n\"',;\\\0 aN", max_size=10)), min_size=1, max_size=5))
def test_any_text_comes_back(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("t")
    dataset(folder).save(pd.DataFrame(rows, columns=["a", "b"]))
    assert list(dataset(folder, texts=["*"]).load().itertuples(index=False, name=None)) == rows


def test_every_text_is_in_quotes_so_that_no_writer_of_any_python_breaks_a_row(tmp_path):
    dataset(tmp_path).save(pd.DataFrame({"name": ["a\rb", "c"], "number": [1, 2]}))
    assert (tmp_path / "t.csv").read_bytes() == b'"name","number"\n"a\rb",1\n"c",2\n'


def test_halves_of_characters_do_not_stop_a_table(tmp_path):
    dataset(tmp_path).save(pd.DataFrame({"name": pd.Series(["cut \ud83d", "fine"], dtype=object)}))
    assert dataset(tmp_path, texts=["name"]).load()["name"].tolist() == ["cut ?", "fine"]


def test_tables_without_rows_or_columns_load(tmp_path):
    dataset(tmp_path).save(pd.DataFrame({"name": [], "number": []}))
    assert dataset(tmp_path, texts=["name"]).load().columns.tolist() == ["name", "number"]
    dataset(tmp_path).save(pd.DataFrame())
    assert dataset(tmp_path).load().empty


def test_versions_are_kept_apart_and_previewed(tmp_path):
    versioned = dataset(tmp_path, texts=["name"], version=Version(None, "2030-01-01T00.00.00.000Z"))
    assert not versioned.exists()
    versioned.save(pd.DataFrame({"name": ["NA", "007"]}))
    assert versioned.preview(nrows=1)["data"] == [["NA"]]
    assert (tmp_path / "t.csv" / "2030-01-01T00.00.00.000Z" / "t.csv").is_file()


def test_a_failed_save_leaves_what_was_there(tmp_path):
    dataset(tmp_path).save(pd.DataFrame({"name": ["old"]}))
    with pytest.raises(DatasetError):
        dataset(tmp_path).save("no table")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".t.csv.xxh128", "t.csv"]
    assert dataset(tmp_path).load()["name"].tolist() == ["old"]


# Their columns hold numbers, or words of the project's own choice.
NO_TEXTS = {"published_scores", "attention_heads", "training_history", "cluster_stability"}


def test_tables_of_the_catalog_that_hold_texts_are_written_so_that_they_read_back(project):
    catalog = OmegaConfigLoader(str(project / "conf"), env="base", **CONFIG_LOADER_ARGS)["catalog"]
    plain = {name for name, entry in catalog.items() if entry.get("type") == "pandas.CSVDataset"}
    assert plain <= NO_TEXTS
    tables = {name: entry for name, entry in catalog.items() if str(entry.get("type", "")).endswith("CSVTableDataset")}
    assert {"cluster_summary", "cluster_tree", "attention_words", "strategy_comparison"} <= set(tables)
    assert all(entry["texts"] for entry in tables.values())
    assert all(re.fullmatch(r"\w+\.csv", entry["filepath"].rpartition("/")[2]) for entry in tables.values())


def test_the_strict_reader_reads_them_too(tmp_path):
    from embedding_adaptation.texts.reading import TextFile

    names = [name for name in NASTY if "\0" not in name and name]
    dataset(tmp_path).save(pd.DataFrame({"name": names, "number": range(len(names))}))
    assert TextFile(tmp_path / "t.csv").read(["name"])["name"].tolist() == names
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        assert [row[0] for row in csv.reader(file)][1:] == names
