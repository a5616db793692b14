from __future__ import annotations

from embedding_adaptation.texts import language


def test_the_language_model_is_loaded_once():
    assert language._identifier() is language._identifier()


def test_the_language_is_told_with_a_probability():
    code, confidence = language.identify_language("Die Straße wird seit drei Wochen nicht mehr gereinigt.")
    assert code == "de"
    assert 0.9 < confidence <= 1.0
    assert language.identify_language("12 / 07 :)") == ("", 0.0)


def test_the_start_of_a_text_tells_its_language_or_all_of_it():
    text = 100 * "The bus was late again this morning. " + 300 * "Die Straße wird seit drei Wochen nicht mehr gereinigt. "
    assert language.identify_language(text)[0] == "en"
    assert language.language_of_all(text)[0] == "de"


def test_languages_are_known_by_their_codes():
    assert {"de", "en", "zh"} <= set(language.known_languages())
    assert "zxx" not in language.known_languages()


def test_groups_have_their_own_languages_where_there_is_enough_to_tell():
    english = ["The invoice was sent to the wrong address last week and nobody has answered my letters."] * 4
    german = ["Die Rechnung wurde letzte Woche an die falsche Adresse geschickt, und niemand hat geantwortet."] * 4
    assert language.languages_of([english, english, german, ["in bash"], []]) == ["en", "en", "de", "en", "en"]
    assert language.languages_of([["12"], []]) == ["", ""]
