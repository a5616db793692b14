from __future__ import annotations

import json
import logging
import random
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from embedding_adaptation import paths
from embedding_adaptation.pipelines.data_augmentation.generators import back_translation as module
from embedding_adaptation.pipelines.data_augmentation.generators.back_translation import check, generate, load_translators
from embedding_adaptation.pipelines.data_augmentation.generators.request import Context, GenerationError, Request
from embedding_adaptation.pipelines.data_augmentation.options import BackTranslationOptions

WORDS = [f"w{number}" for number in range(60)]
MARIAN = {
    "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 32, "pad_token_id": 0, "eos_token_id": 1,
    "decoder_start_token_id": 0, "forced_eos_token_id": 1, "max_length": 512, "init_std": 1.0,
}  # fmt: skip


def write_tokenizer(folder, model_max_length=16):
    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=model_max_length
    )
    fast.save_pretrained(folder)
    return len(vocabulary)


def write_model(folder, seed, kind=MarianMTModel, end=5.0):
    size = write_tokenizer(folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind is MarianMTModel:
            model = MarianMTModel(MarianConfig(vocab_size=size, **MARIAN))
            model.final_logits_bias[0, 1] = end  # ends now and then
        else:
            sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
            model = T5ForConditionalGeneration(T5Config(vocab_size=size, **sizes, initializer_factor=20.0, decoder_start_token_id=0))
        # Random models say one word over and over; the settings a checkpoint brings are its own, and this one stays in force.
        model.generation_config.no_repeat_ngram_size = 1
        model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    root = tmp_path_factory.mktemp("marian")
    return write_model(root / "there", 0), write_model(root / "back", 1)


@pytest.fixture
def context(tiny_weights, embedder_options):
    return Context(0, tiny_weights, embedder_options(), None, progress=False)


def options(pair, **changes):
    return BackTranslationOptions(there=pair[0], back=pair[1], **({"max_new_tokens": 12} | changes))


def requests(count=24, seed=0):
    source = random.Random(seed)
    return [Request.of(str(n), " ".join(source.choices(WORDS, k=source.randrange(1, 12)))) for n in range(count)]


@pytest.mark.parametrize("beams", [1, 3])
def test_batches_and_windows_change_nothing(pair, context, monkeypatch, beams):
    asked = requests()
    together = list(generate(asked, options(pair, batch_tokens=4096, beams=beams), context))
    assert [candidate.key for candidate in together] == [request.key for request in asked]
    assert [candidate.source_text for candidate in together] == [request.source_text for request in asked]
    assert len({candidate.generated_text for candidate in together}) > len(asked) / 2
    monkeypatch.setattr(module, "_WINDOW", 5)
    assert list(generate(asked, options(pair, batch_tokens=16, beams=beams), context)) == together
    assert list(generate(asked[3:4], options(pair, beams=beams), context)) == together[3:4]


def test_finished_is_what_ends_by_itself(pair, context):
    asked = requests(40)
    there, back = load_translators(options(pair), context.embedder_options)
    abroad = there.translate([request.source_text for request in asked])
    home = back.translate([translation.text for translation in abroad])
    assert {translation.finished for translation in abroad} == {True, False}
    assert {translation.finished for translation in home} == {True, False}
    candidates = list(generate(asked, options(pair), context))
    assert [c.finished for c in candidates] == [one.finished and other.finished for one, other in zip(abroad, home, strict=True)]
    assert [c.generated_text for c in candidates] == [translation.text for translation in home]
    # More room ends more of them, and what had ended stays as it was.
    longer = there.__class__(there._model, there._tokenizer, max_new_tokens=31).translate([request.source_text for request in asked])
    assert sum(t.finished for t in longer) > sum(t.finished for t in abroad)
    assert all(one == other for one, other in zip(abroad, longer, strict=True) if one.finished)


def test_no_translation_is_longer_than_the_models_positions(tmp_path, context):
    endless = write_model(tmp_path, 0, end=-1000.0)
    candidates = list(generate(requests(4), options((endless, endless), max_new_tokens=500), context))
    assert max(len(candidate.generated_text.split()) for candidate in candidates) == 31
    assert not any(candidate.finished for candidate in candidates)


def test_a_text_too_long_for_the_model_is_cut_and_not_finished(pair, context):
    there, _ = load_translators(options(pair), context.embedder_options)
    words = " ".join(WORDS[:40])
    long, cut = there.translate([words, " ".join(WORDS[:15])])  # 16 tokens with the end
    assert long.text == cut.text
    assert not long.finished


def test_prefixes_are_put_before_texts(pair, context):
    asked = requests(6)
    plain, prefixed = (
        [c.generated_text for c in generate(asked, options(pair, there_prefix=prefix), context)] for prefix in ("", " w1 w2: ")
    )
    written = [Request.of(r.source_id, f"w1 w2: {r.source_text}") for r in asked]
    assert plain != prefixed
    assert prefixed == [c.generated_text for c in generate(written, options(pair), context)]


def test_empty_texts_stay_empty(pair, context):
    there, _ = load_translators(options(pair), context.embedder_options)
    counted = []
    done = there.translate(["", "w1 w2", "  "], counted.append)
    assert [translation.text == "" for translation in done] == [True, False, True]
    assert sum(counted) == 3


def test_a_text_has_one_candidate_and_the_models_are_not_loaded_for_more(pair, context, caplog, monkeypatch):
    twice = [Request.of("1", "w1 w2", turn) for turn in (0, 1, 2)]
    with caplog.at_level(logging.WARNING):
        assert [candidate.key for candidate in generate(twice, options(pair), context)] == [twice[0].key]
    assert caplog.text.count("only one candidate per text") == 1
    monkeypatch.setattr(module, "load_translators", None)
    assert list(generate(twice[1:], options(pair), context)) == []
    assert list(generate([], options(pair), context)) == []


def test_t5_translates_with_one_model_both_ways(tmp_path, context, monkeypatch):
    folder = write_model(tmp_path, 0, T5ForConditionalGeneration)
    loads = []
    monkeypatch.setattr(module, "_load", lambda *given, load=module._load: loads.append(given[0]) or load(*given))
    both = options((folder, folder), there_prefix="w3:", back_prefix="w4:")
    together = list(generate(requests(8), both, context))
    assert loads == [folder]
    assert together == list(generate(requests(8), both.model_copy(update={"batch_tokens": 16}), context))


def test_the_bar_counts_texts(pair, context, capfd):
    shown = Context(0, context.base_model, context.embedder_options, None, progress=True)
    list(generate(requests(5), options(pair), shown))
    assert "back-translate: 5text" in capfd.readouterr().err
    list(generate(requests(5), options(pair), context))
    assert "back-translate" not in capfd.readouterr().err


@pytest.mark.parametrize("path", ["{tmp}/none", "./none", "~/none/at/all"])
def test_a_missing_folder_is_found_before_anything_is_loaded(pair, tmp_path, path):
    with pytest.raises(GenerationError, match=r"back_translation\.back '.*none.*' does not exist; correct the path"):
        check(options((pair[0], path.format(tmp=tmp_path))), None)
    check(options(pair), None)
    check(options(("team/model", "team/model-back")), None)


def test_relative_folders_start_at_the_projects_root(pair, tmp_path, monkeypatch):
    root = Path(pair[0]).parent
    monkeypatch.setenv(paths._ROOT, str(root))
    monkeypatch.chdir(tmp_path)
    check(options(tuple(f"./{Path(folder).relative_to(root)}" for folder in pair)), None)
    with pytest.raises(GenerationError, match="does not exist; correct the path"):
        check(options((pair[0], "./none")), None)


def test_a_folder_that_holds_no_model_is_found_early(pair, tmp_path):
    with pytest.raises(GenerationError, match=r"has no config\.json"):
        check(options((str(tmp_path), pair[1])), None)


def test_a_tokenizer_of_sentencepiece_says_what_to_install(pair, context, tmp_path, monkeypatch):
    folder = tmp_path / "real"
    MarianMTModel(MarianConfig(vocab_size=63, **MARIAN)).save_pretrained(folder)
    for name in ("source.spm", "target.spm"):
        (folder / name).write_bytes(b"")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "MarianTokenizer"}))
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    for attempt in (lambda: check(options((str(folder), pair[1])), None), lambda: module._load(str(folder), "x", context.embedder_options)):
        with pytest.raises(GenerationError, match="needs the package sentencepiece; install it with 'pip install sentencepiece'"):
            attempt()


def load_error(folder, context):
    with pytest.raises(GenerationError) as caught:
        load_translators(options((str(folder), str(folder))), context.embedder_options)
    return str(caught.value)


def test_models_that_cannot_be_loaded_are_named_with_the_way_out(context, tmp_path):
    assert "back_translation.there 'team/none' is neither a folder nor a model on the Hugging Face Hub" in load_error("team/none", context)
    decoder = tmp_path / "decoder"
    LlamaForCausalLM(
        LlamaConfig(vocab_size=63, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(decoder)
    assert "is a 'llama' model, which cannot translate; give a sequence-to-sequence model" in load_error(decoder, context)
    bare = tmp_path / "bare"
    MarianConfig(vocab_size=63, **MARIAN).save_pretrained(bare)
    assert "has no tokenizer that transformers can read" in load_error(bare, context)
    write_tokenizer(bare)
    assert "has no readable safetensors weights" in load_error(bare, context)
    torch.save({}, bare / "pytorch_model.bin")
    assert "pickled .bin files are not read" in load_error(bare, context)
    (bare / "model.safetensors").write_bytes(b"1234")
    assert "has no readable safetensors weights" in load_error(bare, context)
    (bare / "config.json").write_text("{}")
    assert "is not a model that transformers can read" in load_error(bare, context)
