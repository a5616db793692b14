from __future__ import annotations

import json

import pytest
from jinja2 import UndefinedError

from embedding_adaptation.pages.rendering import as_json, render


@pytest.mark.parametrize("text", ["</script>", "<!--", "a & b", "\u2028", "\ud83d", 'say "so"', "]]>"])
def test_no_text_can_end_the_script_that_holds_it(text):
    written = str(as_json([text]))
    assert not {"<", ">", "&", "\u2028"} & set(written)
    assert json.loads(written) == [text]


def test_numbers_that_are_none_are_refused_rather_than_breaking_the_page():
    with pytest.raises(ValueError, match="Out of range float"):
        as_json([float("nan")])


def test_a_template_says_what_it_lacks():
    with pytest.raises(UndefinedError, match="'title' is undefined"):
        render("clusters.html.j2", data={})
