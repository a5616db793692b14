"""What a user may pick instead, each from its public package: llama.cpp, and sentence-transformers with OpenVINO in 8 bits."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedding_adaptation.embedder.base_model import BaseModelError, check_source

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence

    from embedding_adaptation.embedder.weights import DecoderWeights

    Encode = Callable[[list[str]], np.ndarray]

# Tokens read at once, of which the fastest on the warm-up texts is taken.
LLAMA_BATCHES = (256, 512, 1024)
_READ_TOKENS = 512  # of prompts at once, llama.cpp's default


class MissingSideError(RuntimeError):
    """A side that cannot be measured here; the message says why and what to do."""


def gguf_of(weights: DecoderWeights, project: Path) -> Path:
    """The GGUF file that weights were converted from.

    Raises:
        MissingSideError: If they come from elsewhere.
    """
    try:
        source = check_source(weights.card.source, known_stamps={weights.card.stamp}, relative_to=project)
    except BaseModelError as error:
        msg = f"llama.cpp is left out: {error}"
        raise MissingSideError(msg) from error
    if source.kind != "gguf":
        msg = f"llama.cpp is left out: it reads GGUF files, and base model {weights.card.source!r} is none"
        raise MissingSideError(msg)
    return source.existing_path


def llama(file: Path, **settings: Any) -> Any:
    """A model of llama.cpp.

    Raises:
        MissingSideError: If the package is not installed.
    """
    try:
        from llama_cpp import Llama
    except ImportError as error:
        raise MissingSideError(_not_installed(error)) from error
    with _quiet():
        return Llama(str(file), verbose=False, **settings)


def llama_cpp(file: Path, threads: int, max_length: int, warm_up: Sequence[str]) -> tuple[Encode, dict[str, Any]]:
    """llama.cpp's vectors of the last token, several texts a batch, and its settings.

    Args:
        file: The GGUF file.
        threads: Threads.
        max_length: Longest text in tokens.
        warm_up: Prompted texts, on which the fastest batch is chosen.
    """
    seconds, encoders = {}, {}
    for tokens in LLAMA_BATCHES:
        if tokens < max_length:
            continue
        encode = _llama_encode(file, threads, max_length, tokens)
        encode(list(warm_up))
        start = time.perf_counter()
        encode(list(warm_up))
        seconds[tokens], encoders[tokens] = time.perf_counter() - start, encode
    best = min(seconds, key=lambda tokens: seconds[tokens])
    return encoders[best], {"batch_tokens": best, "version": metadata.version("llama-cpp-python")}


def _llama_encode(file: Path, threads: int, max_length: int, tokens: int) -> Encode:
    from llama_cpp import LLAMA_POOLING_TYPE_LAST

    model = llama(
        file,
        embedding=True,
        pooling_type=LLAMA_POOLING_TYPE_LAST,
        n_ctx=tokens,
        n_batch=tokens,
        n_ubatch=tokens,
        n_threads=threads,
        n_threads_batch=threads,
        flash_attn=True,
    )
    whole = model.tokenize
    model.tokenize = lambda text, *args, **kwargs: whole(text, *args, **kwargs)[:max_length]

    def encode(prompted: list[str]) -> np.ndarray:
        return np.array(model.embed(prompted, normalize=True), np.float32)  # [N, D]

    return encode


class LlamaWriter:
    """llama.cpp that answers many prompts at once, as its own example ``parallel`` does.

    The beginning that all prompts share is read once. At each step, every unfinished answer gets its most likely token; where an answer has
    ended, the next prompt is read in the same step.

    Args:
        file: The GGUF file.
        threads: Threads.
        slots: Answers at once.
        longest: Longest prompt with its answer, in tokens.

    Raises:
        MissingSideError: If the package is not installed.
    """

    def __init__(self, file: Path, threads: int, slots: int, longest: int) -> None:
        try:
            import llama_cpp
            from llama_cpp import _internals as internals
        except ImportError as error:
            raise MissingSideError(_not_installed(error)) from error
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = (slots + 1) * longest, max(_READ_TOKENS, longest), _READ_TOKENS
        options.n_seq_max, options.kv_unified = slots + 1, True
        options.n_threads = options.n_threads_batch = threads
        options.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        with _quiet():
            self._model = internals.LlamaModel(path_model=str(file), params=llama_cpp.llama_model_default_params(), verbose=False)
            self._context = internals.LlamaContext(model=self._model, params=options, verbose=False)
        self._batch = internals.LlamaBatch(n_tokens=options.n_batch, embd=0, n_seq_max=1, verbose=False)
        self._room, self._slots = options.n_batch, slots

    def answers(self, prompts: Sequence[Sequence[int]], ends: Container[int], most: int) -> list[list[int]]:
        """The answers to prompts, in their order, without the token that ends them.

        Args:
            prompts: Tokens of each prompt.
            ends: Tokens that end an answer.
            most: Longest answer in tokens.
        """
        differ = (place for place, tokens in enumerate(zip(*prompts, strict=False)) if len(set(tokens)) > 1)
        shared = min(next(differ, len(prompts[0])), min(map(len, prompts)) - 1)
        self._context.kv_cache_clear()
        for start in range(0, shared, self._room):
            self._add(prompts[0][start : min(start + self._room, shared)], start, 0)
            self._decode()
        made: list[list[int]] = [[] for _ in prompts]
        waiting = sorted(range(len(prompts)), key=lambda number: len(prompts[number]), reverse=True)
        active: dict[int, int] = {}  # slot: prompt
        while waiting or active:
            rows = {}  # slot: row of the batch that predicts its next token
            for slot, number in active.items():
                rows[slot] = self._add(made[number][-1:], len(prompts[number]) + len(made[number]) - 1, slot)
            for slot in range(1, self._slots + 1):
                if slot in active or not waiting or len(prompts[waiting[-1]]) - shared + self._batch.batch.n_tokens > self._room:
                    continue
                number = active[slot] = waiting.pop()
                self._context.kv_cache_seq_cp(0, slot, -1, -1)
                rows[slot] = self._add(prompts[number][shared:], shared, slot)
            width = self._model.n_vocab()
            self._decode()
            for slot, row in rows.items():
                number = active[slot]
                token = int(np.ctypeslib.as_array(self._context.get_logits_ith(row), (width,)).argmax())
                if token not in ends:
                    made[number].append(token)
                if token in ends or len(made[number]) == most:
                    del active[slot]
                    self._context.kv_cache_seq_rm(slot, -1, -1)
        return made

    def _add(self, tokens: Sequence[int], start: int, sequence: int) -> int:
        """Put tokens into the batch; the row of the last one, for which a next token is predicted."""
        batch = self._batch.batch
        for position, token in enumerate(tokens, start=start):
            row = batch.n_tokens
            batch.token[row], batch.pos[row], batch.n_seq_id[row], batch.logits[row] = token, position, 1, False
            batch.seq_id[row][0] = sequence
            batch.n_tokens = row + 1
        batch.logits[batch.n_tokens - 1] = True
        return int(batch.n_tokens) - 1

    def _decode(self) -> None:
        self._context.decode(self._batch)
        self._batch.batch.n_tokens = 0


class Int8Side:
    """sentence-transformers with OpenVINO in 8 bits, in a process of its own.

    Args:
        python: The interpreter that has ``sentence-transformers[openvino]``.
        weights: The model.
        max_length: Longest text in tokens.
        threads: Threads.
        how: ``weights`` or ``static``, see :mod:`_int8_side`.
        scratch: A folder for its files.
        warm_up: Prompted texts, on which the fastest batch is chosen and, for ``static``, inputs' ranges are measured.

    Attributes:
        settings: Versions, batch size and ``how``.

    Raises:
        MissingSideError: If it does not start.
    """

    def __init__(
        self, python: str, weights: DecoderWeights, max_length: int, threads: int, how: str, scratch: Path, warm_up: Sequence[str]
    ) -> None:
        folder = scratch / "int8"
        (folder / "calibration").mkdir(parents=True)
        if how == "static":
            import pandas as pd

            pd.DataFrame({"sentence": list(warm_up)}).to_csv(folder / "calibration/train.csv", index=False)
        script = Path(__file__).with_name("_int8_side.py")
        arguments = [weights.base.absolute(), max_length, threads, how, folder, folder / "calibration"]
        self._file, self._log = folder / "vectors.npy", (folder / "log").open("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            [python, script, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
        found = self._ask({"texts": list(warm_up)})
        if "error" in found:
            self.close()
            msg = (
                f"sentence-transformers in 8 bits is left out: {found['error']}; name an interpreter that has "
                "sentence-transformers[openvino] by --int8-python"
            )
            raise MissingSideError(msg)
        atexit.register(self.close)
        self.settings: dict[str, Any] = found | {"how": how}

    def __call__(self, prompted: list[str]) -> np.ndarray:
        """Vectors ``[N, D]`` of prompted texts.

        Raises:
            RuntimeError: If the process has ended.
        """
        found = self._ask({"texts": prompted, "save": str(self._file)})
        if "error" in found:
            raise RuntimeError(found["error"])
        return np.load(self._file).astype(np.float32, copy=False)

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait()
        self._log.close()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(question) + "\n")  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        if line:
            return dict(json.loads(line))
        self._log.seek(0)
        lines = self._log.read().strip().splitlines() or ["it ended without a word"]
        return {"error": lines[-1][:400]}


def _not_installed(error: ImportError) -> str:
    return (
        f"llama.cpp is left out: {error}; build it for this processor with "
        "CMAKE_ARGS=-DGGML_NATIVE=ON pip install --no-binary llama-cpp-python llama-cpp-python"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what libraries in C write to stderr."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nothing:  # noqa: PTH123  a device
        os.dup2(nothing.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
