"""A tiny Llama with random weights, generated on the fly: the whole project runs on it in seconds, without downloads."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

if TYPE_CHECKING:
    from pathlib import Path

_WORDS = (
    "the and for you that with this have from they will about there when what your which their time people into just know take good some "
    "could them other than then now look only come over think also back after work first well even want because these give most us "
    "message sentence means word text rewrite short simple library bus water street school house garden street council letter please"
)
_START, _END = "<s>", "</s>"
_CHAT_TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}\n{{ message['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def write_tiny_llama(folder: Path, *, seed: int = 0, hidden_size: int = 32, layers: int = 3) -> None:
    """Write a random Llama of about 40,000 parameters, with tokenizer and chat template.

    Args:
        folder: An existing folder.
        seed: Seed of the weights.
        hidden_size: Width of the hidden states; a multiple of four.
        layers: Number of layers.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[_START, _END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_WORDS, string.printable], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=_START, eos_token=_END, pad_token=_END)
    fast.chat_template = _CHAT_TEMPLATE
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
