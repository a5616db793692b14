from __future__ import annotations

import pytest

from embedding_adaptation.pipelines.strategy_selection.options import SelectionOptions

FAMILIES = {"one": {"templates": ["a", "b"], "layers": [-1, [-1, -2]], "after": [{}, {"centre": True}]}, "two": {"templates": ["a", "c"]}}


def options(**changes):
    values = {"criteria": ["silhouette"], "families": FAMILIES, "family_references": ["x", "y"], "seed": 0}
    return SelectionOptions.model_validate(values | changes)


def test_a_family_has_a_candidate_for_each_combination_and_is_centred_by_default():
    candidates = options().candidates
    assert list(candidates["one"]) == ["one.-1", "one.-1.centre", "one.-1+-2", "one.-1+-2.centre"]
    assert all(strategy.template == ("a", "b") and strategy.combine == "concatenate" for strategy in candidates["one"].values())
    (two,) = candidates["two"].values()
    assert (two.pooling, two.after.centre, two.layers) == ("value_weighted", 0.7, tuple(range(-1, -9, -1)))


def test_references_are_single_templates_with_all_layers_and_after_processing_of_the_families():
    references = options().references
    assert {strategy.template for strategy in references.values()} == {("x",), ("y",)}
    kinds = {(strategy.layers, strategy.after.centre) for strategy in references.values()}
    assert kinds == {(s.layers, s.after.centre) for strategies in options().candidates.values() for s in strategies.values()}
    assert len(references) == 2 * len(kinds)
    assert options(families=None).references == options(family_references=[]).references == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family_references": ["x", "b"]}, "template 'b' in family_references belongs to the family 'one', which would praise itself"),
        ({"family_references": ["x"], "family_judge": "templates"}, r"at least 2 templates to judge them, not \['x'\]; name more in"),
    ],
)
def test_references_that_cannot_judge_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        options(**changes)


def test_a_family_that_learnt_from_its_judge_is_refused():
    with pytest.raises(ValueError, match="a family cannot be distilled: its teacher knows the words that judge families"):
        options(families={"one": {"templates": ["a"], "after": [{"distil": True}]}})


@pytest.mark.parametrize("changes", [{}, {"families": {"one": {"templates": ["bare"]}}, "family_references": ["bare2"]}])
def test_templates_that_are_not_there_are_refused_before_any_work(embedder_options, changes):
    with pytest.raises(ValueError, match=r"strategy_selection\.families: unknown template '(a|bare2)' in strategy"):
        options(**changes).check(embedder_options(), lambda _: True)
    options(families=None).check(embedder_options(), lambda _: True)
