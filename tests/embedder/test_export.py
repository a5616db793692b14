from __future__ import annotations

import copy
import json
import subprocess
import sys

import numpy as np
import pytest

from embedding_adaptation.embedder.after_processing import AfterSteps
from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.embedder.export import ExportError, export_sentence_transformer, prompting_tokenizer
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import PromptTemplate

TEMPLATES = (
    PromptTemplate("bare", "{text}"),
    PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "'),
    PromptTemplate("suffix", '{text}" is about the following subject: "'),
    PromptTemplate("framed", "Cluster: {text}", bos=True, eos=True),
)
TEXTS = [
    "the bus is late",
    "ends with a full stop.",
    " spaces around ",
    '"quoted"',
    '" means in one word: "',
    "{text}",
    "water " * 90,
    "🎉 مرحبا",
    "\n",
]
LOAD = """
import json, sys
import numpy as np
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
texts = json.loads(sys.argv[2])
ids = [row.ids for row in model.tokenizer.backend_tokenizer.encode_batch(texts)]
features = model.preprocess(texts)
seen = [row[mask.bool()].tolist() for row, mask in zip(features["input_ids"], features["attention_mask"])]
assert not any(name.split(".")[0] == "embedding_adaptation" for name in sys.modules)
print("RESULT" + json.dumps({"ids": seen, "vectors": model.encode(texts, batch_size=3).tolist()}))
"""


def real_tokenizer(project):
    from transformers import AutoTokenizer

    found = sorted((project / "data/06_models/base_model").glob("*/base_model/tokenizer.json"))
    if not found:
        pytest.skip("the base model has not been converted here; 'make run' does it")
    return AutoTokenizer.from_pretrained(found[-1].parent)


@pytest.mark.parametrize("which", ["tiny", "real"])
@pytest.mark.parametrize("template", TEMPLATES, ids=lambda t: t.name)
def test_the_exported_tokenizer_gives_the_same_ids(tiny_embedder, project, template, which):
    tokenizer = tiny_embedder.tokenizer if which == "tiny" else real_tokenizer(project)
    exported = prompting_tokenizer(tokenizer, template.frame(tokenizer, 48), 48)
    ids = exported(TEXTS, truncation=True)["input_ids"]
    assert ids == [list(prompt.ids) for prompt in template.tokenize(TEXTS, tokenizer, 48)]


@pytest.mark.slow
@pytest.mark.parametrize(("template", "pooling"), [(TEMPLATES[1], "last"), (TEMPLATES[3], "eos"), (TEMPLATES[2], "last_mean")])
def test_another_process_loads_the_folder_without_this_package(tiny_embedder, tmp_path, template, pooling):
    strategy = Strategy("a", template, pooling)
    export_sentence_transformer(tiny_embedder, tmp_path / "exported", strategy)
    (tmp_path / "moved").mkdir()
    moved = (tmp_path / "exported").rename(tmp_path / "moved" / "model")
    result = subprocess.run(
        [sys.executable, "-c", LOAD, str(moved), json.dumps(TEXTS)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.partition("RESULT")[2])
    assert found["ids"] == [list(prompt.ids) for prompt in template.tokenize(TEXTS, tiny_embedder.tokenizer, tiny_embedder.max_length)]
    np.testing.assert_allclose(found["vectors"], tiny_embedder.encode(TEXTS, strategy, progress=False), atol=1e-5)


def test_an_adapter_is_merged_into_the_export(tiny_embedder, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model
    from sentence_transformers import SentenceTransformer

    torch.manual_seed(0)
    tiny_embedder.backbone = get_peft_model(tiny_embedder.backbone, LoraConfig(target_modules="all-linear", init_lora_weights=False)).eval()
    export_sentence_transformer(tiny_embedder, tmp_path / "exported")
    vectors = SentenceTransformer(str(tmp_path / "exported"), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(vectors, tiny_embedder.encode(TEXTS, progress=False), atol=1e-5)
    with pytest.raises(FileExistsError, match="already exists"):
        export_sentence_transformer(tiny_embedder, tmp_path / "exported")


@pytest.mark.parametrize(
    "steps",
    [
        AfterSteps(centre=0.7),
        AfterSteps(remove_components=1),
        AfterSteps(whiten=True, dimensions=3),
        AfterSteps(distil=0.1),
        AfterSteps(dimensions=5),
    ],
)
@pytest.mark.parametrize("pooling", ["last", "last_mean"])
def test_after_processing_becomes_a_dense_layer(tiny_embedder, tmp_path, steps, pooling):
    from sentence_transformers import SentenceTransformer

    targets = np.random.default_rng(0).normal(size=(len(TEXTS), 4))
    fitted = tiny_embedder.fit(TEXTS, Strategy("a", TEMPLATES[1], pooling), steps, targets=targets, progress=False)
    export_sentence_transformer(tiny_embedder, tmp_path / "exported", fitted)
    expected = tiny_embedder.encode(TEXTS, fitted, progress=False)
    np.testing.assert_allclose(SentenceTransformer(str(tmp_path / "exported"), device="cpu").encode(TEXTS), expected, atol=1e-4)
    loaded = Embedder.load(tmp_path / "exported", device="cpu", dtype="float32")
    np.testing.assert_allclose(loaded.encode(TEXTS, progress=False), expected, atol=1e-4)


def test_what_cannot_be_exported_is_said(tiny_embedder, tmp_path):
    for strategy, reason in (
        (Strategy("a", TEMPLATES[1], "text_mean"), "pooling text_mean"),
        (Strategy("a", TEMPLATES[:2], "last", (1,)), "2 templates and layers"),
    ):
        with pytest.raises(ExportError, match=f"cannot be exported because of {reason}"):
            export_sentence_transformer(tiny_embedder, tmp_path / "exported", strategy)
    assert isinstance(tiny_embedder, Embedder)
    assert not (tmp_path / "exported").exists()


def test_a_slow_tokenizer_is_refused(tiny_embedder):
    with pytest.raises(ExportError, match="is not a fast tokenizer"):
        prompting_tokenizer(object(), TEMPLATES[0].frame(tiny_embedder.tokenizer, 16), 16)


def tiny_with(tiny_embedder, tokenizer, **config):
    from transformers import LlamaConfig, LlamaModel

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaModel(LlamaConfig(**sizes, vocab_size=len(tiny_embedder.tokenizer) + 8, **config)).eval()
    return Embedder(model, tokenizer, max_length=64)


def ids_of(folder, texts):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    features = model.preprocess(texts)
    return [row[mask.bool()].tolist() for row, mask in zip(features["input_ids"], features["attention_mask"], strict=True)]


def our_ids(embedder, template):
    return [list(prompt.ids) for prompt in template.tokenize(TEXTS, embedder.tokenizer, embedder.max_length)]


def test_sequences_longer_than_the_models_declared_context_are_kept(tiny_embedder, tmp_path):
    embedder = tiny_with(tiny_embedder, tiny_embedder.tokenizer, max_position_embeddings=32)
    export_sentence_transformer(embedder, tmp_path / "exported", Strategy("a", TEMPLATES[1], "last"))
    assert ids_of(tmp_path / "exported", TEXTS) == our_ids(embedder, TEMPLATES[1])


def test_special_tokens_in_a_text_are_read_as_the_tokenizer_is_set_to(tiny_embedder, tmp_path):
    embedder = tiny_with(tiny_embedder, copy.deepcopy(tiny_embedder.tokenizer))
    embedder.tokenizer.split_special_tokens = True
    export_sentence_transformer(embedder, tmp_path / "exported", Strategy("a", TEMPLATES[1], "last"))
    texts = ["x</s>y", "<s> means"]
    ours = [list(prompt.ids) for prompt in TEMPLATES[1].tokenize(texts, embedder.tokenizer, embedder.max_length)]
    assert ids_of(tmp_path / "exported", texts) == ours


def test_a_tokenizer_with_nothing_to_pad_with_is_refused(tiny_embedder):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[])))
    with pytest.raises(ExportError, match="no special token to pad with that the model knows"):
        prompting_tokenizer(bare, TEMPLATES[0].frame(bare, 16), 16)


def test_an_export_with_other_ids_is_not_written(tiny_embedder, tmp_path, monkeypatch):
    from embedding_adaptation.embedder import export

    monkeypatch.setattr(export, "prompting_tokenizer", lambda tokenizer, frame, length, vocabulary: tokenizer)
    with pytest.raises(ExportError, match="gives different token ids from template 'one_word'"):
        export_sentence_transformer(tiny_embedder, tmp_path / "exported", Strategy("a", TEMPLATES[1], "last"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda t: t.name)
def test_an_empty_text_differs_only_where_nothing_comes_before_it(tiny_embedder, template):
    tokenizer = tiny_embedder.tokenizer
    exported = prompting_tokenizer(tokenizer, template.frame(tokenizer, 48), 48)
    ours = list(template.tokenize([""], tokenizer, 48)[0].ids)
    begins = [tokenizer.eos_token_id] if template.name in {"bare", "suffix"} else []
    assert begins + exported([""])["input_ids"][0] == ours
