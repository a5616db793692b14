from __future__ import annotations


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
