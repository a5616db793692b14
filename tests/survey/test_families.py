"""Every family through the whole chain: convert, embed, train, export, reload; or a refusal by name.

What docs/explanation/models.md says of a family is what is checked. ``make survey`` runs all of them, the ordinary tests those
of ``USUAL``.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from embedding_adaptation.embedder.base_model import BaseModelError, check_source, convert
from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.embedder.export import export_sentence_transformer
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import PromptTemplate
from embedding_adaptation.embedder.weights import DecoderWeights
from survey.families import MULTIMODAL, write_family

DOCUMENT = Path(__file__).parents[2] / "docs" / "explanation" / "models.md"
USUAL = ("bloom", "deepseek_v3", "gemma3", "gpt2", "gpt_oss", "llama4_text", "mistral", "mixtral", "qwen2_5_vl", "qwen3_5_text")
# Those people meet; "make survey" runs them in a few minutes, the rare ones take as long again.
COMMON = (
    *USUAL, "apertus", "arcee", "bamba", "biogpt", "codegen", "cohere", "cohere2", "deepseek_v2", "dots1", "ernie4_5", "exaone4", "falcon",
    "gemma", "gemma2", "gemma3_text", "glm", "glm4", "gpt_neo", "gpt_neox", "gptj", "granite", "granitemoe", "granitemoehybrid", "helium",
    "hunyuan_v1_dense", "internlm3", "lfm2", "llama", "llava", "minimax", "mistral3", "mpt", "nemotron", "olmo", "olmo2", "olmoe", "opt",
    "persimmon", "phi", "phi3", "qwen2", "qwen2_moe", "qwen2_vl", "qwen3", "qwen3_moe", "qwen3_next", "qwen3_vl", "seed_oss", "smollm3",
    "stablelm", "starcoder2", "xglm",
)  # fmt: skip
ONE_WORD = PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "')
BARE = PromptTemplate("bare", "{text}")
# Longer than any window or chunk here, and of other lengths; the empty one is not exported alike under a template that begins with it.
TEXTS = ["the bus is late", "please give back the book " * 4, "water " * 40, "bus"]
STRATEGIES = (
    Strategy("last", ONE_WORD, "last"),
    Strategy("mean", ONE_WORD, "mean", (2,)),
    Strategy("text_mean", BARE, "text_mean"),
    Strategy("weighted", BARE, "weighted_mean", (1, -1)),
)


def documented() -> dict[str, str]:
    """How a family is computed, by its name, as the documentation's tables say."""
    rows = re.findall(r"^\| `([\w.-]+)` \| (packed|one by one|refused)\b", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == len(dict(rows)), "a family stands twice in docs/explanation/models.md"
    return dict(rows)


def families(*ways):
    def marks(name):
        beyond = [] if name in USUAL else [pytest.mark.survey]
        return [pytest.mark.slow, *beyond, *([] if name in COMMON else [pytest.mark.rare])]

    return [pytest.param(name, way, marks=marks(name)) for name, way in documented().items() if way in ways]


def by_hand(decoder, tokenizer, strategy, max_length) -> np.ndarray:
    """Vectors from one pass of transformers a text, ``[N, D]``."""
    vectors = []
    for prompt in strategy.templates[0].tokenize(TEXTS, tokenizer, max_length):
        with torch.no_grad():
            output = decoder(input_ids=torch.tensor([prompt.ids]), output_hidden_states=True, use_cache=False)
        states = [output.last_hidden_state if layer == -1 else output.hidden_states[layer] for layer in strategy.layers]
        hidden = torch.stack(states).mean(dim=0)[0].float()  # [T, D]
        text = slice(prompt.text_start, prompt.text_end)
        places = torch.arange(1, len(hidden) + 1, dtype=torch.float32)[:, None]  # [T, 1]
        pooled = {
            "last": lambda h=hidden: h[-1],
            "mean": lambda h=hidden: h.mean(dim=0),
            "text_mean": lambda h=hidden, t=text: h[t].mean(dim=0),
            "weighted_mean": lambda h=hidden, p=places: (h * p).sum(dim=0) / p.sum(),
        }[strategy.pooling]()
        vectors.append(torch.nn.functional.normalize(pooled, dim=0))
    return torch.stack(vectors).numpy()


def loss_of(vectors: torch.Tensor) -> torch.Tensor:
    target = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1))
    return (torch.nn.functional.normalize(vectors.float(), dim=-1) * target).sum()


def gradients(backbone):
    found = {name: weight.grad.clone() for name, weight in backbone.named_parameters() if weight.grad is not None}
    backbone.zero_grad()
    return found


def check_training_step(embedder: Embedder) -> None:
    """One backward of the project's pass against one text at a time through transformers' own; leaves the adapter changed."""
    from embedding_adaptation.pipelines.contrastive_finetuning.lora import add_adapter
    from embedding_adaptation.pipelines.contrastive_finetuning.options import LoraOptions
    from embedding_adaptation.pipelines.contrastive_finetuning.setup import training_pass_of

    with torch.random.fork_rng():
        torch.manual_seed(0)
        first_layer = add_adapter(embedder, LoraOptions(rank=2, layers="upper_half"))
        with torch.no_grad():
            for name, weight in embedder.backbone.named_parameters():
                if "lora_B" in name and weight.requires_grad:
                    weight.normal_(std=0.05)
    strategy = STRATEGIES[0]
    training = training_pass_of(embedder, strategy, first_layer)
    rows = [training.row(ids[: training.frame.room]) for ids in ONE_WORD.text_ids(TEXTS, embedder.tokenizer)]
    embedder.backbone.train()
    with training.training():
        loss_of(training.embed(rows)).backward()
    ours = gradients(embedder.backbone)
    prompts = ONE_WORD.tokenize(TEXTS, embedder.tokenizer, embedder.max_length)
    alone = [embedder.backbone(input_ids=torch.tensor([prompt.ids]), use_cache=False).last_hidden_state[0, -1] for prompt in prompts]
    loss_of(torch.stack(alone)).backward()
    theirs = gradients(embedder.backbone)
    embedder.backbone.eval()
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    assert largest > 1e-4
    for name, gradient in ours.items():
        assert torch.isfinite(gradient).all(), name
        expected = theirs.pop(name, torch.zeros_like(gradient))
        torch.testing.assert_close(
            gradient, expected, atol=1e-4 * max(largest, 1.0), rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert not any(gradient.any() for gradient in theirs.values())  # an expert that no token went to may have none or zeros
    with torch.no_grad():
        for name, weight in embedder.backbone.named_parameters():
            if name in ours:
                weight.sub_(0.1 * ours[name] / largest)
    embedder._packs = None


def check_export(embedder: Embedder, folder: Path) -> None:
    """The exported folder in plain sentence-transformers gives the embedder's vectors, also of a batch of unequal lengths."""
    from sentence_transformers import SentenceTransformer

    strategy = STRATEGIES[0]
    expected = embedder.encode(TEXTS, strategy, progress=False)
    export_sentence_transformer(embedder, folder, strategy)
    plain = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": "float32"})
    np.testing.assert_allclose(plain.encode(TEXTS, batch_size=len(TEXTS), show_progress_bar=False), expected, atol=1e-4)


@pytest.mark.parametrize(("name", "way"), families("packed", "one by one"))
def test_a_family_is_converted_embedded_trained_and_exported(name, way, tiny_embedder, tmp_path):
    source, target = tmp_path / "source", tmp_path / "converted"
    source.mkdir()
    target.mkdir()
    reference = write_family(name, source, tiny_embedder.tokenizer)
    card = convert(check_source(str(source)), target)
    embedder = Embedder.load(DecoderWeights(target, card), device="cpu", dtype="float32", max_length=64)
    assert embedder.can_pack() == (way == "packed")
    vectors = embedder.encode_strategies(TEXTS, STRATEGIES, progress=False)
    for strategy in STRATEGIES:
        expected = by_hand(reference, embedder.tokenizer, strategy, embedder.max_length)
        np.testing.assert_allclose(vectors[strategy.name], expected, atol=1e-5, err_msg=strategy.name)
    check_training_step(embedder)
    check_export(embedder, tmp_path / "exported")


@pytest.mark.parametrize("name", [name for name, way in documented().items() if way == "refused"])
def test_a_family_that_cannot_be_computed_is_refused_by_name(name, tiny_weights, tmp_path):
    import json
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny_weights.base, folder)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": name}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BaseModelError, match=f"^base_model '.*': '{re.escape(name)}' .*; give a decoder-only language model") as caught:
        check_source(str(folder))
    assert "\n" not in str(caught.value)


def test_the_documentation_says_of_every_family_how_it_is_computed():
    from transformers.models.auto import modeling_auto

    known = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() - modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.keys()
    unsurveyed = set(re.findall(r"`([\w.-]+)`", DOCUMENT.read_text(encoding="utf-8").partition("## Not surveyed")[2]))
    assert not unsurveyed & documented().keys()
    assert known <= documented().keys() | unsurveyed
    assert len([way for way in documented().values() if way != "refused"]) >= 40
    assert documented().keys() >= MULTIMODAL.keys()
