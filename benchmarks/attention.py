"""Recording the last token's attention: its memory against eager full maps, its time against plain encoding.

Usage::

    python benchmarks/attention.py --texts data/01_raw/hard_labelled_texts.csv --limit 50
    python benchmarks/attention.py --texts FILE [--column text] [--limit 1000] [--dtype auto|float32|bfloat16] [--model SETTING]
                                   [--repeats 3] [--max-length 256] [--eager-gigabytes 6]

**Memory.** Each side runs in a process of its own, which reports how far its peak (``VmHWM``) rose above what it held after loading and an
unmeasured warm-up: plain encoding, recording, and eager attention in padded batches of 32 in input order whose maps are all kept
(``output_attentions=True``), as an analysis of full maps needs them. Eager gets as many of the texts as fit into ``--eager-gigabytes`` (its
attention is computed beforehand from the lengths); the others get the same texts. ``memory_share_of_eager`` is what recording takes above
plain encoding, and no less than the rows of its largest batch, over the bytes of eager's maps. Rows go to disk: ``disk_share_of_eager``.

**Time.** In one process, encoding and recording of all layers and heads take turns on all texts, after a warm-up; recording includes
tokenisation and writing. ``ratio_to_encoding`` is the median of the turns' ratios.

**Parity.** ``largest_difference`` is that of recorded rows from eager's on the first texts, one text at a time, in float32 and in float64
(where the rows themselves are still float32); and, to judge it by, that of eager's own rows in float32 from those in float64.

Linux only (``/proc``). A table and, as the last line, one JSON object go to stdout.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from _workload import ONE_WORD, default_weights, weights_of

from embedding_adaptation import Embedder, Strategy
from embedding_adaptation.attention.recording import record_attention
from embedding_adaptation.attention.rows import ROWS_FILE
from embedding_adaptation.datasets.texts import TextsDataset

SEED = 0
EAGER_BATCH, WARM_UP_TEXTS, PARITY_TEXTS = 32, 16, 8
STRATEGY = Strategy("prompted", ONE_WORD, "last")


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--texts", required=True, metavar="FILE", help=".txt (one a line), .csv, .tsv, .jsonl or .parquet")
    parser.add_argument("--column", default="text", help="column of the texts (default: text)")
    parser.add_argument("--limit", type=int, default=1000, metavar="N", help="number of texts (default: 1000)")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--model", metavar="SETTING", help="a base model as in conf/base/globals.yml (default: the one there)")
    parser.add_argument("--repeats", type=int, default=3, help="turns of encoding and recording (default: 3)")
    parser.add_argument("--max-length", type=int, default=256, help="longest sequence in tokens, prompt included (default: 256)")
    parser.add_argument("--eager-gigabytes", type=float, default=6.0, help="most memory for eager's maps (default: 6)")
    parser.add_argument("--side", choices=("encode", "record", "eager"), help=argparse.SUPPRESS)
    parser.add_argument("--base", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def read_texts(arguments: argparse.Namespace) -> list[str]:
    """The texts, shuffled with a fixed seed."""
    texts = TextsDataset(filepath=arguments.texts, text_column=arguments.column).load()["text"]
    return texts.sample(frac=1, random_state=SEED).head(arguments.limit).tolist()


def load(base: str, arguments: argparse.Namespace, dtype: str | None = None) -> Embedder:
    """The embedder to measure, on the CPU."""
    return Embedder.load(base, device="cpu", dtype=dtype or arguments.dtype, max_length=arguments.max_length)


def eager_maps(embedder: Embedder, texts: list[str]) -> list[torch.Tensor]:
    """All maps of all texts, layer by layer and batch by batch, ``[B, H, T, T]``."""
    decoder = embedder.decoder(ONE_WORD)
    prompts = decoder.tokenize_prompts(texts)
    embedder.backbone.set_attn_implementation("eager")
    maps: list[torch.Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(prompts), EAGER_BATCH):
            batch = decoder.collate(prompts[start : start + EAGER_BATCH])
            output = embedder.backbone(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_attentions=True, use_cache=False
            )
            maps.extend(output.attentions)
    return maps


def eager_bytes(embedder: Embedder, texts: list[str]) -> list[int]:
    """Bytes of eager's maps for each number of batches."""
    lengths = [len(prompt) for prompt in ONE_WORD.tokenize(texts, embedder.tokenizer, embedder.max_length)]
    cell = embedder.layer_count * embedder.backbone.config.num_attention_heads * embedder.backbone.dtype.itemsize
    batches = [lengths[start : start + EAGER_BATCH] for start in range(0, len(lengths), EAGER_BATCH)]
    return np.cumsum([len(batch) * max(batch) ** 2 * cell for batch in batches]).tolist()


def status(field: str) -> int:
    """A memory size of this process as reported by the kernel, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def measure_side(arguments: argparse.Namespace) -> None:
    """Run one side in its own process; print the increase in memory and the bytes of eager's maps."""
    embedder = load(arguments.base, arguments)
    texts = read_texts(arguments)[: arguments.count]
    kept: list[torch.Tensor] = []

    def run(some: list[str]) -> None:
        if arguments.side == "encode":
            embedder.encode(some, STRATEGY, progress=False)
        elif arguments.side == "record":
            with tempfile.TemporaryDirectory() as folder:
                record_attention(embedder, ONE_WORD, some, Path(folder) / "rows", progress=False)
        else:
            kept[:] = eager_maps(embedder, some)

    run(texts[:WARM_UP_TEXTS])
    kept.clear()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = status("VmRSS")
    run(texts)
    print(json.dumps({"rise": status("VmHWM") - before, "maps": sum(one.nbytes for one in kept)}))


def run_side(side: str, base: str, count: int, arguments: argparse.Namespace) -> dict[str, int]:
    """Measure one side in its own process."""
    command = [sys.executable, __file__, "--texts", arguments.texts, "--column", arguments.column, "--limit", str(arguments.limit)]
    command += ["--dtype", arguments.dtype, "--max-length", str(arguments.max_length)]
    command += ["--side", side, "--base", base, "--count", str(count)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(result.stdout.splitlines()[-1])


def time_turn(embedder: Embedder, texts: list[str], recording: Path) -> tuple[float, float]:
    """Seconds of plain encoding and of recording."""
    start = time.perf_counter()
    embedder.encode(texts, STRATEGY, progress=False)
    middle = time.perf_counter()
    record_attention(embedder, ONE_WORD, texts, recording, progress=False)
    return middle - start, time.perf_counter() - middle


def parity(base: str, texts: list[str], folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Largest differences of recorded rows and of eager's own float32 rows from eager's rows in float64."""
    found: dict[str, list[np.ndarray]] = {}
    for dtype in ("float32", "float64"):
        embedder = load(base, arguments, dtype="float32")
        if dtype == "float64":
            embedder.backbone.double()
        rows = list(record_attention(embedder, ONE_WORD, texts, folder / dtype, progress=False))
        found[f"recorded_{dtype}"] = [one.row for one in rows]
        found[f"eager_{dtype}"] = [
            torch.stack([layer[0, :, -1] for layer in eager_maps(embedder, [one.text])]).numpy() for one in rows
        ]  # [L, H, T] each
    return {
        f"{one}_from_{other}": max(float(np.abs(a - b).max()) for a, b in zip(found[one], found[other], strict=True))
        for one, other in (
            ("recorded_float32", "eager_float32"),
            ("recorded_float64", "eager_float64"),
            ("recorded_float32", "eager_float64"),
            ("eager_float32", "eager_float64"),
        )
    }


def main() -> None:
    """Measure and report."""
    arguments = parse_arguments()
    if arguments.side:
        measure_side(arguments)
        return
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        base = str(weights_of(arguments.model, folder).base if arguments.model else default_weights().base)
        texts = read_texts(arguments)
        embedder = load(base, arguments)
        sizes = eager_bytes(embedder, texts)
        fitting = sum(size <= arguments.eager_gigabytes * 1e9 for size in sizes)
        count = min(max(1, fitting) * EAGER_BATCH, len(texts))

        recording = folder / "rows"
        embedder.encode(texts[:WARM_UP_TEXTS], STRATEGY, progress=False)
        record_attention(embedder, ONE_WORD, texts[:WARM_UP_TEXTS], recording, progress=False)
        turns = [time_turn(embedder, texts, recording) for _ in range(arguments.repeats)]
        unique = len(set(texts))
        lengths = [len(prompt) for prompt in ONE_WORD.tokenize(texts, embedder.tokenizer, embedder.max_length)]
        rows = (recording / ROWS_FILE).stat().st_size
        row_bytes = rows // sum(lengths)  # of one token, all layers and heads
        before = len(ONE_WORD.frame(embedder.tokenizer, embedder.max_length).prefix)
        # The prefix is computed once but has its columns in each row.
        batch_rows = round(row_bytes * embedder.batch_tokens * max(lengths) / (max(lengths) - before))
        dtype, layers = str(embedder.backbone.dtype).removeprefix("torch."), embedder.layer_count
        heads = embedder.backbone.config.num_attention_heads
        del embedder

        largest = parity(base, texts[:PARITY_TEXTS], folder / "parity", arguments)
        sides = {side: run_side(side, base, count, arguments) for side in ("encode", "record", "eager")}

    maps = sides["eager"]["maps"]
    ours = max(sides["record"]["rise"] - sides["encode"]["rise"], batch_rows)
    print(
        f"{len(texts)} texts ({unique} different), {sum(lengths) / len(lengths):.1f} tokens each, {layers} layers, {heads} heads, {dtype}"
    )
    print(f"\nmemory on {count} texts                  MB")
    print(f"  eager's maps                    {maps / 1e6:>8.1f}   (the process rose by {sides['eager']['rise'] / 1e6:.1f})")
    rises = f"{sides['record']['rise'] / 1e6:.1f} and {sides['encode']['rise'] / 1e6:.1f}"
    print(f"  recording, above encoding       {ours / 1e6:>8.1f}   ({rises})")
    print(f"  rows on disk                    {row_bytes * sum(lengths[:count]) / 1e6:>8.1f}")
    print(f"\ntime on {len(texts)} texts                      s")
    for name, place in (("encoding", 0), ("recording", 1)):
        print(f"  {name:<30}  {statistics.median(turn[place] for turn in turns):>8.2f}")
    ratio = statistics.median(recorded / plain for plain, recorded in turns)
    print("\nlargest difference from eager, one text at a time")
    for name, value in largest.items():
        print(f"  {name.replace('_', ' '):<42}  {value:.1e}")
    print(
        json.dumps(
            {
                "texts": len(texts),
                "texts_eager": count,
                "dtype": dtype,
                "memory_share_of_eager": round(ours / maps, 5),
                "disk_share_of_eager": round(row_bytes * sum(lengths[:count]) / maps, 5),
                "eager_attention_mb": round(maps / 1e6, 1),
                "recording_mb": round(ours / 1e6, 1),
                "ratio_to_encoding": round(ratio, 3),
                "seconds_encoding": round(statistics.median(turn[0] for turn in turns), 2),
                "seconds_recording": round(statistics.median(turn[1] for turn in turns), 2),
                "largest_difference": largest,
            }
        )
    )


if __name__ == "__main__":
    main()
