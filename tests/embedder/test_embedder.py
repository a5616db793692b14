from __future__ import annotations

import copy
import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file

from embedding_adaptation.atomic import replacing_file
from embedding_adaptation.embedder.after_processing import AfterSteps
from embedding_adaptation.embedder.checkpoint import decisive_files
from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import PromptTemplate
from embedding_adaptation.identity import files_sha256, weights_identity

BARE = PromptTemplate("bare", "{text}")
ONE_WORD = PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "')
TEXTS = [
    "the bus is late",
    "please give back the book",
    "a house on the street",
    "water " * 40,
    "who will come to the garden after work and help",
    "bus",
]
STRATEGIES = [
    Strategy("bare_mean", BARE, "mean"),
    Strategy("bare_last", BARE, "last"),
    Strategy("text_mean", ONE_WORD, "text_mean"),
    Strategy("prompted", ONE_WORD, "last"),
    Strategy("prompted_raw", ONE_WORD, "last", normalise=False),
]


def slow_vector(embedder: Embedder, strategy: Strategy, text: str) -> np.ndarray:
    """The obvious version: one text, no batch, no padding."""
    (prompt,) = strategy.template.tokenize([text], embedder.tokenizer, embedder.max_length)
    with torch.inference_mode():
        hidden = embedder.backbone(input_ids=torch.tensor([prompt.ids])).last_hidden_state[0]  # [T, D]
    pooled = {
        "last": hidden[-1],
        "mean": hidden.mean(dim=0),
        "text_mean": hidden[prompt.text_start : prompt.text_end].mean(dim=0),
    }[strategy.pooling]
    return (pooled / pooled.norm() if strategy.normalise else pooled).numpy()


@pytest.mark.parametrize("batch_tokens", [64, 100_000])
def test_batched_vectors_equal_one_text_at_a_time(tiny_embedder, batch_tokens):
    tiny_embedder.batch_tokens = batch_tokens
    encoded = tiny_embedder.encode_strategies(TEXTS, STRATEGIES, progress=False)
    for strategy in STRATEGIES:
        expected = np.stack([slow_vector(tiny_embedder, strategy, text) for text in TEXTS])
        np.testing.assert_allclose(encoded[strategy.name], expected, atol=1e-5)


def test_concatenated_vectors_are_those_of_the_templates_side_by_side(tiny_embedder):
    consensus = Strategy("consensus", (BARE, ONE_WORD), "last", combine="concatenate")
    alone = [Strategy("one", BARE, "last"), Strategy("two", ONE_WORD, "last")]
    encoded = tiny_embedder.encode_strategies(TEXTS, [consensus, *alone], progress=False)
    side_by_side = np.concatenate([encoded["one"], encoded["two"]], axis=1) / np.sqrt(2)
    assert tiny_embedder.dimension(consensus) == side_by_side.shape[1]
    np.testing.assert_allclose(encoded["consensus"], side_by_side, atol=1e-6)


def test_fitted_consensus_is_saved_and_loaded(tiny_embedder, tmp_path):
    consensus = Strategy("consensus", (BARE, ONE_WORD), "last", combine="concatenate")
    fitted = tiny_embedder.fit(TEXTS, consensus, AfterSteps(centre=True, dimensions=4), progress=False)
    assert tiny_embedder.encode(TEXTS, fitted, progress=False).shape == (len(TEXTS), 4)
    tiny_embedder.strategy = fitted
    tiny_embedder.save(tmp_path / "saved")
    loaded = Embedder.load(tmp_path / "saved", device="cpu", dtype="float32")
    assert loaded.strategy == consensus
    np.testing.assert_allclose(loaded.encode(TEXTS, progress=False), tiny_embedder.encode(TEXTS, progress=False), atol=1e-5)


def test_results_are_in_input_order_and_equal_texts_are_embedded_once(tiny_embedder, monkeypatch):
    import embedding_adaptation.embedder.embedder as module

    seen = []
    encode_texts = module.encode_texts
    monkeypatch.setattr(module, "encode_texts", lambda texts, *args: seen.extend(texts) or encode_texts(texts, *args))
    doubled = ["bus", "house", "bus", "street"]
    vectors = tiny_embedder.encode_strategies(doubled, [STRATEGIES[3]], progress=False)["prompted"]
    assert seen == ["bus", "house", "street"]
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert not np.allclose(vectors[0], vectors[1])


def test_vectors_are_float32_unit_vectors_unless_asked_otherwise(tiny_embedder):
    encoded = tiny_embedder.encode_strategies(TEXTS, STRATEGIES, progress=False)
    assert encoded["prompted"].dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(encoded["prompted"], axis=1), 1.0, atol=1e-5)
    assert not np.allclose(np.linalg.norm(encoded["prompted_raw"], axis=1), 1.0, atol=1e-2)


def test_sentence_transformers_sees_the_same_tokens_and_gives_the_same_vectors(tiny_embedder):
    strategy = STRATEGIES[3]
    model = tiny_embedder.sentence_transformer(strategy)
    features = model.preprocess(TEXTS)
    prompts = strategy.template.tokenize(TEXTS, tiny_embedder.tokenizer, tiny_embedder.max_length)
    for row, prompt in enumerate(prompts):
        assert features["input_ids"][row][features["attention_mask"][row].bool()].tolist() == list(prompt.ids)
    ours = tiny_embedder.encode_strategies(TEXTS, [strategy], progress=False)[strategy.name]
    np.testing.assert_allclose(model.encode(TEXTS), ours, atol=1e-5)


def test_a_prompt_beside_the_template_is_refused(tiny_embedder):
    model = tiny_embedder.sentence_transformer(STRATEGIES[3])
    with pytest.raises(ValueError, match="in addition to template 'one_word'"):
        model.preprocess(["bus"], prompt="query: ")


def test_bfloat16_stays_close_to_float32(tiny_weights):
    vectors = {}
    for dtype in ("float32", "bfloat16"):
        embedder = Embedder.load(tiny_weights, device="cpu", dtype=dtype, max_length=64)
        vectors[dtype] = embedder.encode_strategies(TEXTS, [STRATEGIES[3]], progress=False)["prompted"]
    assert (vectors["float32"] * vectors["bfloat16"]).sum(axis=1).min() > 0.999


def test_no_texts_give_an_empty_array(tiny_embedder):
    assert tiny_embedder.encode_strategies([], [STRATEGIES[0]], progress=False)["bare_mean"].shape == (0, 32)


def test_modules_save_their_configuration(tiny_embedder, tmp_path):
    import json

    model = tiny_embedder.sentence_transformer(dataclasses.replace(STRATEGIES[3], normalise=False))
    model[0].save(str(tmp_path))
    model[1].save(str(tmp_path))
    assert json.loads((tmp_path / "prompted_decoder.json").read_text())["template_pattern"] == ONE_WORD.pattern
    assert (tmp_path / "model.safetensors").is_file()
    assert model.get_embedding_dimension() == 32


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("bus", r"single string; pass a list instead"),
        (["bus", None], r"texts\[1\] is None \(NoneType\), not a string \(1 such of 2\)"),
        (["bus", float("nan"), 3], r"texts\[1\] is nan \(float\), not a string \(2 such of 3\)"),
        ([b"bus"], r"texts\[0\] is b'bus' \(bytes\)"),
    ],
)
def test_what_is_no_text_is_named(tiny_embedder, texts, message):
    with pytest.raises(TypeError, match=message):
        tiny_embedder.encode(texts, progress=False)


def test_any_iterable_of_strings_will_do(tiny_embedder):
    import pandas as pd

    expected = tiny_embedder.encode(TEXTS, progress=False)
    for texts in (pd.Series(TEXTS, index=range(5, 11)), np.array(TEXTS), (text for text in TEXTS)):
        np.testing.assert_array_equal(tiny_embedder.encode(texts, progress=False), expected)


@pytest.mark.parametrize("pooling", ["last", "mean", "text_mean", "attention_weighted"])
def test_odd_texts_have_finite_unit_vectors(tiny_embedder, pooling):
    odd = ["", " \n", "x" * 1_000_000, "\ud800", "مرحبا", "🎉", "{text}", ONE_WORD.suffix, "\0"]
    for template in (BARE, ONE_WORD):
        vectors = tiny_embedder.encode(odd, Strategy("a", template, pooling), progress=False)
        # The bare empty text is the end token alone, whose embedding is zero in this random model.
        some = slice(None) if template is ONE_WORD else slice(1, None)
        np.testing.assert_allclose(np.linalg.norm(vectors[some], axis=1), 1.0, atol=1e-4)
        assert np.isfinite(vectors).all()


def test_two_strategies_of_one_name_are_an_error(tiny_embedder):
    with pytest.raises(ValueError, match="two strategies are named 'bare_mean'"):
        tiny_embedder.encode_strategies(TEXTS, [STRATEGIES[0], STRATEGIES[0]])


def test_modules_refuse_what_they_cannot_do(tiny_embedder):
    for strategy in (Strategy("a", BARE, "value_weighted"), Strategy("a", BARE, "last", (1,)), Strategy("a", (BARE, ONE_WORD), "last")):
        with pytest.raises(ValueError, match="strategy 'a' cannot be trained"):
            tiny_embedder.sentence_transformer(strategy)


@pytest.mark.parametrize("pooling", ["weighted_mean", "last_mean", "max"])
def test_modules_pool_as_the_embedder_does(tiny_embedder, pooling):
    strategy = Strategy("a", ONE_WORD, pooling)
    model = tiny_embedder.sentence_transformer(strategy)
    np.testing.assert_allclose(model.encode(TEXTS), tiny_embedder.encode(TEXTS, strategy, progress=False), atol=1e-5)


def test_shards_hold_what_encode_gives_and_are_not_made_twice(tiny_embedder, tmp_path, monkeypatch):
    shards = tiny_embedder.encode_to_shards((text for text in TEXTS), tmp_path, shard_size=4, progress=False)
    assert [path.name for path in shards] == ["shard-000000.safetensors", "shard-000001.safetensors"]
    vectors = np.concatenate([load_file(path)["vectors"] for path in shards])
    np.testing.assert_allclose(vectors, tiny_embedder.encode(TEXTS, progress=False), atol=1e-5)
    calls = []
    encode = Embedder.encode
    monkeypatch.setattr(
        Embedder, "encode", lambda self, texts, *args, **kwargs: calls.append(texts) or encode(self, texts, *args, **kwargs)
    )
    tiny_embedder.encode_to_shards(TEXTS, tmp_path, shard_size=4, progress=False)
    assert calls == []
    tiny_embedder.encode_to_shards([*TEXTS[:5], "other"], tmp_path, shard_size=4, progress=False)
    assert calls == [[TEXTS[4], "other"]]
    tiny_embedder.encode_to_shards(TEXTS[:4], tmp_path, STRATEGIES[0], shard_size=4, progress=False)
    assert len(calls) == 2
    with pytest.raises(TypeError, match=r"texts\[5\] is None"):
        tiny_embedder.encode_to_shards([*TEXTS[:5], None], tmp_path, shard_size=4, progress=False)


@pytest.fixture
def made(monkeypatch):
    """Texts that were really embedded, in order."""
    texts = []
    encode = Embedder.encode_strategies

    def counted(self, given, strategies, **kwargs):
        given = list(given)
        texts.extend(given)
        return encode(self, given, strategies, **kwargs)

    monkeypatch.setattr(Embedder, "encode_strategies", counted)
    return texts


def test_a_renamed_strategy_or_template_embeds_no_text_again(tiny_embedder, tmp_path, made):
    named = tiny_embedder.fit(TEXTS, Strategy("prompted", ONE_WORD, "last"), AfterSteps(centre=True), progress=False)
    shards = tiny_embedder.encode_to_shards(TEXTS, tmp_path, named, shard_size=4, progress=False)
    before = [shard.read_bytes() for shard in shards]
    made.clear()
    renamed = Strategy("eol", PromptTemplate("in_one_word", ONE_WORD.pattern), "last", after=named.after)
    tiny_embedder.encode_to_shards(TEXTS, tmp_path, renamed, shard_size=4, progress=False)
    assert made == []
    assert [shard.read_bytes() for shard in shards] == before


def test_another_alpha_of_the_same_adapter_embeds_all_texts_again(tiny_adapted, tmp_path, made):
    folder = shutil.copytree(tiny_adapted.adapter, tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    vectors = []
    for alpha in (config["lora_alpha"], config["lora_alpha"], 4 * config["lora_alpha"]):
        (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": alpha}))
        embedder = Embedder.load(dataclasses.replace(tiny_adapted, adapter=folder), device="cpu", dtype="float32")
        (shard,) = embedder.encode_to_shards(TEXTS, tmp_path / "shards", progress=False)
        vectors.append(load_file(shard)["vectors"])
    assert made == 2 * TEXTS
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert np.abs(vectors[2] - vectors[0]).max() > 1e-3


def test_shards_of_an_older_format_are_told_of_once_and_made_again(tiny_embedder, tmp_path, made, caplog):
    for number in range(2):
        with replacing_file(tmp_path / f"shard-{number:06d}.safetensors", checksum=True) as work:
            save_file({"vectors": np.zeros((4, 32), np.float32)}, work, metadata={"fingerprint": "ab" * 64})
    shards = tiny_embedder.encode_to_shards(TEXTS, tmp_path, shard_size=4, progress=False)
    assert made == TEXTS
    assert [message for message in caplog.messages if "format" in message] == [
        f"{tmp_path} contains vectors in another format than 2; they are computed again"
    ]
    assert all(load_file(shard)["vectors"].any() for shard in shards)


def test_an_embedder_knows_its_weights_from_load_wherever_they_lie(tiny_weights, tiny_adapted, tmp_path):
    def identity(source, **options):
        return Embedder.load(source, device="cpu", dtype="float32", **options).identity

    bare = shutil.copytree(tiny_weights.base, tmp_path / "bare", ignore=shutil.ignore_patterns("card.json"))
    assert identity(tiny_weights) == identity(tiny_weights.base) == tiny_weights.fingerprint()
    assert identity(bare) == weights_identity(files_sha256(decisive_files(bare)))
    assert identity(tiny_adapted) == identity(tiny_adapted.adapter, base=tiny_weights) == tiny_adapted.fingerprint()


def test_weights_that_are_made_or_changed_in_memory_are_known_by_their_values(tiny_weights):
    loaded, other = (Embedder.load(tiny_weights, device="cpu", dtype="float32") for _ in range(2))
    made, again = (Embedder(one.backbone, one.tokenizer) for one in (loaded, other))
    by_hand = made.identity
    assert by_hand == again.identity
    with torch.no_grad():
        next(loaded.backbone.parameters()).mul_(2.0)
    assert loaded.identity == made.identity
    assert loaded.identity not in {tiny_weights.fingerprint(), by_hand}
    adapted = []
    for alpha in (8, 16):
        torch.manual_seed(0)
        config = LoraConfig(target_modules="all-linear", init_lora_weights=False, lora_alpha=alpha)
        adapted.append(Embedder(get_peft_model(copy.deepcopy(other.backbone), config).eval(), other.tokenizer).identity)
    assert len({by_hand, *adapted}) == 3


def test_a_trained_step_is_another_model(tiny_weights):
    embedder = Embedder.load(tiny_weights, device="cpu", dtype="float32")
    before = embedder.identity
    optimizer = torch.optim.AdamW(embedder.backbone.parameters(), lr=1e-3)
    embedder.backbone(input_ids=torch.tensor([[1, 2, 3]])).last_hidden_state.sum().backward()
    assert embedder.identity == before
    optimizer.step()
    assert embedder.identity != before


def test_a_layer_the_model_does_not_have_is_refused_when_loading(tiny_weights):
    with pytest.raises(ValueError, match="this model has layers 0 to 3"):
        Embedder.load(tiny_weights, strategy=Strategy("a", BARE, "last", (9,)))


@pytest.mark.parametrize("strategies", [STRATEGIES[:1], STRATEGIES])
def test_the_rest_of_a_long_reading_is_told_from_the_tokens_it_has(tiny_embedder, monkeypatch, caplog, strategies):
    caplog.set_level("INFO", logger="embedding_adaptation")
    asked = []

    def left(done, total, seconds):
        asked.append((done, total))
        return 240.0

    monkeypatch.setattr("embedding_adaptation.embedder.embedder.MEASURED", 0.0)
    monkeypatch.setattr("embedding_adaptation.embedder.embedder.seconds_left", left)
    tiny_embedder.batch_tokens = 64
    before = tiny_embedder.tokens_computed
    tiny_embedder.encode_strategies(TEXTS, strategies)
    prefixes = sum(len(reading.tree.shared) for reading in tiny_embedder._readings(strategies))
    ((done, total),) = asked  # said once
    assert 0 < done < total == tiny_embedder.tokens_computed - before - prefixes
    assert f"reading {len(TEXTS)} texts: about 4 min, at " in caplog.text
    tiny_embedder.encode_strategies(TEXTS, strategies, progress=False)
    assert len(asked) == 1
