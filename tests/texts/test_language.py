from __future__ import annotations

from embedding_adaptation.texts import language


def test_the_language_model_is_loaded_once():
    assert language._identifier() is language._identifier()


def test_the_language_is_told_with_a_probability():
    code, confidence = language.identify_language("Die Straße wird seit drei Wochen nicht mehr gereinigt.")
    assert code == "de"
    assert 0.9 < confidence <= 1.0
    assert language.identify_language("12 / 07 :)") == ("", 0.0)
