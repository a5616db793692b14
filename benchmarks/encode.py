"""Encoding the same texts in one process: the published way, sentence-transformers and this project.

Usage::

    python benchmarks/encode.py --texts data/01_raw/hard_labelled_texts.csv --limit 200
    python benchmarks/encode.py --texts FILE [--column text] [--limit N] [--dtype auto|float32|bfloat16|int8] [--device auto|cpu|cuda|mps]
                                [--model SETTING_OR_FOLDER | --random-shape qwen3-0.6b] [--repeats 3] [--max-length 256]
                                [--int8-python PYTHON] [--int8 weights|static]

All sides get the same texts (the first N rows after a shuffle with a fixed seed) under the same prompt and take the last token's vector:

- the published way: ``AutoModelForCausalLM`` with logits and all hidden states, batches of 16 in input order, padded to the longest, once
  in the model's own number format (float32 on a CPU) and once in this project's;
- sentence-transformers' ``encode``: sorted by characters, last-token pooling, normalisation, in this project's format and in float32;
- sentence-transformers with its OpenVINO back end in 8 bits, if PYTHON has ``sentence-transformers[openvino]``: a process of its own,
  because optimum-intel needs an older transformers than this project. ``weights``: 8-bit weights, inputs quantised as they come;
  ``static``: inputs quantised ahead, by sentence-transformers' own helper on the warm-up texts;
- llama.cpp on the same GGUF file, if ``llama-cpp-python`` is installed: several texts a batch, pooling ``last``;
- this project's embedder, and once more in float32 if it runs in another format.

Of the other libraries each takes the batch size that is fastest on the warm-up texts. A side that is not installed is said to be left out,
and its figures are null.

With int8, the other sides run in float32, which is what lies between this project's 8-bit products. ``lowest_cosine_float32`` compares all
texts' vectors with this project's own in float32.

Tokenisation is timed, loading is not. After an unmeasured warm-up the sides take turns, so that a neighbour's load meets all of them;
medians are compared. Ratios above 1 say how many times as fast this project is.

``model_flop_utilisation`` is 2 FLOP x parameters (embeddings aside) x tokens of the prompted texts a second, over the rate of bare matrix
products in the shapes of one of the model's layers, measured after each turn. Attention's own products are left out. The tokens are those
a plain encoder has to compute: repeated texts, and a prompt's beginning that is computed once, let the value exceed what the processor
really did; ``model_flop_utilisation_computed`` takes the tokens that were computed, where the embedder counts them.

Vectors are compared where both ways of tokenising give the same ids; they differ where a text merges with the prompt's words around it or
is cut. A table and, as the last line, one JSON object go to stdout, progress to stderr.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _sides import Int8Side, MissingSideError, gguf_of, llama_cpp
from _workload import ONE_WORD, PROJECT, default_weights, report, weights_of
from kedro.io.core import DatasetError

from embedding_adaptation import Embedder, Strategy
from embedding_adaptation.datasets.texts import TextsDataset
from embedding_adaptation.embedder.device import DeviceError, FormatName, choose_device, choose_dtype, choose_format
from embedding_adaptation.embedder.template import SLOT, TemplateError
from embedding_adaptation.embedder.weights import DecoderWeights, ModelCard

SEED = 0
WARM_UP_TEXTS = 64
PUBLISHED_BATCH = 16
MATRIX_SECONDS, MATRIX_WINDOWS = 0.3, 6
# Rows of the bare matrix products: the tokens of a batch that suits the device.
MATRIX_ROWS = {"cpu": 1024, "cuda": 16384, "mps": 4096}
OWN, SAME, LIBRARY, OURS = "published_own_dtype", "published_same_dtype", "sentence_transformers", "embedding_adaptation"
LIBRARY_FLOAT32, OURS_FLOAT32 = "sentence_transformers_float32", "embedding_adaptation_float32"
LIBRARY_INT8, LLAMA = "sentence_transformers_int8", "llama_cpp"
LIBRARY_BATCHES = (8, 16, 32, 64)

Encode = Callable[[list[str]], np.ndarray]


def load_causal(weights: DecoderWeights, device: str, dtype: torch.dtype | str) -> Any:
    """The model with its vocabulary head."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(weights.base, dtype=dtype).to(device).eval()


def published(model: Any, weights: DecoderWeights, max_length: int) -> Encode:
    """The published way: logits and all hidden states, batches in input order."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(weights.base, padding_side="right")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    def encode(texts: list[str]) -> np.ndarray:
        prompted, vectors = prompt(texts), []
        for start in range(0, len(prompted), PUBLISHED_BATCH):
            batch = tokenizer(
                prompted[start : start + PUBLISHED_BATCH], padding=True, truncation=True, max_length=max_length, return_tensors="pt"
            ).to(model.device)
            with torch.no_grad():
                output = model(**batch, output_hidden_states=True)
            last = batch["attention_mask"].sum(dim=1) - 1  # [B]
            hidden = output.hidden_states[-1]  # [B, T, D]
            pooled = hidden[torch.arange(len(last), device=last.device), last].float()  # [B, D]
            vectors.append(torch.nn.functional.normalize(pooled, dim=-1).cpu())
        return torch.cat(vectors).numpy()  # [N, D]

    return encode


def sentence_transformers(weights: DecoderWeights, device: str, dtype: torch.dtype, max_length: int, warm_up: list[str]) -> Encode:
    """sentence-transformers with its own modules, in the batch size that is fastest on the warm-up texts."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    transformer = Transformer(
        str(weights.base),
        model_kwargs={"dtype": dtype},
        processor_kwargs={"model_max_length": max_length, "padding_side": "right"},
        # Named, because where the tokenizer has a chat template, it would be put around every text.
        modality_config={"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        module_output_name="token_embeddings",
    )
    transformer.tokenizer.pad_token = transformer.tokenizer.pad_token or transformer.tokenizer.eos_token
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="lasttoken")
    model = SentenceTransformer(modules=[transformer, pooling, Normalize()], device=device)
    seconds = {}
    for size in LIBRARY_BATCHES:
        model.encode(prompt(warm_up[:size]), batch_size=size, show_progress_bar=False)
        seconds[size], _ = timed(lambda size=size: model.encode(prompt(warm_up), batch_size=size, show_progress_bar=False), device)
    best = min(seconds, key=lambda size: seconds[size])
    say(f"sentence-transformers in {dtype_name(dtype)}: batches of {best}")
    return lambda texts: model.encode(prompt(texts), batch_size=best, show_progress_bar=False).astype(np.float32, copy=False)  # [N, D]


def optional_sides(
    arguments: argparse.Namespace, weights: DecoderWeights, device: str, threads: int, warm_up: list[str], scratch: Path
) -> tuple[dict[str, Encode], dict[str, Any]]:
    """The sides whose packages are installed, and their settings; on a CPU only."""
    sides: dict[str, Encode] = {}
    settings: dict[str, Any] = {}
    if device != "cpu":
        return sides, settings
    prompted = prompt(warm_up)
    try:
        llama_encode, settings[LLAMA] = llama_cpp(gguf_of(weights, PROJECT), threads, arguments.max_length, prompted)
        sides[LLAMA] = lambda texts: llama_encode(prompt(texts))
    except MissingSideError as missing:
        say(str(missing))
    try:
        int8 = Int8Side(arguments.int8_python, weights, arguments.max_length, threads, arguments.int8, scratch, prompted)
        settings[LIBRARY_INT8] = int8.settings
        sides[LIBRARY_INT8] = lambda texts: int8(prompt(texts))
    except MissingSideError as missing:
        say(str(missing))
    for name, chosen in settings.items():
        say(f"{name}: {chosen}")
    return sides, settings


def embedding_adaptation(embedder: Embedder, computed: list[int]) -> Encode:
    """This project; each call adds the tokens it computed to a list, where the embedder counts them."""
    strategy = Strategy("prompted", ONE_WORD, "last")

    def encode(texts: list[str]) -> np.ndarray:
        before = getattr(embedder, "tokens_computed", None)
        vectors = embedder.encode_strategies(texts, [strategy], progress=False)[strategy.name]  # [N, D]
        if before is not None:
            computed.append(embedder.tokens_computed - before)
        return vectors

    return encode


def prompt(texts: list[str]) -> list[str]:
    """The texts as prompted strings."""
    return [ONE_WORD.pattern.replace(SLOT, text) for text in texts]


def timed(work: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Wall time of a piece of work, including the device's, and its result."""
    synchronise(device)
    start = time.perf_counter()
    result = work()
    synchronise(device)
    return time.perf_counter() - start, result


def synchronise(device: str) -> None:
    """Wait until the device has finished all its work."""
    if device != "cpu":
        torch.accelerator.synchronize()


def layer_shapes(model: Any) -> Counter[tuple[int, int]]:
    """The matrices of one decoder layer, (out, in), and how often each shape occurs."""
    layers = next(module for module in model.base_model.modules() if isinstance(module, torch.nn.ModuleList))
    return Counter(tuple(p.shape) for p in layers[0].parameters() if p.ndim == 2)  # noqa: PLR2004  a matrix


def matrix_flops(shapes: Counter[tuple[int, int]], device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a layer's bare matrix products, each shape at the best it reached in several short windows."""
    rows, seconds, flop = MATRIX_ROWS[device], 0.0, 0.0
    for (width_out, width_in), count in shapes.items():
        inputs = torch.randn(rows, width_in, device=device).to(dtype)  # [M, in]
        matrix = torch.randn(width_out, width_in, device=device).to(dtype)  # [out, in]
        with torch.inference_mode():
            best = best_seconds(lambda x=inputs, w=matrix: torch.nn.functional.linear(x, w), device)
        seconds += count * best
        flop += count * 2 * rows * width_in * width_out
    return flop / seconds


def best_seconds(work: Callable[[], object], device: str) -> float:
    """Seconds of one call in the fastest of several windows."""
    work()
    once, _ = timed(work, device)
    calls = max(1, round(MATRIX_SECONDS / MATRIX_WINDOWS / once))
    return min(timed(lambda: [work() for _ in range(calls)], device)[0] / calls for _ in range(MATRIX_WINDOWS))


def agreement(ours: np.ndarray, others: np.ndarray, same_ids: np.ndarray) -> tuple[float | None, float | None]:
    """Lowest cosine and first percentile over the texts with the same ids."""
    if not same_ids.any():
        return None, None
    left, right = ours[same_ids].astype(np.float64), others[same_ids].astype(np.float64)  # [S, D]
    cosines = (left * right).sum(axis=1) / (np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1))  # [S]
    return round(float(cosines.min()), 6), round(float(np.quantile(cosines, 0.01)), 6)


def token_ids(texts: list[str], weights: DecoderWeights, max_length: int) -> tuple[list[int], np.ndarray]:
    """Length of each prompted text in tokens, and whether the prompted string as a whole has the same ids."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(weights.base)
    prompts = ONE_WORD.tokenize(texts, tokenizer, max_length)
    whole = tokenizer(prompt(texts), truncation=True, max_length=max_length)["input_ids"]
    same = np.array([list(ours.ids) == list(theirs) for ours, theirs in zip(prompts, whole, strict=True)])  # [N]
    return [len(one) for one in prompts], same


def write_qwen3(folder: Path) -> DecoderWeights:
    """Random weights in the shape of Qwen3-0.6B, in its published format, with the default base model's tokenizer.

    Reference: https://huggingface.co/Qwen/Qwen3-0.6B/blob/main/config.json
    """
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(default_weights().base)
    config = Qwen3Config(
        vocab_size=151936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40960,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(SEED)
    model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    card = ModelCard("random weights, Qwen3-0.6B's shape", "", "", config.model_type, model.num_parameters(), "Apache-2.0", "")
    return DecoderWeights(folder, card)


class InputError(ValueError):
    """Texts that cannot be read."""


RANDOM_SHAPES = {"qwen3-0.6b": write_qwen3}


def parse_arguments() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The parser (for its errors) and the parsed arguments."""

    def positive(value: str) -> int:
        if not value.isdecimal() or int(value) < 1:
            msg = f"{value!r} is no whole number of 1 or more"
            raise argparse.ArgumentTypeError(msg)
        return int(value)

    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--texts", required=True, metavar="FILE", help=".txt (one a line), .csv, .tsv, .jsonl or .parquet")
    parser.add_argument("--column", default="text", help="column of the texts (default: text)")
    parser.add_argument("--limit", type=positive, metavar="N", help="number of texts (default: all)")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "int8"), help="this project's number format")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    models = parser.add_mutually_exclusive_group()
    models.add_argument("--model", metavar="SETTING_OR_FOLDER", help="a base model as in conf/base/globals.yml (default: the one there)")
    models.add_argument("--random-shape", choices=tuple(RANDOM_SHAPES), help="random weights in the shape of a published model")
    parser.add_argument("--repeats", type=positive, default=3, help="runs of each side (default: 3)")
    parser.add_argument(
        "--int8-python",
        default=os.environ.get("INT8_PYTHON", sys.executable),
        metavar="PYTHON",
        help="interpreter that has sentence-transformers[openvino] (default: $INT8_PYTHON, or else this one)",
    )
    parser.add_argument("--int8", default="weights", choices=("weights", "static"), help="how that side is quantised (default: weights)")
    parser.add_argument("--max-length", type=positive, default=256, help="longest sequence in tokens, prompt included (default: 256)")
    return parser, parser.parse_args()


def read_texts(arguments: argparse.Namespace) -> list[str]:
    """The texts, shuffled.

    Raises:
        InputError: If they cannot be read; the message says why.
    """
    try:
        frame = TextsDataset(filepath=arguments.texts, text_column=arguments.column).load()
    except DatasetError as error:
        # What follows the semicolon is advice on the catalog.
        msg = f"{str(error).partition(';')[0]}; correct --texts or --column"
        raise InputError(msg) from error
    return frame["text"].sample(frac=1, random_state=SEED).head(arguments.limit or len(frame)).tolist()


def say(message: str) -> None:
    """Report progress."""
    print(message, file=sys.stderr, flush=True)


def main() -> None:
    """Read the arguments and measure."""
    from transformers.utils import logging as transformers_logging

    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    transformers_logging.disable_progress_bar()
    parser, arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="encode-") as scratch:
        try:
            texts = read_texts(arguments)
            device = choose_device(arguments.device)
            if arguments.random_shape:
                weights = RANDOM_SHAPES[arguments.random_shape](Path(scratch))
            else:
                weights = weights_of(arguments.model, Path(scratch)) if arguments.model else default_weights()
            measure(arguments, texts, weights, device, choose_format(arguments.dtype, device), Path(scratch))
        except (InputError, DatasetError, DeviceError, TemplateError) as error:
            parser.error(str(error))


def measure(
    arguments: argparse.Namespace, texts: list[str], weights: DecoderWeights, device: str, number_format: FormatName, scratch: Path
) -> None:
    """Load the sides, run them in turn, and print the table and the JSON line."""
    max_length, threads = arguments.max_length, torch.get_num_threads()
    dtype = choose_dtype(number_format, device)
    lengths, same_ids = token_ids(texts, weights, max_length)
    tokens = sum(lengths)
    place = f"{weights.card.source}, {device}, {threads} threads"
    say(f"{len(texts)} texts, {tokens} tokens with the prompt, {place}")
    say("loading each side's model")
    causal = load_causal(weights, device, torch.float32 if device == "cpu" else "auto")
    sides = {OWN: published(causal, weights, max_length)}
    if causal.dtype != dtype:
        sides[SAME] = published(load_causal(weights, device, dtype), weights, max_length)
    warm_up = texts[:WARM_UP_TEXTS]
    sides[LIBRARY] = sentence_transformers(weights, device, dtype, max_length, warm_up)
    if dtype != torch.float32:
        sides[LIBRARY_FLOAT32] = sentence_transformers(weights, device, torch.float32, max_length, warm_up)
    others, settings = optional_sides(arguments, weights, device, threads, warm_up, scratch)
    sides |= others
    # Format of the request, not of the measurement above: auto falls back to float32 if the model's vectors do not keep in 8 bits.
    embedder = Embedder.load(weights, device=device, dtype=arguments.dtype, max_length=max_length)
    own_format = embedder.number_format
    computed: list[int] = []
    sides[OURS] = embedding_adaptation(embedder, computed)
    if own_format != "float32":
        sides[OURS_FLOAT32] = embedding_adaptation(Embedder.load(weights, device=device, dtype="float32", max_length=max_length), [])

    shapes = layer_shapes(causal)
    runs, vectors, rates = take_turns(sides, texts, arguments.repeats, device, lambda: matrix_flops(shapes, device, dtype))
    if SAME not in sides:
        runs[SAME], vectors[SAME] = runs[OWN], vectors[OWN]
    for one, other in ((LIBRARY_FLOAT32, LIBRARY), (OURS_FLOAT32, OURS)):
        if one not in sides:
            runs[one], vectors[one] = runs[other], vectors[other]

    medians = {name: statistics.median(values) for name, values in runs.items()}
    rate, ours = statistics.median(rates), medians[OURS]
    parameters = sum(p.numel() for p in causal.base_model.parameters()) - causal.get_input_embeddings().weight.numel()
    published_min, published_p01 = agreement(vectors[OURS], vectors[SAME], same_ids)
    own_min, own_p01 = agreement(vectors[OURS], vectors[OURS_FLOAT32], np.ones(len(texts), bool))
    library_min, library_p01 = agreement(vectors[OURS], vectors[LIBRARY], same_ids)
    # Against float32, so that it is their own rounding that counts.
    other_min = {name: agreement(vectors[OURS_FLOAT32], vectors[name], same_ids)[0] for name in others}
    result = {
        "texts_per_s": len(texts) / ours,
        "tokens_per_s": tokens / ours,
        "ratio_published_own_dtype": medians[OWN] / ours,
        "ratio_published_same_dtype": medians[SAME] / ours,
        "ratio_sentence_transformers": medians[LIBRARY] / ours,
        "ratio_own_float32": medians[OURS_FLOAT32] / ours,
        "ratio_sentence_transformers_float32": medians[LIBRARY_FLOAT32] / ours,
        "ratio_sentence_transformers_int8": medians[LIBRARY_INT8] / ours if LIBRARY_INT8 in medians else None,
        "ratio_llama_cpp": medians[LLAMA] / ours if LLAMA in medians else None,
        "lowest_cosine_float32": own_min,
        "cosine_sentence_transformers_int8_float32_min": other_min.get(LIBRARY_INT8),
        "cosine_llama_cpp_float32_min": other_min.get(LLAMA),
        "cosine_float32_p01": own_p01,
        "model_flop_utilisation": 2 * parameters * tokens / ours / rate,
        "cosine_published_min": published_min,
        "cosine_published_p01": published_p01,
        "cosine_sentence_transformers_min": library_min,
        "cosine_sentence_transformers_p01": library_p01,
        "texts": len(texts),
        "texts_unique": len(set(texts)),
        "texts_same_ids": int(same_ids.sum()),
        "tokens": tokens,
        "max_length": max_length,
        "model": weights.card.source,
        "parameters_without_embeddings": parameters,
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "dtype": own_format,
        "dtype_published": dtype_name(causal.dtype),
        "threads": threads,
        "matrix_gflops": rate / 1e9,
        "matrix_rows": MATRIX_ROWS[device],
        "settings": settings,
        "repeats": arguments.repeats,
        "seconds": medians,
        "seconds_of_runs": runs,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9,
    }
    if computed:
        result |= {"tokens_computed": computed[-1], "model_flop_utilisation_computed": 2 * parameters * computed[-1] / ours / rate}
    if device == "cuda":
        result["peak_device_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9

    table = {
        f"published way, {dtype_name(causal.dtype)}": medians[OWN],
        f"published way, {dtype_name(dtype)}": medians[SAME],
        f"sentence-transformers, {dtype_name(dtype)}": medians[LIBRARY],
        f"this project, {own_format}": ours,
        "this project, float32": medians[OURS_FLOAT32],
        "sentence-transformers, float32": medians[LIBRARY_FLOAT32],
    }
    titles = {LIBRARY_INT8: f"sentence-transformers, OpenVINO int8 ({arguments.int8})", LLAMA: "llama.cpp, the same GGUF"}
    table |= {title: medians[name] for name, title in titles.items() if name in medians}
    report(f"Encoding {len(texts)} texts, {tokens} tokens, {place}", next(iter(table)), table, tokens, "tokens")
    print(f"  same token ids in {same_ids.sum()} of {len(texts)} texts; there the lowest cosine to this project's vectors is")
    print(f"  {published_min} (published way), {library_min} (sentence-transformers)")
    print(json.dumps(rounded(result)))


def take_turns(
    sides: dict[str, Encode], texts: list[str], repeats: int, device: str, matrix_rate: Callable[[], float]
) -> tuple[dict[str, list[float]], dict[str, np.ndarray], list[float]]:
    """Warm up, then run the sides in turn.

    Returns:
        Seconds of each side's runs, each side's last vectors ``[N, D]``, and the rate of bare matrix products after each turn.
    """
    warm_up = texts[:WARM_UP_TEXTS]
    seconds = sum(timed(lambda encode=encode: encode(warm_up), device)[0] for encode in sides.values())
    expected = seconds * repeats * len(texts) / len(warm_up)
    say(f"warm-up on {len(warm_up)} texts took {seconds:.1f} s; at most about {expected:.0f} s to go")
    runs: dict[str, list[float]] = {name: [] for name in sides}
    vectors, rates = {}, []
    for repeat in range(repeats):
        for name, encode in sides.items():
            seconds, vectors[name] = timed(lambda encode=encode: encode(texts), device)
            runs[name].append(seconds)
            say(f"turn {repeat + 1} of {repeats}: {name:<22} {seconds:8.2f} s, {len(texts) / seconds:.0f} texts/s")
        rates.append(matrix_rate())
    return runs, vectors, rates


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a number format, without ``torch.``."""
    return str(dtype).removeprefix("torch.")


def rounded(value: Any) -> Any:
    """Round floats to four decimal places; cosines are already rounded."""
    if isinstance(value, dict):
        return {key: item if "cosine" in key else rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
