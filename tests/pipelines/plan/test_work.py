from __future__ import annotations

import copy

import pytest
from kedro.framework.project import configure_project, pipelines

from embedding_adaptation.pipelines.plan.work import (
    FOLDERS,
    WORK,
    Line,
    memory_bytes,
    node_lines,
    reading_prices,
    search_seconds,
    training_seconds,
    units,
)


def test_every_node_of_adapt_is_known_with_its_pipeline():
    configure_project("embedding_adaptation")
    try:
        pipelines.set_requested(["adapt"])
        nodes = {node.name: node.tags for node in pipelines["adapt"].nodes}
    finally:
        pipelines.set_requested(None)
    assert set(WORK) == set(nodes)
    assert all(WORK[name].pipeline in tags for name, tags in nodes.items())


def test_units_stop_growing_where_the_options_say(parameters):
    small, large = units(100, 1.0, parameters), units(10**7, 0.5, parameters)
    assert {small[unit] for unit in ("texts", "drawn", "mapped", "compared", "asked", "shown")} == {100}
    # All have been read by then.
    assert {small[unit] for unit in ("read_to_export", "teacher_read_to_export", "read_to_compare", "base_read_to_compare")} == {0}
    assert large["texts"] == 10**7
    assert (large["drawn"], large["judged"], large["mapped"], large["compared"], large["asked"]) == (2000, 200, 5000, 5000, 500)
    # Nearly none of the texts that after-processing is fitted on, or that are compared, have been read before.
    assert (large["read_to_export"], large["teacher_read_to_export"]) == pytest.approx((2000, 2000), rel=1e-3)
    assert (large["read_to_compare"], large["base_read_to_compare"]) == pytest.approx((5000, 5000), rel=1e-3)
    some = units(5000, 1.0, parameters)
    assert (some["read_to_export"], some["teacher_read_to_export"]) == pytest.approx((1800, 1200))
    assert (some["read_to_compare"], some["base_read_to_compare"]) == pytest.approx((3000, 1800))
    assert set(FOLDERS.values()) <= set(small)


def test_all_texts_are_drawn_if_no_limit_is_set(parameters):
    unlimited = copy.deepcopy(parameters)
    unlimited["data_augmentation"]["cleaning"]["max_texts"] = None
    assert units(10**6, 0.8, unlimited)["drawn"] == 800_000


def test_a_line_goes_through_both_points_and_never_below_zero():
    line = Line.through((10, 3.0), (30, 7.0))
    assert (line.fixed, line.each) == pytest.approx((1.0, 0.2))
    assert Line.through((10, 7.0), (30, 3.0)) == Line(3.0, 0.0)
    steep = Line.through((10, 1.0), (30, 9.0))
    assert (steep.fixed, steep.at(30)) == (0.0, pytest.approx(9.0))
    assert Line.through((1, 7.0), (1, 5.0)) == Line(5.0, 0.0)


def test_what_the_model_does_is_told_from_its_own_runs_and_the_rest_from_the_tiny_ones(parameters, made_run):
    runs = [made_run(48), made_run(144), made_run(500, "tiny", fixed=1.0, each=0.001), made_run(2000, "tiny", fixed=1.0, each=0.001)]
    lines = node_lines(runs)
    assert (lines["embed_corpus_node"].fixed, lines["embed_corpus_node"].each) == pytest.approx((2.0, 0.1))
    assert (lines["clean_corpus_node"].fixed, lines["clean_corpus_node"].each) == pytest.approx((0.1, 1e-6))
    # Steps and looks of training are counted by themselves.
    assert (lines["train_adapter_node"].fixed, lines["train_adapter_node"].each) == pytest.approx((2.0, 0.1))


def test_what_is_read_for_the_first_time_has_the_price_of_the_nodes_that_read(made_run):
    def run(texts, **changes):
        nodes = {
            "find_questions_node": 1.0 + 0.04 * texts,  # both ways
            "generate_candidates_node": 2.0 + 0.1 * texts,
            "export_embedder_node": 5.0 + 0.02 * 10 + 0.1 * 3,
        }
        return made_run(texts, nodes=nodes, **changes)

    runs = [run(48), run(144), run(500, model="tiny"), run(2000, model="tiny")]
    for one in runs:
        one.counts.update(read_to_export=10, teacher_read_to_export=3)
    lines = node_lines(runs)
    assert reading_prices(lines) == pytest.approx((0.02, 0.1))
    assert (lines["export_embedder_node"].fixed, lines["export_embedder_node"].each) == pytest.approx((5.0, 0.0))


def test_training_takes_all_its_steps_and_looks(parameters, made_run):
    steps, step, looks, look = training_seconds(made_run(144), 200, 100, parameters)
    assert (steps, step) == (24, 3.0)
    assert (looks, look) == (7, 3.0)  # twice as many texts to look at


def test_the_search_for_neighbours_grows_with_the_square_until_it_is_approximate(parameters):
    free = copy.deepcopy(parameters)
    assert search_seconds(2000, 50e-9, free) == pytest.approx(0.2)
    exact = search_seconds(30_000, 50e-9, free)
    assert exact == pytest.approx(45.0)
    assert search_seconds(1_000_000, 50e-9, free) < exact * (1_000_000 / 30_000) ** 2 / 5
    free["data_augmentation"]["generators"]["neighbours"] = None
    assert search_seconds(30_000, 50e-9, free) == 0.0


def test_memory_grows_with_the_vectors_that_are_searched(parameters, made_run):
    unlimited = copy.deepcopy(parameters)
    unlimited["data_augmentation"]["cleaning"]["max_texts"] = None
    runs = [made_run(48), made_run(144)]
    limited = memory_bytes(runs, units(10**6, 1.0, parameters), 1728, parameters)
    assert 10**9 < limited < 1.5e9
    assert memory_bytes(runs, units(10**6, 1.0, unlimited), 1728, unlimited) > limited + 4 * 10**6 * 1728
