"""What others' packages are compared with: a side that is missing is named, and the others go on."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

WORKER = """#!{python}
import json, sys
import numpy as np
first = json.loads(sys.stdin.readline())
{first}
for line in sys.stdin:
    asked = json.loads(line)
    if asked["texts"] == ["last"]:
        sys.exit("out of memory")
    np.save(asked["save"], np.array([[len(text), 1.0] for text in asked["texts"]]))
    print(json.dumps({{"done": True}}), flush=True)
"""
READY = 'print(json.dumps({"batch_size": len(first["texts"]), "versions": {}}), flush=True)'
BROKEN = 'print(json.dumps({"error": "ModuleNotFoundError: No module named \'optimum\'"}), flush=True); sys.exit()'


@pytest.fixture
def sides(project, monkeypatch):
    monkeypatch.syspath_prepend(str(project / "benchmarks"))
    import _sides as module

    return module


@pytest.fixture
def int8(sides, tiny_weights, tmp_path):
    """A side whose process is a script that stands for sentence-transformers."""

    def start(first):
        script = tmp_path / "python"
        script.write_text(WORKER.format(python=sys.executable, first=first))
        script.chmod(0o755)
        return sides.Int8Side(str(script), tiny_weights, 64, 1, "weights", tmp_path, ["a", "b"])

    return start


def test_vectors_come_from_a_process_of_its_own(int8):
    side = int8(READY)
    assert side.settings == {"batch_size": 2, "versions": {}, "how": "weights"}
    np.testing.assert_array_equal(side(["four", "ten or so"]), np.array([[4, 1], [9, 1]], np.float32))
    with pytest.raises(RuntimeError, match="out of memory"):
        side(["last"])
    side.close()


def test_a_process_that_does_not_start_says_why(int8, sides, tiny_weights, tmp_path):
    with pytest.raises(sides.MissingSideError, match=r"left out: ModuleNotFoundError: No module named 'optimum'; .* by --int8-python"):
        int8(BROKEN)
    (tmp_path / "other").mkdir()
    with pytest.raises(sides.MissingSideError, match="left out: it ended without a word"):
        sides.Int8Side("/bin/true", tiny_weights, 64, 1, "weights", tmp_path / "other", ["a"])


def test_llama_cpp_is_left_out_without_its_package_or_a_gguf_file(sides, tiny_weights, project, tmp_path, monkeypatch):
    with pytest.raises(sides.MissingSideError, match="reads GGUF files, and base model 'random:tiny-llama' is none"):
        sides.gguf_of(tiny_weights, project)
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    for load in (lambda: sides.llama(tmp_path / "model.gguf"), lambda: sides.LlamaWriter(tmp_path / "model.gguf", 1, 2, 64)):
        with pytest.raises(sides.MissingSideError, match=r"llama\.cpp is left out: .*pip install --no-binary llama-cpp-python"):
            load()


class FakeContext:
    """A model whose next token is the sum of the tokens that a sequence has seen, modulo ten."""

    def __init__(self):
        self.seen = {0: {}}
        self.logits = {}
        self.largest = 0

    def kv_cache_clear(self):
        self.seen = {0: {}}

    def kv_cache_seq_cp(self, source, target, *_):
        self.seen[target] = dict(self.seen[source])

    def kv_cache_seq_rm(self, sequence, *_):
        self.seen[sequence] = {}

    def decode(self, holder):
        batch = holder.batch
        self.largest = max(self.largest, batch.n_tokens)
        self.logits = {}
        for row in range(batch.n_tokens):
            own = self.seen[batch.seq_id[row][0]]
            assert batch.pos[row] == len(own)
            own[batch.pos[row]] = batch.token[row]
            if batch.logits[row]:
                self.logits[row] = np.eye(10, dtype=np.float32)[sum(own.values()) % 10]

    def get_logits_ith(self, row):
        return np.ctypeslib.as_ctypes(self.logits[row])


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_prompts_answered_together_get_the_answers_they_get_alone(sides, slots):
    writer = object.__new__(sides.LlamaWriter)
    room = 12
    batch = SimpleNamespace(n_tokens=0, seq_id=[[0] for _ in range(room)])
    batch.token, batch.pos, batch.n_seq_id, batch.logits = ([0] * room for _ in range(4))
    writer._context, writer._batch = FakeContext(), SimpleNamespace(batch=batch)
    writer._model, writer._room, writer._slots = SimpleNamespace(n_vocab=lambda: 10), room, slots
    prompts = [[1, 2, 3], [1, 2, 5, 5, 1], [1, 2], [1, 2, 9, 8, 7, 6], [1, 2, 3]]

    def alone(prompt, most):
        answer = []
        while len(answer) < most and (token := sum([*prompt, *answer]) % 10) != 0:
            answer.append(token)
        return answer

    for most in (1, 4, 9):
        assert writer.answers(prompts, {0}, most) == [alone(prompt, most) for prompt in prompts]
    assert writer._context.largest <= room


def test_a_decoder_exported_to_openvino_gets_its_positions_from_the_mask(project, monkeypatch):
    openvino = pytest.importorskip("openvino")
    from openvino import opset13 as ops

    monkeypatch.syspath_prepend(str(project / "benchmarks"))
    from _int8_side import give_positions

    inputs = [ops.parameter([-1, -1], np.int64, name=name) for name in ("attention_mask", "position_ids")]
    for one in inputs:
        one.output(0).set_names({one.friendly_name})
    model = openvino.Model([ops.add(inputs[1], ops.constant(0, dtype=np.int64))], inputs, "decoder")
    give_positions(SimpleNamespace(model=model))
    found = openvino.compile_model(model, "CPU")({"attention_mask": np.array([[1, 1, 1], [1, 1, 0], [0, 1, 1]])})[0]
    np.testing.assert_array_equal(found, [[0, 1, 2], [0, 1, 1], [0, 0, 1]])
