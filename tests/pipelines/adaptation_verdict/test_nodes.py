from __future__ import annotations

import json

from embedding_adaptation.embedder.weights import ADAPTER_CARD_FILE, DecoderWeights
from embedding_adaptation.pipelines.adaptation_verdict.nodes import judge_adaptation
from embedding_adaptation.verdict.options import VerdictOptions


def measured(weights, folder, rows):
    """The same adapter with measures in its card."""
    folder.mkdir()
    for file in weights.adapter.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    card = json.loads((folder / ADAPTER_CARD_FILE).read_text())
    (folder / ADAPTER_CARD_FILE).write_text(json.dumps(card | {"scales": rows}))
    return DecoderWeights(weights.base, weights.card, adapter=folder)


ROWS = [
    {"scale": 0.0, "agreement": 0.2, "change": 0.0, "chosen": 0.0},
    {"scale": 1.0, "agreement": 0.5, "change": 0.6, "chosen": 1.0},
]


def test_the_card_says_what_was_measured(tiny_adapted, tmp_path, caplog):
    caplog.set_level("INFO")
    weights = measured(tiny_adapted, tmp_path / "adapter", ROWS)
    verdict = judge_adaptation(weights, {}, VerdictOptions())
    assert (verdict["verdict"], verdict["kept"], verdict["scales"]) == ("better", 1.0, ROWS)
    assert verdict["adapter"] == weights.fingerprint()
    assert verdict["sentence"] in caplog.text


def test_an_adapter_without_measures_cannot_be_judged(tiny_adapted):
    verdict = judge_adaptation(tiny_adapted, {}, VerdictOptions())
    assert (verdict["verdict"], verdict["ship"], verdict["decided_by"]) == ("cannot_tell", "base", "nothing")


def test_old_answers_are_told(tiny_adapted, tmp_path, caplog):
    verdict = judge_adaptation(
        measured(tiny_adapted, tmp_path / "adapter", ROWS), {"adapter": "x", "answers": ["base"] * 9}, VerdictOptions()
    )
    assert verdict["verdict"] == "better"
    assert "the answers are about another adapter and do not count; ask again with 'kedro ask'" in caplog.text
