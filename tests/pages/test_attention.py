from __future__ import annotations

from html.parser import HTMLParser

import pandas as pd
import pytest

from embedding_adaptation.attention.comparison import paired_words
from embedding_adaptation.attention.recording import record_attention
from embedding_adaptation.attention.shares import Spans, measure_words
from embedding_adaptation.embedder.template import PromptTemplate
from embedding_adaptation.pages.attention import attention_page

EVIL = '<script>alert("x")</script> the bus & "garden" <img src=x onerror=alert(1)>'


class Reader(HTMLParser):
    """Tags, titles of words, and the visible text."""

    def __init__(self):
        super().__init__()
        self.tags, self.titles, self.shown = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.titles.extend(value for name, value in attrs if name == "title")

    def handle_data(self, data):
        self.shown += data


@pytest.fixture(scope="module")
def words(recorded):
    base, adapted = (pd.concat(list(measure_words(recorded[name], Spans())), ignore_index=True) for name in ("base", "adapted"))
    return paired_words(base, adapted)


def read(page):
    reader = Reader()
    reader.feed(page)
    return reader


def test_the_page_shows_each_text_twice_and_every_number(words):
    page = attention_page(words, ["example 1", "t1"], template='This sentence: "{text}" means', layers="layers 2")
    reader = read(page)
    assert reader.shown.count("a house on the street and a garden behind it") == 2
    assert "layers 2" in reader.shown
    garden = words[(words["id"] == "t1") & (words["word"] == "garden")].iloc[0]
    assert f"garden: {garden['base']:.2%} of the attention (text, content)" in reader.titles
    assert f"garden: {garden['adapted']:.2%} of the attention (text, content)" in reader.titles
    assert f"sink {words[(words['id'] == 't1') & (words['part'] == 'sink')]['base'].sum():.1%}" in reader.shown


def test_whatever_stands_in_a_text_is_escaped(tiny_embedder, tmp_path):
    template = PromptTemplate("evil", 'A <b>"{text}" means: "')
    rows = record_attention(tiny_embedder, template, [EVIL], tmp_path / "rows", ids=["<script>id</script>"], progress=False)
    found = pd.concat(list(measure_words(rows, Spans())))
    page = attention_page(paired_words(found, found), ["<script>id</script>"], template=template.pattern, layers="<i>")
    reader = read(page)
    harmless = read(attention_page(paired_words(found, found), [], template="{text}"))
    assert reader.tags.count("script") == harmless.tags.count("script")
    assert not {"img", "b", "i"} & set(reader.tags)
    assert "<script>alert" in reader.shown.replace(" ", "")
    assert "<script>id</script>" in reader.shown


def test_the_heaviest_word_of_the_text_has_the_full_shade(words):
    page = attention_page(words, ["t1"], template="{text}")
    text = words[(words["id"] == "t1") & (words["part"] == "text")]
    heaviest = text.loc[text[["base", "adapted"]].max(axis=1).idxmax(), "word"]
    spans = [part for part in page.split("<span")[1:] if f">{heaviest}<" in part]
    assert any(",0.450)" in span for span in spans)


def test_a_text_that_was_cut_or_is_empty_can_be_shown(tiny_embedder, tmp_path):
    template = PromptTemplate("one_word", 'This: "{text}" means: "')
    rows = record_attention(tiny_embedder, template, ["water " * 80, ""], tmp_path / "rows", progress=False)
    found = pd.concat(list(measure_words(rows, Spans())))
    page = attention_page(paired_words(found, found), ["1", "2"], template="{text}")
    assert page.count("(truncated)") == 1
