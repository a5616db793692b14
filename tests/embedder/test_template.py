from __future__ import annotations

import copy

import pytest

from embedding_adaptation.embedder.template import (
    PromptTemplate,
    TemplateError,
    TokenizedPrompt,
    encode_texts,
    encode_with_spans,
    leading_special_ids,
    pad_prompts,
    padding_id,
)

ONE_WORD = PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "')


@pytest.fixture(scope="module")
def tokenizer(tiny_weights):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_weights.base)


@pytest.mark.parametrize(("pattern", "found"), [("This sentence means", "no"), ("{text} and {text}", "2")])
def test_a_template_needs_exactly_one_slot(pattern, found):
    with pytest.raises(TemplateError, match=f"template 'eol' has {found} .*write exactly one"):
        PromptTemplate("eol", pattern)


def test_other_braces_are_literal(tokenizer):
    template = PromptTemplate("json", '{"text": "{text}"}')
    (prompt,) = template.tokenize(["a bus"], tokenizer, 64)
    assert tokenizer.decode(list(prompt.ids)) == '{"text": "a bus"}'


def test_prefix_text_and_suffix_keep_their_own_tokens(tokenizer):
    (prompt,) = ONE_WORD.tokenize(["the bus is late"], tokenizer, 64)
    text_ids = tokenizer("the bus is late", add_special_tokens=False)["input_ids"]
    assert list(prompt.ids[prompt.text_start : prompt.text_end]) == text_ids
    assert tokenizer.decode(list(prompt.ids)) == 'This sentence: "the bus is late" means in one word: "'


def test_truncation_shortens_the_text_and_never_the_suffix(tokenizer):
    (whole,) = ONE_WORD.tokenize(["bus"], tokenizer, 200)
    suffix = whole.ids[whole.text_end :]
    (cut,) = ONE_WORD.tokenize(["the bus is late again " * 50], tokenizer, 60)
    assert len(cut) == 60
    assert cut.ids[-len(suffix) :] == suffix
    assert cut.ids[: cut.text_start] == whole.ids[: whole.text_start]


def test_a_prompt_that_leaves_no_room_is_an_error(tokenizer):
    with pytest.raises(TemplateError, match="no room for a text within max_length=8"):
        ONE_WORD.tokenize(["bus"], tokenizer, 8)


def test_an_empty_bare_text_still_has_a_token(tokenizer):
    (prompt,) = PromptTemplate("bare", "{text}").tokenize([""], tokenizer, 16)
    assert len(prompt) == 1


def test_no_texts_give_no_prompts(tokenizer):
    assert ONE_WORD.tokenize([], tokenizer, 64) == []


def test_a_beginning_of_sequence_token_is_kept_where_the_tokenizer_adds_one(tokenizer):
    import copy

    from tokenizers.processors import TemplateProcessing

    assert leading_special_ids(tokenizer) == []
    with_bos = copy.deepcopy(tokenizer)
    with_bos.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)])
    assert leading_special_ids(with_bos) == [tokenizer.bos_token_id]
    (prompt,) = ONE_WORD.tokenize(["bus"], with_bos, 64)
    assert prompt.ids[0] == tokenizer.bos_token_id


def test_padding_is_masked_and_the_text_is_marked():
    prompts = [TokenizedPrompt((5, 6, 7), 1, 2), TokenizedPrompt((8,), 0, 1)]
    features = pad_prompts(prompts, pad_id=0)
    assert features["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert features["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert features["text_mask"].tolist() == [[0, 1, 0], [1, 0, 0]]


def test_a_tokenizer_without_padding_token_pads_with_its_end_token(tokenizer):
    import copy

    without = copy.deepcopy(tokenizer)
    without.pad_token = None
    assert padding_id(without) == tokenizer.eos_token_id
    assert padding_id(tokenizer) == tokenizer.pad_token_id


def test_start_and_end_tokens_are_those_of_the_model(tokenizer):
    (auto,) = PromptTemplate("bare", "{text}").tokenize(["bus"], tokenizer, 16)
    (framed,) = PromptTemplate("bare", "{text}", bos=True, eos=True).tokenize(["bus"], tokenizer, 16)
    assert framed.ids == (tokenizer.bos_token_id, *auto.ids, tokenizer.eos_token_id)
    assert (framed.text_start, framed.text_end) == (1, len(framed) - 1)


def test_a_token_the_model_does_not_have_is_an_error(tokenizer):
    without = copy.deepcopy(tokenizer)
    without.bos_token = None
    with pytest.raises(TemplateError, match="template 'bare' asks for bos, but this model's tokenizer has no such token"):
        PromptTemplate("bare", "{text}", bos=True).tokenize(["bus"], without, 16)


def test_the_end_token_survives_truncation(tokenizer):
    (cut,) = PromptTemplate("ends", "{text} is", eos=True).tokenize(["bus " * 99], tokenizer, 12)
    assert len(cut) == 12
    assert cut.ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    "text",
    [
        "{text} {x}",
        '" means in one word: "',
        "\u0645\u0631\u062d\u0628\u0627 \U0001f389",
        " \t\n",
        "",
        "a" * 1_000_000,
        "lone \ud800 surrogate",
    ],
    ids=["braces", "suffix", "arabic and emoji", "white space", "empty", "a megabyte", "surrogate"],
)
def test_any_string_is_a_text(tokenizer, text):
    (prompt,) = ONE_WORD.tokenize([text], tokenizer, 64)
    (plain,) = ONE_WORD.tokenize(["bus"], tokenizer, 64)
    assert prompt.ids[: prompt.text_start] == plain.ids[: plain.text_start]
    assert prompt.ids[prompt.text_end :] == plain.ids[plain.text_end :]
    kept = tokenizer.decode(list(prompt.ids[prompt.text_start : prompt.text_end]))
    assert text.replace("\ud800", "\ufffd").startswith(kept)


def test_surrogate_pairs_are_joined_and_single_ones_replaced(tokenizer):
    joined, single = encode_texts(["\ud83c\udf89", "\ud83c"], tokenizer)
    assert tokenizer.decode(joined) == "\U0001f389"
    assert tokenizer.decode(single) == "\ufffd"


@pytest.mark.parametrize("text", ["the bus is late", "a  garden\nwith 🎉", "", "bad \ud83d here"])
def test_spans_of_tokens_follow_the_text_and_ids_are_the_usual_ones(tokenizer, text):
    ((ids, spans, cleaned),) = encode_with_spans([text], tokenizer)
    assert ids == encode_texts([text], tokenizer)[0]
    assert len(spans) == len(ids)
    covered = {place for first, last in spans for place in range(first, last)}
    assert covered >= {place for place, character in enumerate(cleaned) if not character.isspace()}


def test_a_tokenizer_that_knows_no_places_is_asked_to_decode(tokenizer):
    class Slow:
        is_fast = False
        __call__ = staticmethod(lambda texts, **options: tokenizer(texts, add_special_tokens=False))
        decode = staticmethod(tokenizer.decode)

    ((ids, spans, text),) = encode_with_spans(["the bus is late"], Slow())
    assert [text[first:last] for first, last in spans] == [tokenizer.decode([token]) for token in ids]
    assert encode_with_spans([], Slow()) == []
