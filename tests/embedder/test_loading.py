"""What is loaded is what was asked for: adapters on their base, the text decoder of a larger model, and nothing made up."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

from embedding_adaptation.embedder.base_model import BaseModelError, check_source, convert
from embedding_adaptation.embedder.checkpoint import checkpoint_tensors
from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.embedder.loading import check_contents, load_causal
from embedding_adaptation.embedder.weights import DecoderWeights
from survey.families import write_family

TEXTS = ["the bus is late", "water " * 30]
LORA = {"r": 2, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}


@pytest.fixture
def folder(tiny_weights, tmp_path):
    """A copy of the tiny model's folder."""
    target = tmp_path / "model"
    shutil.copytree(tiny_weights.base, target)
    return target


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Conversions go where nobody else looks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def vectors(source) -> np.ndarray:
    return Embedder.load(source, device="cpu", dtype="float32").encode(TEXTS, progress=False)


def converted(folder, target) -> DecoderWeights:
    target.mkdir()
    return DecoderWeights(target, convert(check_source(str(folder)), target))


def adapter_of(folder, target, kind=AutoModelForCausalLM, **changes):
    """Save a LoRA adapter that changes the model's vectors, and return them."""
    torch.manual_seed(3)
    adapted = get_peft_model(kind.from_pretrained(folder), LoraConfig(**LORA | changes))
    adapted.save_pretrained(target)
    adapted.merge_and_unload().save_pretrained(target.parent / "merged")
    shutil.copy(folder / "tokenizer.json", target.parent / "merged")
    shutil.copy(folder / "tokenizer_config.json", target.parent / "merged")
    return vectors(str(target.parent / "merged"))


@pytest.mark.parametrize("kind", [AutoModelForCausalLM, AutoModel])
def test_an_adapter_folder_is_its_base_with_the_adapter(folder, tmp_path, kind):
    expected = adapter_of(folder, tmp_path / "adapter", kind)
    assert np.abs(expected - vectors(str(folder))).max() > 1e-2
    np.testing.assert_allclose(vectors(str(tmp_path / "adapter")), expected, atol=1e-5)
    np.testing.assert_allclose(vectors(converted(tmp_path / "adapter", tmp_path / "out")), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (AutoModelForCausalLM, {"target_modules": ["q_proj", "lm_head"]}),
        (AutoModelForCausalLM, {"target_modules": ["q_proj", "embed_tokens"]}),
        (AutoModelForCausalLM, {"modules_to_save": ["lm_head"]}),
        (AutoModel, {"target_modules": ["q_proj", "embed_tokens"]}),
        (AutoModel, {"modules_to_save": ["embed_tokens", "input_layernorm"]}),
    ],
)
def test_an_adapter_on_head_or_embedding_changes_that_one_only(folder, tmp_path, kind, changes):
    """The tiny model's head and embedding are one tensor, as those of most small models are."""
    torch.manual_seed(3)
    adapted = get_peft_model(kind.from_pretrained(folder), LoraConfig(**LORA | changes)).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    ids = torch.arange(1, 9)[None]
    weights = converted(tmp_path / "adapter", tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(weights.base).eval()
    with torch.no_grad():
        expected = adapted(input_ids=ids, output_hidden_states=True)
        found = merged(input_ids=ids, output_hidden_states=True)
    torch.testing.assert_close(found.hidden_states[-1], expected.hidden_states[-1], atol=1e-5, rtol=1e-5)
    if kind is AutoModelForCausalLM:
        torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(vectors(str(tmp_path / "adapter")), vectors(weights), atol=1e-5)


def test_an_adapter_beside_the_weights_is_merged_and_said(folder, tmp_path, caplog):
    expected = adapter_of(folder, tmp_path / "adapter")
    for file in (tmp_path / "adapter").glob("adapter_*"):
        shutil.copy(file, folder)
    np.testing.assert_allclose(vectors(str(folder)), expected, atol=1e-5)
    assert "the folder also contains an adapter, which is merged into the weights" in caplog.text
    weights = converted(folder, tmp_path / "out")
    assert not (weights.base / "adapter_config.json").exists()
    np.testing.assert_allclose(vectors(weights), expected, atol=1e-5)


def change_json(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda a: change_json(a / "adapter_config.json", base_model_name_or_path=None),
            "does not name its base; write the path or Hub id",
        ),
        (
            lambda a: change_json(a / "adapter_config.json", base_model_name_or_path="/no/such"),
            "base '/no/such' cannot be used .*adapter_config",
        ),
        (lambda a: (a / "adapter_model.safetensors").unlink(), "it contains adapter_config.json but no adapter_model.safetensors"),
        (lambda a: (a / "adapter_model.safetensors").write_bytes(b"12345678" * 9), "adapter_model.safetensors is not a safetensors file"),
        (lambda a: (a / "adapter_config.json").write_text("{"), "adapter_config.json is not valid JSON"),
    ],
)
def test_an_adapter_that_cannot_be_used_is_refused_with_the_way_out(folder, tmp_path, damage, message):
    adapter_of(folder, tmp_path / "adapter")
    damage(tmp_path / "adapter")
    with pytest.raises(BaseModelError, match=message):
        check_source(str(tmp_path / "adapter"))


def test_a_prompt_tuning_adapter_has_no_place_in_weights(folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(folder)
    get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).save_pretrained(tmp_path / "adapter")
    with pytest.raises(BaseModelError, match="describes PROMPT_TUNING, which cannot be merged"):
        check_source(str(tmp_path / "adapter"))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: dict(list(t.items())[2:]),
        lambda t: {n.replace("layers.0", "layers.7"): x for n, x in t.items()},
        lambda t: t | {n.replace("layers.0", "layers.7"): x.clone() for n, x in t.items() if "layers.0" in n},
    ],
)
def test_an_adapter_of_another_model_is_not_put_on(folder, tmp_path, change):
    adapter_of(folder, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
    (tmp_path / "out").mkdir()
    with pytest.raises(BaseModelError, match="the adapter in adapter was trained on another model"):
        convert(check_source(str(tmp_path / "adapter")), tmp_path / "out")
    with pytest.raises(BaseModelError, match=r"the adapter in adapter was trained on another model .*base=FOLDER"):
        Embedder.load(tmp_path / "adapter")


@pytest.mark.slow
@pytest.mark.parametrize("prepare", ["folder", "adapter", "special tokens", "random"])
def test_two_conversions_of_one_source_are_equal_to_the_bit(folder, tmp_path, prepare):
    setting = str(folder)
    if prepare == "adapter":
        adapter_of(folder, tmp_path / "adapter")
        setting = str(tmp_path / "adapter")
    elif prepare == "special tokens":
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        tokenizer.save_pretrained(folder)
    elif prepare == "random":
        setting = "random:tiny-llama"
    files = []
    for name in ("one", "two"):
        weights = converted(setting, tmp_path / name)
        files.append({path.name: path.read_bytes() for path in weights.base.iterdir()})
    assert {"model.safetensors", "tokenizer.json", "card.json"} <= files[0].keys()
    assert files[0] == files[1]


@pytest.mark.parametrize("name", ["gemma3", "qwen2_vl"])
def test_the_text_decoder_of_a_multimodal_model_is_used(name, tiny_embedder, tmp_path):
    source = tmp_path / name
    source.mkdir()
    reference = write_family(name, source, tiny_embedder.tokenizer)
    weights = converted(source, tmp_path / "out")
    tensors = checkpoint_tensors(weights.base)
    assert not any("vision" in tensor or "visual" in tensor for tensor in tensors)
    embedder = Embedder.load(weights, device="cpu", dtype="float32")
    prompt = embedder.strategy.templates[0].tokenize(TEXTS[:1], embedder.tokenizer, 64)[0]
    with torch.no_grad():
        expected = reference(input_ids=torch.tensor([prompt.ids]), use_cache=False).last_hidden_state[0, -1]
    np.testing.assert_allclose(embedder.encode(TEXTS[:1], progress=False)[0], expected / expected.norm(), atol=1e-5)
    np.testing.assert_array_equal(vectors(str(source)), vectors(weights))
    load_causal(weights.base)  # with its head: it can write too


def test_a_multimodal_model_that_lacks_a_layer_is_refused(tiny_embedder, tmp_path):
    write_family("gemma3", tmp_path, tiny_embedder.tokenizer)
    file = tmp_path / "model.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if "layers.2." not in name}, file, metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match=r"\d+ tensors missing from the weights: .*language_model.*layers\.2\."):
        check_source(str(tmp_path))


def test_a_model_without_vocabulary_head_embeds_and_says_that_it_cannot_write(folder, tmp_path):
    from embedding_adaptation.pipelines.data_augmentation.generators.request import Context, GenerationError
    from embedding_adaptation.pipelines.data_augmentation.generators.rewrite import check
    from embedding_adaptation.pipelines.data_augmentation.options import RewriteOptions

    expected = vectors(str(folder))
    AutoModel.from_pretrained(folder).save_pretrained(folder)
    change_json(folder / "config.json", tie_word_embeddings=False)
    assert check_contents(folder, checkpoint_tensors(folder)).headless
    weights = converted(folder, tmp_path / "out")
    np.testing.assert_array_equal(vectors(weights), expected)
    with pytest.raises(BaseModelError, match="1 tensor missing from the weights: lm_head"):
        load_causal(weights.base)
    with pytest.raises(GenerationError, match="has no vocabulary head, so it cannot write"):
        check(
            RewriteOptions(system_prompt="Rewrite.", styles={"plain": {"instruction": "Rewrite: {text}"}}),
            Context(0, weights, None, lambda: None),
        )


@pytest.mark.parametrize("name", ["gpt2", "xlnet", "llama"])
def test_a_model_with_a_vocabulary_head_is_asked_to_write(name, tiny_embedder, tmp_path):
    from embedding_adaptation.embedder.chat import has_vocabulary_head

    write_family(name, tmp_path, tiny_embedder.tokenizer)
    assert has_vocabulary_head(tmp_path)


def test_weights_that_were_damaged_after_their_conversion_are_not_filled_up(folder, tmp_path):
    weights = converted(folder, tmp_path / "out")
    file = weights.base / "model.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if "layers.1." not in name}, file, metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match="9 tensors missing from the weights"):
        Embedder.load(weights, device="cpu")


def test_the_same_sentence_comes_from_the_library_and_from_the_catalog(folder, tmp_path):
    from kedro.io import Version
    from kedro.io.core import DatasetError

    from embedding_adaptation.datasets.base_model import BaseModelDataset

    change_json(folder / "config.json", num_hidden_layers=4)
    sentence = rf"^base_model '{folder}': 9 tensors missing from the weights: model.layers.3"
    for ask in (lambda: check_source(str(folder)), lambda: Embedder.load(str(folder))):
        with pytest.raises(BaseModelError, match=sentence):
            ask()
    dataset = BaseModelDataset(source=str(folder), filepath=str(tmp_path / "base_model"), version=Version(None, "2026-01-01T00.00.00.000Z"))
    with pytest.raises(DatasetError, match=sentence):
        dataset.check_input()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"model_type": "mamba"}, "'mamba' is a state-space model"),
        ({"model_type": "granitemoehybrid", "layer_types": ["mamba", "attention"]}, "'granitemoehybrid' is a state-space model"),
        ({"model_type": "llava", "text_config": {"model_type": "jamba"}}, "'jamba' is a state-space model"),
        ({"use_bidirectional_attention": True}, "attends in both directions within a text"),
        ({"model_type": "bart"}, "'bart' is an encoder-decoder model"),
        ({"model_type": "qwen2_5_omni_thinker", "text_config": {"model_type": "qwen2_5_omni_text"}}, "no language model for its text part"),
    ],
)
def test_models_that_are_no_causal_decoders_are_refused_by_name(folder, values, reason):
    change_json(folder / "config.json", **values)
    with pytest.raises(BaseModelError, match=reason):
        check_source(str(folder))


def test_loading_shows_no_bars_and_leaves_those_of_others(tiny_weights, capfd):
    from transformers.utils import logging

    assert logging.is_progress_bar_enabled()
    Embedder.load(tiny_weights, device="cpu", dtype="float32")
    assert "Loading weights" not in "".join(capfd.readouterr())
    assert logging.is_progress_bar_enabled()
