"""A process with sentence-transformers' OpenVINO back end in 8 bits.

Usage::

    python _int8_side.py FOLDER MAX_LENGTH THREADS weights|static SCRATCH CALIBRATION

A process of its own, because optimum-intel needs an older transformers than this project. ``weights``: 8-bit weights, inputs quantised as
they come. ``static``: inputs, too, quantised ahead, by sentence-transformers' ``export_static_quantized_openvino_model`` on the texts in
the column ``sentence`` of CALIBRATION/train.csv. The first line of stdin, ``{"texts": [...]}``, is to choose the batch size by; the answer
is ``versions`` and ``batch_size``, or an ``error``. Each further line, ``{"texts": [...], "save": FILE.npy}``, is answered when the vectors
are saved.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

BATCH_SIZES = (8, 16, 32, 64)


def give_positions(model: Any) -> None:
    """Let an exported decoder compute its positions from the mask.

    optimum-intel exports ``position_ids`` as an input of decoders, but its ``OVModelForFeatureExtraction`` never fills it: vectors are
    noise then, or not numbers.
    """
    import numpy as np
    from openvino import opset13 as ops

    inputs = {parameter.output(0).get_any_name(): parameter for parameter in model.model.get_parameters()}
    if "position_ids" not in inputs:
        return
    one, zero = ops.constant(1, dtype=np.int64), ops.constant(0, dtype=np.int64)
    positions = ops.maximum(ops.subtract(ops.cum_sum(inputs["attention_mask"], one), one), zero)  # [B, T]
    for use in inputs["position_ids"].output(0).get_target_inputs():
        use.replace_source_output(positions.output(0))
    model.model.remove_parameter(inputs["position_ids"])
    model.model.validate_nodes_and_infer_types()


def load(folder: str, max_length: int, **settings: Any) -> Any:
    """The folder's decoder with last-token pooling, not yet compiled."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    transformer = Transformer(
        folder,
        backend="openvino",
        model_kwargs={"compile": False, **settings},
        processor_kwargs={"model_max_length": max_length, "padding_side": "right"},
        modality_config={"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        module_output_name="token_embeddings",
    )
    transformer.tokenizer.pad_token = transformer.tokenizer.pad_token or transformer.tokenizer.eos_token
    give_positions(transformer.model)
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="lasttoken")
    return SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu")


def load_int8(folder: str, max_length: int, threads: int, how: str, scratch: Path, calibration: str | None) -> Any:
    """The model in 8 bits."""
    from sentence_transformers.backend import export_static_quantized_openvino_model

    settings = {"ov_config": {"INFERENCE_NUM_THREADS": threads}}
    if how == "weights":
        return load(folder, max_length, export=True, load_in_8bit=True, **settings)
    plain = load(folder, max_length, export=True, load_in_8bit=False)
    target = str(scratch / "static")
    plain.save_pretrained(target)
    export_static_quantized_openvino_model(
        plain, None, target, dataset_name=calibration, dataset_config_name="default", dataset_split="train", column_name="sentence"
    )
    return load(target, max_length, file_name="openvino/openvino_model_qint8_quantized.xml", **settings)


def best_batch_size(model: Any, texts: list[str]) -> int:
    """The batch size that is fastest on these texts."""
    seconds = {}
    for size in BATCH_SIZES:
        model.encode(texts[:size], batch_size=size, show_progress_bar=False)
        start = time.perf_counter()
        model.encode(texts, batch_size=size, show_progress_bar=False)
        seconds[size] = time.perf_counter() - start
    return min(seconds, key=lambda size: seconds[size])


def main() -> None:
    """Load, say so, and encode what is asked for."""
    folder, max_length, threads, how, scratch, *calibration = sys.argv[1:]
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # the libraries print

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    try:
        import numpy as np

        model = load_int8(folder, int(max_length), int(threads), how, Path(scratch), calibration[0] if calibration else None)
        size = best_batch_size(model, json.loads(sys.stdin.readline())["texts"])
        names = ("sentence-transformers", "transformers", "optimum-intel", "openvino")
        answer(versions={name: metadata.version(name) for name in names}, batch_size=size)
    except Exception as error:  # noqa: BLE001  whatever is missing or does not fit is named
        answer(error=f"{type(error).__name__}: {' '.join(str(error).split())}"[:400])
        return
    for line in sys.stdin:
        asked = json.loads(line)
        np.save(asked["save"], model.encode(asked["texts"], batch_size=size, show_progress_bar=False))
        answer(done=True)


if __name__ == "__main__":
    main()
