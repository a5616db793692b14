from __future__ import annotations

import pandas as pd

from embedding_adaptation.pipelines.end_to_end.nodes import cost_lines, exported_lines, write_report

TRAINING = {"trained": {"step": 2, "last_step": 2}, "history": {}, "cost": {}}


def report(embedder_options, tasks=("labelled_texts",), training=None, **rejected):
    comparison = pd.DataFrame(
        [
            {"task": task, "strategy": name, "kind": kind, "weights": "base", "template": "bare", "pooling": "mean", "v_measure": score,
             "v_measure_sd": 0.01, "v_measure_unique": score, "v_measure_unique_sd": 0.02, "ami_unique": score / 2, "ami_unique_sd": 0.03,
             "standing": standing, "adaptation": adaptation, "caution": "81 documents only" if task == "few" else None}
            for task in tasks
            for name, kind, score, standing, adaptation in (
                ("random", "comparator", 0.1, None, None),
                ("prompted_last", "base", 0.5, "best", None),
                ("prompted_last_adapted", "adapted", 0.49, "not worse than best", "no difference shown"),
                ("bare_mean", "base", 0.3, "worse than best", None),
                ("famous", "published", 0.9, None, None),
            )
        ]
    )  # fmt: skip
    values = {"base": 0.2, "adapted": 0.25, "shift": 0.05, "shift_low": 0.04, "shift_high": 0.06}
    shift = pd.DataFrame([{"measure": name} | values for name in ("text", "content", "prefix", "suffix", "self", "sink")])
    history = {"validation_loss": {"before": 2.0, "after": 1.0}, "validation_accuracy": {"before": 0.5, "after": 0.75}}
    training = TRAINING | {"history": history} | (training or {})
    pairs = {"candidates": 10, "accepted": 7, "rejected": rejected, "generators": {"noise": {"candidates": 10, "accepted": 7}}}
    return write_report(comparison, shift, pairs, training, {"strategy": {"name": "prompted_last_adapted"}}, embedder_options())


def test_the_report_names_the_best_strategy_and_every_finding(embedder_options):
    text = report(embedder_options, copy=3, empty=0)
    assert "Best: **prompted_last**, V-measure 0.500. Not shown to be worse: prompted_last_adapted." in text
    assert "- Exported: **prompted_last_adapted**, V-measure 0.490; -0.010 against prompted_last (not shown to be worse)." in text
    assert "- Effect of adaptation on prompted_last_adapted: no difference shown." in text
    assert "famous" not in text
    assert "| bare_mean | base | bare | mean | 0.300 ± 0.010 | 0.300 ± 0.020 | 0.150 ± 0.030 |" in text
    assert "7 of 10 candidates were accepted (noise 7 of 10). Rejected: copy 3." in text
    assert "\n2 steps. Held-out loss 2.000 before, 1.000 after; held-out accuracy at 1 0.500 before, 0.750 after.\n" in text
    assert "| the text | 0.200 | 0.250 | +0.050 | +0.040 to +0.060 |" in text


def test_the_report_says_which_step_was_kept_and_nothing_of_what_was_not_measured(embedder_options):
    text = report(embedder_options, training={"trained": {"step": 4, "last_step": 9}})
    assert "\n9 steps, of which step 4 was kept. Held-out loss" in text
    assert "\n2 steps.\n" in report(embedder_options, training={"history": {}})


def test_nothing_rejected_reads_as_none(embedder_options):
    assert "Rejected: none." in report(embedder_options)


def test_each_task_has_its_table_and_its_caution(embedder_options):
    text = report(embedder_options, tasks=("mine", "few", "all tasks"))
    assert text.count("| bare_mean |") == 3
    assert "### few\n\n81 documents only.\n\n| strategy" in text


def test_the_cost_is_divided_by_what_was_gained(embedder_options):
    costs = {"seconds": 100.0, "operations": 8e12}
    options = embedder_options()
    base = options.base_twin(options.adapt, options.strategies)
    scores = pd.DataFrame({"strategy": [base, options.adapt], "v_measure": [0.5, 0.54]})
    lines = cost_lines(costs, scores, options.adapt, options)
    assert "| seconds | 100 | 25 |" in lines
    assert "| TFLOP | 8 | 2 |" in lines
    assert not any("joules" in line for line in lines)
    assert any("Gain: +4.0 points" in line for line in lines)
    assert "| seconds | 100 | no gain |" in cost_lines(costs, scores.assign(v_measure=[0.5, 0.4]), options.adapt, options)
    assert "| seconds | 100 | not scored |" in cost_lines(costs, scores.head(1), options.adapt, options)
    assert "| seconds | 100 | no gain |" in cost_lines(costs, scores, base, options)  # where the base weights are exported
    assert cost_lines({}, scores, options.adapt, options) == []


def test_the_report_says_what_is_exported_and_how_far_it_is_from_the_best():
    columns = ["strategy", "v_measure", "standing"]
    ours = pd.DataFrame([("one", 0.7, "best"), ("two", 0.6, "worse than best"), ("three", 0.69, "not worse than best")], columns=columns)
    assert exported_lines(ours, "one") == ["Exported: **one**, the best strategy."]
    assert exported_lines(ours, "two") == ["Exported: **two**, V-measure 0.600; -0.100 against one."]
    assert exported_lines(ours, "three") == ["Exported: **three**, V-measure 0.690; -0.010 against one (not shown to be worse)."]
    assert exported_lines(ours, "four") == ["Exported: **four**, which was not evaluated."]
