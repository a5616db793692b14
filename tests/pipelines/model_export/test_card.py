from __future__ import annotations

import yaml
from huggingface_hub import ModelCard

from embedding_adaptation.pipelines.model_export.card import hub_licence, model_card


def test_the_front_matter_is_what_the_hub_reads(model_facts):
    card = ModelCard(model_card(model_facts))
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "sentence-transformers"
    assert card.data.pipeline_tag == "sentence-similarity"
    assert card.data.language == ["en"]
    scores = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert scores == {"v_measure": 0.61, "v_measure_unique": 0.6, "ami_unique": 0.3}
    assert "base_model" not in card.data.to_dict()


def test_a_base_model_of_the_hub_is_linked(model_facts):
    base = model_facts["base_model"] | {"hub_id": "Qwen/Qwen3-0.6B", "name": "Qwen/Qwen3-0.6B", "parameters": 596_049_920}
    text = model_card(model_facts | {"base_model": base})
    data = ModelCard(text).data
    assert (data.base_model, data.base_model_relation) == ("Qwen/Qwen3-0.6B", "finetune")
    assert "(https://huggingface.co/Qwen/Qwen3-0.6B)" in text
    assert "596 million parameters" in text


def test_the_card_says_what_data_options_scores_and_limits_there_are(model_facts):
    text = model_card(model_facts)
    assert "`mine.txt`: 12 texts, of which 9 were used" in text
    assert "| rewrite | 2 | my-llama |" in text
    assert "trained for 4 steps in 1.5 minutes; the weights are those of step 3." in text
    assert "| validation loss | 2.5000 | 1.2500 |" in text
    assert '"learning_rate": 0.0002' in text
    assert "| V-measure | 0.110 ± 0.010 | 0.510 ± 0.010 | 0.610 ± 0.010 |" in text
    for heading in ("Intended use", "How to use it", "Data", "Training", "Scores", "Limits", "Licence"):
        assert f"\n## {heading}\n" in text
    assert "Training pairs were generated with my-llama, whose terms may apply" in text


def test_no_text_and_no_path_is_in_the_card(model_facts):
    text = model_card(model_facts)
    assert "secret" not in text
    assert "/home" not in text


def test_a_model_that_was_not_scored_says_so(model_facts):
    text = model_card(model_facts | {"evaluation": None, "languages": []})
    assert "This version has not been evaluated on labelled texts." in text
    assert "it is not known whether adaptation improved it" in text
    assert "model-index" not in yaml.safe_load(text.split("---")[1])


def test_own_pairs_and_another_prompt_are_said(model_facts):
    data = model_facts["training"]["data"] | {"generators": {}}
    training = model_facts["training"] | {"corpus": None, "data": data, "history": {}, "cost": {}}
    strategy = model_facts["strategy"] | {"as_trained": False, "pooling": "mean", "normalise": False}
    text = model_card(model_facts | {"training": training, "strategy": strategy})
    assert "The user's own pairs" in text
    assert "with a different prompt or pooling" in text
    assert "unit length" not in text


def test_a_licence_the_hub_does_not_know_is_given_by_name(model_facts):
    assert [hub_licence(name) for name in ("Apache-2.0", "MIT", "llama3.2", "Own Terms 1")] == ["apache-2.0", "mit", "llama3.2", "other"]
    data = ModelCard(model_card(model_facts | {"licence": "Own Terms 1"})).data.to_dict()
    assert (data["license"], data["license_name"]) == ("other", "own-terms-1")
    assert "Unknown; find out" in model_card(model_facts | {"licence": "unknown"})


def test_the_card_says_which_versions_and_servers_read_the_folder(model_facts):
    text = model_card(model_facts)
    assert "(versions 4.1 to 6 give the same vectors)" in text
    assert "Before version 5.4, sentence-transformers strips white space from both ends" in text
    assert "text-embeddings-inference and vLLM find pooling, normalisation and length" in text
    strategy = model_facts["strategy"] | {"pooling": "max", "template": "{text} is"}
    text = model_card(model_facts | {"older_versions": False, "strategy": strategy})
    assert "(version 5.4 or later on transformers 5 is needed)" in text
    assert "Before version 5.4" not in text
    assert "do not support its pooling (`max`)" in text
    assert "leave empty texts out" in text


def test_the_card_says_which_loss_and_which_texts_it_learned_from(model_facts):
    training = model_facts["training"] | {"options": {"loss": "consensus", "consensus": {"texts": 2000}}}
    card = model_card(model_facts | {"training": training})
    assert "on which several prompts of the base model and the texts' words agree, trained for" in card
    assert "learned from at most 2,000 of these texts as they are. Besides, there were" in card
    assert "InfoNCE" in model_card(model_facts | {"training": training | {"options": {"loss": "info_nce"}}})


def test_a_head_is_in_the_card(model_facts):
    card = model_card(model_facts | {"strategy": model_facts["strategy"] | {"after": "distil"}})
    assert "The vectors end with a linear map (a Dense module, distil)." in card
