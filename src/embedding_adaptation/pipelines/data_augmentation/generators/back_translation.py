"""Translate texts into another language and back (Sennrich et al. 2016, arXiv 1511.06709) with two sequence-to-sequence models."""

from __future__ import annotations

import importlib.util
import itertools
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.models.auto import modeling_auto

from embedding_adaptation.embedder.batching import token_budget_batches
from embedding_adaptation.embedder.device import choose_device, choose_dtype
from embedding_adaptation.paths import project_path
from embedding_adaptation.pipelines.data_augmentation.generators.request import Candidate, Context, GenerationError, Generator, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from embedding_adaptation.options import EmbedderOptions
    from embedding_adaptation.pipelines.data_augmentation.options import BackTranslationOptions

logger = logging.getLogger(__name__)

_SETTING = "data_augmentation.generators.back_translation"
# Texts translated before any is translated back: enough to fill each batch with texts of similar length.
_WINDOW = 256
_SENTENCEPIECE_FILES = ("*.spm", "*.model")


def generate(requests: Iterable[Request], options: BackTranslationOptions, context: Context) -> Iterator[Candidate]:
    """Translate texts into another language and back.

    Beam search is deterministic, so each text has one translation; further turns (from a weight above 1) are left out. Padding is masked,
    so a translation does not depend on its batch, except for rounding: in bfloat16, the choice between two almost equally likely tokens
    may.

    Args:
        requests: Texts.
        options: Models and search.
        context: Device and number format.

    Yields:
        Candidates in the order of the requests, in windows of 256 texts. A text too long for a model is cut; ``finished`` means that
        nothing was cut and both translations are complete.

    Raises:
        GenerationError: If a model cannot be loaded; the message says why and what to do.
    """
    stream = _first_turns(requests)
    window = list(itertools.islice(stream, _WINDOW))
    if not window:
        return
    check(options, context)
    there, back = load_translators(options, context.embedder_options)
    with tqdm(unit="text", desc="back-translate", disable=not context.progress) as bar:
        while window:
            bar.set_postfix_str("there")
            foreign = there.translate([request.source_text for request in window])
            bar.set_postfix_str("back")
            translated_back = back.translate([translation.text for translation in foreign], bar.update)
            for request, first, second in zip(window, foreign, translated_back, strict=True):
                yield Candidate.answering(request, second.text, finished=first.finished and second.finished)
            window = list(itertools.islice(stream, _WINDOW))


def check(options: BackTranslationOptions, context: Context) -> None:  # noqa: ARG001  interface of all generators
    """Check, before anything is loaded, that local models exist and that the package for their tokenizers is installed.

    Raises:
        GenerationError: If not.
    """
    for setting in ("there", "back"):
        name = getattr(options, setting)
        path = project_path(name)
        if not path.exists():
            if name.startswith((".", "~", "/", os.sep)):
                msg = f"{_SETTING}.{setting} {name!r} does not exist; correct the path (a relative one starts at the project's root)"
                raise GenerationError(msg)
            continue  # a name on the Hub
        if not (path / "config.json").is_file():
            msg = f"{_SETTING}.{setting} {name!r} has no config.json; give a folder written by transformers' save_pretrained"
            raise GenerationError(msg)
        if _lacks_sentencepiece(path):
            raise GenerationError(_no_sentencepiece(f"{_SETTING}.{setting} {name!r}"))


@dataclass(frozen=True, slots=True)
class Translation:
    """A translation, and whether the whole text was read and translated to the end."""

    text: str
    finished: bool


class Translator:
    """A sequence-to-sequence model with its tokenizer.

    Args:
        model: The model, on its device.
        tokenizer: Its tokenizer.
        prefix: Words that the model expects before a text.
        beams: Number of beams.
        max_new_tokens: Longest translation in tokens.
        batch_tokens: Tokens per batch of texts, padding included.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        prefix: str = "",
        beams: int = 1,
        max_new_tokens: int = 128,
        batch_tokens: int = 2048,
    ) -> None:
        positions = getattr(model.config, "max_position_embeddings", None)
        ends = model.generation_config.eos_token_id
        self._model = model
        self._tokenizer = tokenizer
        self._prefix = f"{prefix.strip()} " if prefix.strip() else ""
        self._longest = min(tokenizer.model_max_length, positions or tokenizer.model_max_length)
        self._ends = [end for end in (ends if isinstance(ends, list) else [ends]) if end is not None]
        self._batch_tokens = batch_tokens
        self._search = {
            "num_beams": beams,
            "do_sample": False,
            "num_return_sequences": 1,
            "return_dict_in_generate": False,
            # The start token takes up a position, too.
            "max_new_tokens": min(max_new_tokens, positions - 1) if positions else max_new_tokens,
        }

    def translate(self, texts: Sequence[str], progress: Callable[[int], Any] = lambda _: None) -> list[Translation]:
        """Translate texts, batching those of similar length.

        Args:
            texts: Texts; an empty one stays empty.
            progress: Called with the number of texts in each finished batch.

        Returns:
            Their translations, in order.
        """
        rows, cut = self._token_ids(texts)
        translations = [Translation("", finished=True) for _ in texts]
        nonempty = [index for index, text in enumerate(texts) if text.strip() and rows[index]]
        progress(len(texts) - len(nonempty))
        for batch in token_budget_batches([len(rows[index]) for index in nonempty], self._batch_tokens):
            indices = [nonempty[position] for position in batch]
            for index, (text, ended) in zip(indices, self._generate([rows[index] for index in indices]), strict=True):
                translations[index] = Translation(text, ended and not cut[index])
            progress(len(indices))
        return translations

    def _token_ids(self, texts: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        """Token ids of each text, and whether it had to be cut."""
        prefixed = [self._prefix + text for text in texts]
        rows = self._tokenizer(prefixed, verbose=False)["input_ids"]
        cut = [len(row) > self._longest for row in rows]
        for index, too_long in enumerate(cut):
            if too_long:
                rows[index] = self._tokenizer(prefixed[index], truncation=True, max_length=self._longest)["input_ids"]
        return rows, cut

    def _generate(self, rows: Sequence[Sequence[int]]) -> list[tuple[str, bool]]:
        """Translations of one batch, and whether each is complete."""
        longest = max(map(len, rows))
        padding = self._tokenizer.pad_token_id or 0
        ids = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows])  # [B, T]
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])  # [B, T]
        device = self._model.device
        with torch.inference_mode():
            outputs = self._model.generate(input_ids=ids.to(device), attention_mask=mask.to(device), **self._search)  # [B, T']
        # The first token is left out: some models start with their end token.
        ended = torch.isin(outputs[:, 1:], torch.tensor(self._ends, dtype=torch.long, device=device)).any(dim=1)  # [B]
        texts = self._tokenizer.batch_decode(outputs.cpu(), skip_special_tokens=True)
        return [(text.strip(), end) for text, end in zip(texts, ended.tolist(), strict=True)]


def load_translators(options: BackTranslationOptions, embedder_options: EmbedderOptions) -> tuple[Translator, Translator]:
    """Load both translators; if both settings name the same model, it is loaded once.

    Raises:
        GenerationError: If a model cannot be loaded; the message names it and says what to do.
    """
    names = {"there": options.there, "back": options.back}
    loaded: dict[str, tuple[PreTrainedModel, PreTrainedTokenizerBase]] = {}
    for setting, name in names.items():
        if name not in loaded:
            loaded[name] = _load(name, f"{_SETTING}.{setting} {name!r}", embedder_options)
    search = {"beams": options.beams, "max_new_tokens": options.max_new_tokens, "batch_tokens": options.batch_tokens}
    return (
        Translator(*loaded[options.there], prefix=options.there_prefix, **search),
        Translator(*loaded[options.back], prefix=options.back_prefix, **search),
    )


def _first_turns(requests: Iterable[Request]) -> Iterator[Request]:
    warned = False
    for request in requests:
        if request.turn == 0:
            yield request
        elif not warned:
            logger.warning("back_translation makes only one candidate per text; a weight above 1 adds none")
            warned = True


def _load(name: str, title: str, options: EmbedderOptions) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    path = project_path(name)
    source: dict[str, Any] = {"pretrained_model_name_or_path": str(path) if path.exists() else name, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(**source)
    except OSError as error:
        msg = (
            f"{title} is neither a folder nor a model on the Hugging Face Hub that you can access ({_first_line(error)}); connect to the "
            "network, correct the name, or give the folder of a local model"
        )
        raise GenerationError(msg) from error
    except ValueError as error:
        msg = f"{title} is not a model that transformers can read ({_first_line(error)}); choose another"
        raise GenerationError(msg) from error
    if config.model_type not in modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        msg = f"{title} is a {config.model_type!r} model, which cannot translate; give a sequence-to-sequence model such as Marian or T5"
        raise GenerationError(msg)
    try:
        tokenizer = AutoTokenizer.from_pretrained(**source)
    except (ImportError, OSError, ValueError) as error:
        if _lacks_sentencepiece(path):
            raise GenerationError(_no_sentencepiece(title)) from error
        msg = f"{title} has no tokenizer that transformers can read ({_first_line(error)}); save the model's tokenizer with it"
        raise GenerationError(msg) from error
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device)
    try:
        model = AutoModelForSeq2SeqLM.from_pretrained(**source, dtype=dtype, use_safetensors=True)
    except (OSError, SafetensorError) as error:
        msg = (
            f"{title} has no readable safetensors weights ({_first_line(error)}); convert them with save_pretrained, or choose another "
            "model (pickled .bin files are not read because they can run code)"
        )
        raise GenerationError(msg) from error
    generation = model.generation_config
    generation.max_length = None
    # Some checkpoints force an end token at the length limit, which would pass for a complete translation.
    generation.forced_eos_token_id = None
    return model.to(device).eval(), tokenizer


def _lacks_sentencepiece(folder: Path) -> bool:
    """Whether an unreadable tokenizer probably needs sentencepiece; for a model on the Hub this is assumed, because most do."""
    if importlib.util.find_spec("sentencepiece") is not None:
        return False
    if not folder.exists():
        return True
    return not (folder / "tokenizer.json").exists() and any(any(folder.glob(files)) for files in _SENTENCEPIECE_FILES)


def _no_sentencepiece(title: str) -> str:
    return f"{title}: its tokenizer needs the package sentencepiece; install it with 'pip install sentencepiece'"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _provenance(options: BackTranslationOptions, context: Context) -> tuple[str, str]:  # noqa: ARG001  interface of all generators
    return f"{options.there} + {options.back}", ""


# A second turn would repeat the first, because beam search does not sample.
GENERATOR = Generator(generate, repeatable=False, is_written=True, check=check, provenance=_provenance)
