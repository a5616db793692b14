from __future__ import annotations

import re


def test_the_page_says_what_can_be_taken_away(clusters):
    assert "Each text with its theme." in clusters(100)
    assert "Each text with its theme." in clusters(100, more=50)
    assert "The 150 texts of this page with their themes; all 9,000 are in the dataset cluster_assignments." in clusters(
        100, more=50, total=9000
    )


def test_the_page_has_map_table_and_tree(clusters):
    page = clusters(100, total=5000)
    assert "100 of 5,000 texts are drawn." in page
    assert page.index("plum cakes</th>") < page.index("late buses</th>") < page.index("noise</th>")
    assert "<td>late buses</td><td>plum cakes</td>" in page


def test_long_texts_are_cut_to_what_a_browser_opens_and_the_page_says_so(clusters):
    plain, page = clusters(1000), clusters(1000, longest="x" * 10_000, more=1000)
    assert len(page) - len(plain) < 8_500_000
    said = re.search(r"Of long texts, the first ([\d,]+) characters are on this page, and only these are searched", page)
    assert 3900 < int(said[1].replace(",", "")) <= 4000
    assert f"Each text with its theme, cut to {said[1]} characters; uncut ones are in the dataset cluster_assignments." in page
    assert "Of long texts" not in plain
    longer = clusters(1000, longest="x" * 10_000, total=9000)
    assert re.search(r"cut to [\d,]+ characters; all 9,000, uncut, are in the dataset cluster_assignments", longer)
