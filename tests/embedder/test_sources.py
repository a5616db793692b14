"""What Embedder.load is given, and what it makes of it: the same vectors as the pipelines, or a sentence."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from embedding_adaptation.checksums import checksum_file
from embedding_adaptation.datasets.adapter import AdapterDataset
from embedding_adaptation.embedder.base_model import BaseModelError
from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.embedder.export import export_sentence_transformer
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import PromptTemplate
from embedding_adaptation.embedder.transformer import TextEmbedding
from embedding_adaptation.identity import CorpusIdentity
from embedding_adaptation.runtime import build_strategy

TEXTS = ["the bus is late", " spaces ", "", "water " * 90, "🎉 مرحبا", '" means in one word: "']
OWN = PromptTemplate("own", "topic: {text} is", bos=True, eos=True)


@pytest.fixture
def pipeline_vectors(tiny_adapted, embedder_options):
    """What extraction computes with the adapter."""
    embedder = Embedder.load(tiny_adapted, device="cpu", dtype="float32", max_length=64)
    return embedder.encode(TEXTS, build_strategy("prompted_last_adapted", embedder_options()), progress=False)


@pytest.fixture
def project_folder(tiny_adapted, tmp_path):
    """A copy of a project's models that a test may change: ``base_model/1/base_model`` and ``adapter/VERSION/adapter``."""
    models = tiny_adapted.adapter.parents[2]
    shutil.copytree(models, tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Conversions go where nobody else looks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def adapter_of(project_folder):
    (adapter,) = project_folder.glob("adapter/*/adapter")
    return adapter


def own_adapter_of(project_folder):
    """One that may be changed: nothing says any more what was written."""
    adapter = adapter_of(project_folder)
    checksum_file(adapter).unlink()
    return adapter


def vectors_of(source, **options):
    return Embedder.load(source, device="cpu", dtype="float32", **options).encode(TEXTS, progress=False)


def test_the_exported_folder_gives_the_pipelines_vectors(exported, pipeline_vectors):
    embedder = Embedder.load(exported, device="cpu", dtype="float32")
    assert (embedder.strategy.name, embedder.max_length) == ("prompted_last_adapted", 64)
    np.testing.assert_allclose(embedder.encode(TEXTS, progress=False), pipeline_vectors, atol=1e-5)


@pytest.mark.parametrize(
    "strategy",
    [
        Strategy("mine", OWN, "eos"),
        Strategy("mine", PromptTemplate("bare", "{text}"), "mean", normalise=False),
        Strategy("mine", PromptTemplate("suffix", '{text}" means: "'), "last_mean"),
        Strategy("mine", PromptTemplate("begun", "x {text}", bos=False), "weighted_mean"),
    ],
)
def test_an_exported_folder_keeps_its_strategy(tiny_embedder, tmp_path, strategy):
    export_sentence_transformer(tiny_embedder, tmp_path / "model", strategy)
    again = Embedder.load(tmp_path / "model", device="cpu", dtype="float32")
    assert (again.strategy, again.max_length) == (strategy, 64)
    np.testing.assert_allclose(again.encode(TEXTS, progress=False), tiny_embedder.encode(TEXTS, strategy, progress=False), atol=1e-5)
    # And any other strategy is that of the model without the prompt.
    other = Strategy("other", PromptTemplate("other", "about {text}:"), "last")
    expected = tiny_embedder.encode(TEXTS, other, progress=False)
    np.testing.assert_allclose(again.encode(TEXTS, other, progress=False), expected, atol=1e-5)
    again.save(tmp_path / "saved")
    np.testing.assert_allclose(vectors_of(tmp_path / "saved", strategy=other), expected, atol=1e-5)
    export_sentence_transformer(again, tmp_path / "again")
    np.testing.assert_allclose(vectors_of(tmp_path / "again"), again.encode(TEXTS, progress=False), atol=1e-5)


def test_a_tokenizer_that_begins_texts_by_itself_does_so_again(tiny_embedder, tmp_path):
    import copy

    from tokenizers.processors import TemplateProcessing

    tiny_embedder.tokenizer = tokenizer = copy.deepcopy(tiny_embedder.tokenizer)
    begin = [(tokenizer.bos_token, tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=begin)
    export_sentence_transformer(tiny_embedder, tmp_path / "model")
    again = Embedder.load(tmp_path / "model", device="cpu", dtype="float32")
    assert again.tokenizer("a")["input_ids"] == tokenizer("a")["input_ids"]
    np.testing.assert_allclose(again.encode(TEXTS, progress=False), tiny_embedder.encode(TEXTS, progress=False), atol=1e-5)


def test_an_exported_folder_without_its_settings_is_refused_however_it_is_given(exported):
    checksum_file(exported).unlink()
    (exported / "embedder.json").unlink()
    with pytest.raises(BaseModelError, match=r"is a sentence-transformers model without embedder\.json"):
        Embedder.load(exported)
    with pytest.raises(BaseModelError, match=r"adds words to every text.* means in one word"):
        Embedder.load(exported, strategy=Strategy("mine", OWN, "last"))
    (exported / "modules.json").unlink()
    with pytest.raises(BaseModelError, match="adds words to every text"):
        Embedder.load(exported)


def test_a_folder_of_sentence_transformers_is_loaded_only_under_a_strategy_of_the_callers(tiny_weights, tmp_path):
    folder = tmp_path / "others"
    shutil.copytree(tiny_weights.base, folder)
    (folder / "modules.json").write_text("[]")
    with pytest.raises(BaseModelError, match=r"load it with SentenceTransformer"):
        Embedder.load(folder)
    strategy = Strategy("mine", OWN, "mean")
    np.testing.assert_allclose(vectors_of(folder, strategy=strategy), vectors_of(tiny_weights, strategy=strategy), atol=1e-6)
    with pytest.raises(BaseModelError, match="load it with SentenceTransformer"):
        TextEmbedding(folder).fit(TEXTS)
    step = TextEmbedding(folder, template="about {text}:", pooling="mean", device="cpu", dtype="float32").fit(TEXTS)
    expected = vectors_of(tiny_weights, strategy=Strategy("x", PromptTemplate("x", "about {text}:"), "mean"))
    np.testing.assert_allclose(step.transform(TEXTS), expected, atol=1e-6)


def test_the_adapter_folder_gives_the_pipelines_vectors(project_folder, pipeline_vectors):
    embedder = Embedder.load(adapter_of(project_folder), device="cpu", dtype="float32")
    assert (embedder.max_length, embedder.strategy.pooling) == (64, "last")
    np.testing.assert_allclose(embedder.encode(TEXTS, progress=False), pipeline_vectors, atol=1e-5)


def test_the_adapter_from_the_catalog_brings_its_strategy(tiny_adapted, tiny_weights, pipeline_vectors):
    embedder = Embedder.load(tiny_adapted, device="cpu", dtype="float32")
    assert embedder.max_length == 64
    np.testing.assert_allclose(embedder.encode(TEXTS, progress=False), pipeline_vectors, atol=1e-5)
    assert Embedder.load(tiny_weights, device="cpu").max_length == 256


def test_an_adapter_away_from_its_project_takes_the_base_model_its_card_names(project_folder, pipeline_vectors, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    alone = shutil.copytree(adapter_of(project_folder), tmp_path / "elsewhere" / "adapter")
    np.testing.assert_allclose(vectors_of(alone), pipeline_vectors, atol=1e-5)


def test_an_adapter_takes_the_base_model_it_is_given(project_folder, pipeline_vectors, tiny_weights, tmp_path):
    alone = shutil.copytree(adapter_of(project_folder), tmp_path / "elsewhere" / "adapter")
    card = json.loads((alone / "adapter_card.json").read_text())
    card["base"]["source"] = "gone/away.gguf"
    (alone / "adapter_card.json").write_text(json.dumps(card))
    with pytest.raises(BaseModelError, match=r"'gone/away.gguf', which is neither in a folder base_model beside it .*base=FOLDER"):
        Embedder.load(alone)
    for base in (tiny_weights, tiny_weights.base, "random:tiny-llama"):
        np.testing.assert_allclose(vectors_of(alone, base=base), pipeline_vectors, atol=1e-5)
    with pytest.raises(BaseModelError, match="is not an adapter folder"):
        Embedder.load(tiny_weights.base, base=tiny_weights)


def test_an_adapter_on_other_weights_is_refused(project_folder, tiny_weights, tmp_path):
    from safetensors.torch import load_file, save_file

    other = shutil.copytree(tiny_weights.base, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in tensors.items()}, other / "model.safetensors", metadata={"format": "pt"})
    (other / "card.json").unlink()
    adapter = adapter_of(project_folder)
    with pytest.raises(BaseModelError, match=r"was trained on 'random:tiny-llama' \(sha256 .* contains different weights"):
        Embedder.load(adapter, base=other)
    with pytest.raises(BaseModelError, match="is an adapted embedder"):
        Embedder.load(adapter, base=adapter)


def test_an_adapter_whose_weights_have_no_place_in_the_base_is_refused(project_folder):
    from safetensors.torch import load_file, save_file

    file = own_adapter_of(project_folder) / "adapter_model.safetensors"
    tensors = load_file(file)
    renamed = {name.replace("base_model.model.layers", "base_model.model.model.layers"): tensor for name, tensor in tensors.items()}
    save_file(renamed, file, metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match=r"does not fit LlamaModel: (\d+) of its \1 weights have no counterpart there"):
        Embedder.load(adapter_of(project_folder))


def test_an_adapter_of_which_a_layer_has_no_place_in_the_base_is_refused(project_folder, tiny_weights):
    from safetensors.torch import load_file, save_file

    adapter = own_adapter_of(project_folder)
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    more = {name.replace("layers.1", "layers.9"): tensor.clone() for name, tensor in tensors.items() if "layers.1." in name}
    save_file(tensors | more, file, metadata={"format": "pt"})
    said = rf"does not fit LlamaModel: {len(more)} of its {len(tensors) + len(more)} weights have no counterpart there, and 0 are missing"
    for base in (None, tiny_weights):
        with pytest.raises(BaseModelError, match=said + r" \(such as '.*layers\.9\."):
            Embedder.load(adapter, base=base)


def test_an_adapter_without_a_card_is_loaded_on_the_base_model_it_names(project_folder, tiny_weights, pipeline_vectors):
    adapter = own_adapter_of(project_folder)
    (adapter / "adapter_card.json").unlink()
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(tiny_weights.base)}))
    np.testing.assert_allclose(vectors_of(adapter, max_length=64), pipeline_vectors, atol=1e-5)
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    with pytest.raises(BaseModelError, match=r"an adapter that does not name its base; .* base=FOLDER"):
        Embedder.load(adapter)
    np.testing.assert_allclose(vectors_of(adapter, base=tiny_weights, max_length=64), pipeline_vectors, atol=1e-5)


def test_a_card_with_the_whole_strategy_is_followed(project_folder):
    from embedding_adaptation.embedder.storage import strategy_to_dict

    adapter = own_adapter_of(project_folder)
    strategy = Strategy("mine", OWN, "eos", normalise=False)
    card = json.loads((adapter / "adapter_card.json").read_text()) | {"strategy": strategy_to_dict(strategy)}
    (adapter / "adapter_card.json").write_text(json.dumps(card))
    assert Embedder.load(adapter, device="cpu").strategy == strategy
    weights = AdapterDataset(filepath=str(project_folder / "adapter"), base_model="base_model").read_directory(adapter)
    assert Embedder.load(weights, device="cpu").strategy == strategy


def without(name):
    return lambda values: {key: value for key, value in values.items() if key != name}


def test_a_folder_that_is_not_what_was_written_is_refused_with_the_way_out(project_folder, tmp_path, monkeypatch):
    adapter = adapter_of(project_folder)
    with (adapter / "adapter_config.json").open("a") as file:
        file.write("\n")
    said = r"adapter_config.json is damaged: it is not what was written; .*changed on purpose, remove .*/\.adapter\.xxh128\)$"
    (tmp_path / "link").symlink_to(adapter)
    for source in (adapter, tmp_path / "link"):
        with pytest.raises(BaseModelError, match=said):
            Embedder.load(source)
    monkeypatch.chdir(adapter)
    with pytest.raises(BaseModelError, match=said):
        Embedder.load(".")
    checksum_file(adapter).unlink()
    Embedder.load(".", device="cpu")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("adapter_card.json", None, r"adapter: adapter_card\.json is not valid JSON"),
        ("adapter_card.json", lambda card: [card], r"adapter: adapter_card\.json contains a list"),
        ("adapter_card.json", without("base"), r"adapter_card\.json lacks 'base'"),
        ("adapter_card.json", without("template"), r"adapter_card\.json lacks 'template'"),
        ("adapter_card.json", lambda card: card | {"base": {"sha256": "x"}}, r"adapter_card\.json lacks 'source'"),
        ("adapter_card.json", lambda card: card | {"base": "x"}, r"adapter_card\.json has unexpected contents"),
        ("adapter_card.json", lambda card: card | {"max_length": "long"}, r"adapter_card\.json has unexpected contents .*long"),
        (
            "adapter_card.json",
            lambda card: card | {"pooling": "best"},
            r"adapter_card\.json has unexpected contents .*unknown pooling 'best'; choose from",
        ),
        ("adapter_config.json", None, r"adapter: adapter_config\.json is not valid JSON"),
    ],
)
def test_a_damaged_adapter_is_named_in_one_sentence(project_folder, file, change, message):
    adapter = own_adapter_of(project_folder)
    damage(adapter / file, change)
    with pytest.raises(BaseModelError, match=message) as raised:
        Embedder.load(adapter)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, r"adapted_embedder: embedder\.json is not valid JSON"),
        (lambda settings: [settings], r"adapted_embedder: embedder\.json contains a list"),
        (without("strategy"), r"embedder\.json lacks 'strategy'"),
        (without("max_length"), r"embedder\.json lacks 'max_length'"),
        (without("tokenizer"), r"embedder\.json lacks 'tokenizer'"),
        (lambda settings: settings | {"strategy": None}, r"embedder\.json has unexpected contents"),
        (lambda settings: settings | {"max_length": "long"}, r"embedder\.json has unexpected contents"),
    ],
)
def test_damaged_settings_are_named_in_one_sentence(exported, change, message):
    checksum_file(exported).unlink()
    damage(exported / "embedder.json", change)
    with pytest.raises(BaseModelError, match=message) as raised:
        Embedder.load(exported)
    assert "\n" not in str(raised.value)


def damage(file, change):
    file.write_text("{" if change is None else json.dumps(change(json.loads(file.read_text()))))


@pytest.mark.parametrize("kind", ["saved", "exported"])
def test_weights_that_the_configuration_does_not_count_are_refused(tiny_embedder, tmp_path, kind):
    folder = tmp_path / "model"
    tiny_embedder.save(folder) if kind == "saved" else export_sentence_transformer(tiny_embedder, folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"num_hidden_layers": values["num_hidden_layers"] - 1}))
    with pytest.raises(BaseModelError, match=r"the weights contain 9 tensors that the configuration has no place for: layers\."):
        Embedder.load(folder)


def test_an_embedder_with_an_adapter_is_saved_merged_under_the_same_strategy(project_folder, pipeline_vectors, tmp_path):
    Embedder.load(adapter_of(project_folder), device="cpu", dtype="float32").save(tmp_path / "merged")
    np.testing.assert_allclose(vectors_of(tmp_path / "merged"), pipeline_vectors, atol=1e-5)


@pytest.mark.parametrize("depth", ["adapter", "adapter/2026-01-01T00.00.00.000Z"])
def test_a_folder_of_versions_names_the_model_below_it(project_folder, depth):
    with pytest.raises(
        BaseModelError, match=r"contains no model itself; give the newest one below it, '.*2026-01-01T00.00.00.000Z/adapter'"
    ):
        Embedder.load(project_folder / depth)


def test_an_embedder_knows_the_corpus_it_was_adapted_to_wherever_it_comes_from(
    tiny_adapted, tiny_weights, project_folder, exported, tmp_path, caplog
):
    corpus = CorpusIdentity("mine.txt", 9, clean="c" * 32, raw="a" * 32)
    with caplog.at_level("INFO"):
        adapted = Embedder.load(tiny_adapted, device="cpu", dtype="float32")
    assert "with its adapter, adapted to mine.txt (9 clean texts), on cpu" in caplog.text
    adapted.save(tmp_path / "saved")
    for source in (tmp_path / "saved", adapter_of(project_folder), exported):
        assert Embedder.load(source, device="cpu", dtype="float32").corpus == adapted.corpus == corpus
    assert Embedder.load(tiny_weights, device="cpu", dtype="float32").corpus is None
