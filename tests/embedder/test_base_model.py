from __future__ import annotations

import hashlib
import json
import shutil
import struct
import sys

import pytest

from embedding_adaptation.embedder.base_model import (
    BaseModelError,
    BaseModelSource,
    _distribution_of,
    check_source,
    convert,
    is_hub_setting,
)
from embedding_adaptation.embedder.checkpoint import decisive_files
from embedding_adaptation.embedder.gguf_file import parsed_once
from embedding_adaptation.embedder.weights import ModelCard
from embedding_adaptation.identity import files_sha256


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf_bytes(architecture: str = "llama", *, numbers: dict[str, int] | None = None, blocks: int = 1) -> bytes:
    """A GGUF file with a vocabulary, an embedding and one tensor a block, all zeros."""
    keys = [text(name) + struct.pack("<II", 4, value) for name, value in (numbers or {}).items()]  # before the architecture, which may be
    if architecture:
        keys.append(text("general.architecture") + struct.pack("<I", 8) + text(architecture))
        keys.append(text(f"{architecture}.block_count") + struct.pack("<II", 4, 1))
    keys.append(text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("bc"))
    names = ["token_embd.weight", *(f"blk.{number}.attn_q.weight" for number in range(blocks))]
    tensors = [text(name) + struct.pack("<IQQIQ", 2, 4, 2, 0, 32 * place) for place, name in enumerate(names)]  # 2 x 4 of float32
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys + tensors)
    return head + bytes(-len(head) % 32 + 32 * len(names))


@pytest.fixture
def folder(tiny_weights, tmp_path):
    """A copy of the tiny model's folder."""
    target = tmp_path / "model"
    shutil.copytree(tiny_weights.base, target)
    return target


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


def change_config(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def test_a_random_model_is_made_on_the_spot(tiny_weights):
    assert tiny_weights.card.architecture == "llama"
    assert tiny_weights.card.parameters > 10_000
    assert ModelCard.read(tiny_weights.base) == tiny_weights.card
    assert {path.suffix for path in tiny_weights.base.iterdir()} <= {".json", ".safetensors", ".jinja"}


def test_a_folder_is_converted_with_hash_and_licence(folder, tmp_path):
    from transformers import AutoModel

    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    target = tmp_path / "out"
    target.mkdir()
    card = convert(check_source(str(folder)), target)
    assert card.licence == "mit"
    assert card.sha256 == files_sha256(decisive_files(folder))
    assert str(tmp_path) not in (target / "config.json").read_text() + (target / "tokenizer_config.json").read_text()
    one, two = AutoModel.from_pretrained(folder), AutoModel.from_pretrained(target)
    assert all((a == b).all() for a, b in zip(one.parameters(), two.parameters(), strict=True))


def set_rope_theta(folder):
    values = json.loads((folder / "config.json").read_text())
    change_config(folder, rope_parameters=values["rope_parameters"] | {"rope_theta": 3.0})


def lower_case(folder):
    values = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(values | {"normalizer": {"type": "Lowercase"}}))


def end_later(folder):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 1}))


@pytest.mark.parametrize(
    "change",
    [set_rope_theta, lower_case, end_later, lambda folder: (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")],
)
def test_what_changes_a_folders_results_changes_its_hash_and_its_stamp(folder, tmp_path, change):
    cards = []
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
        cards.append(convert(check_source(str(folder)), tmp_path / name))
        change(folder)
    assert cards[0].sha256 != cards[1].sha256
    assert cards[0].stamp != cards[1].stamp


def test_the_hash_of_a_gguf_model_is_that_of_its_file(folder, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from embedding_adaptation.embedder import base_model, tokenizer

    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes())
    shutil.copy(folder / "config.json", tmp_path)  # what lies beside it is not of it
    # The file has no weights to speak of.
    monkeypatch.setattr(base_model, "_load", lambda *args: AutoModelForCausalLM.from_pretrained(folder))
    monkeypatch.setattr(tokenizer, "load_tokenizer", lambda *args, **options: AutoTokenizer.from_pretrained(folder))
    (tmp_path / "out").mkdir()
    card = convert(BaseModelSource(str(path), "gguf", path), tmp_path / "out")
    assert card.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_changes_no_result_leaves_the_hash(folder, tmp_path):
    hashes = []
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
        hashes.append(convert(check_source(str(folder)), tmp_path / name).sha256)
        (folder / "README.md").write_text("---\nlicense: mit\n---\n")
        (folder / "consolidated.safetensors").write_bytes(b"")
    assert hashes[0] == hashes[1]


def test_how_strongly_an_adapter_counts_is_part_of_the_hash(folder, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    lora = LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(AutoModel.from_pretrained(folder), lora).save_pretrained(tmp_path / "adapter")
    hashes = []
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
        hashes.append(convert(check_source(str(tmp_path / "adapter")), tmp_path / name).sha256)
        config = tmp_path / "adapter" / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 200}))
    assert hashes[0] != hashes[1]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "contains no config.json"),
        (lambda f: (f / "model.safetensors").unlink(), r"contains no \*.safetensors"),
        (lambda f: [p.unlink() for p in f.glob("tokenizer*")], "contains no tokenizer"),
        (lambda f: change_config(f, model_type="bert"), "'bert' is an encoder-only model"),
        (lambda f: change_config(f, model_type="modernbert"), "'modernbert' is an encoder-only model"),
        (lambda f: change_config(f, model_type="t5", is_encoder_decoder=True), "'t5' is an encoder-decoder model"),
        (lambda f: change_config(f, model_type="warp"), "transformers knows no decoder of type 'warp'"),
        (lambda f: change_config(f, model_type="warp", auto_map={"AutoModel": "x"}), "brings its own code, which is not run"),
    ],
)
def test_an_unusable_folder_is_refused_with_the_reason(folder, prepare, message):
    prepare(folder)
    with pytest.raises(BaseModelError, match=message):
        check_source(str(folder))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("no/such/folder/at/all", "not a GGUF file, a folder, a Hub id or a package"),
        ("missing/model.gguf", "missing/model.gguf does not exist"),
        ("package:no_such_package/model.gguf", "'no_such_package' is not installed; run 'make setup'"),
        ("package:json/model.gguf", "the package 'json' contains no GGUF file"),
        ("model.gguf#sha1=00", "'#' must be followed by sha256="),
        ("random:tiny-llama#sha256=" + "0" * 64, "#sha256= is for GGUF files"),
    ],
)
def test_an_unusable_setting_is_refused_with_the_way_out(setting, message):
    with pytest.raises(BaseModelError, match=message):
        check_source(setting)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a model", "not a readable GGUF file"),
        (gguf_bytes()[:30], "not a readable GGUF file"),
        (gguf_bytes("bert"), "'bert' is an encoder-only model"),
        (gguf_bytes("t5"), "'t5' is an encoder-decoder model"),
        (gguf_bytes("warp"), "'warp' is an architecture transformers cannot read"),
        (gguf_bytes(""), "does not name its architecture"),
        (gguf_bytes("mamba"), "'mamba' is a state-space model"),
        (gguf_bytes()[:-1], r"is truncated: it has \d+ of \d+ bytes"),
        (gguf_bytes()[:150], "not a readable GGUF file"),
        (gguf_bytes(blocks=0), "lacks 1 of the 1 layers it declares, starting with layer 0"),
        (gguf_bytes(numbers={"split.count": 3, "split.no": 1}), r"part 2 of 3 of a split model.*llama-gguf-split --merge model.gguf whole"),
        (b"GGUF" + gguf_bytes()[4:].replace(b"\x03", b"\x01", 1), "version 1, not 2 or 3"),
        (POINTER, "is a Git LFS pointer, not the file itself"),
    ],
)
def test_an_unusable_gguf_file_is_refused_with_the_reason(tmp_path, content, message):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(BaseModelError, match=message):
        check_source(str(path))


def test_a_wrong_hash_is_named_and_a_right_one_is_taken(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes(numbers={"a.count": 1}))  # a number before the architecture
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    assert check_source(f"{path}#sha256={right}").kind == "gguf"
    with pytest.raises(BaseModelError, match=f"sha256 is {right}, so it is damaged or a different version"):
        check_source(f"{path}#sha256={'0' * 64}")
    known = {check_source(str(path)).stamp}
    assert check_source(f"{path}#sha256={'0' * 64}", known_stamps=known).kind == "gguf"


def test_a_package_is_found_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "some_model_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "model.gguf").write_bytes(gguf_bytes())
    monkeypatch.syspath_prepend(tmp_path)
    assert check_source("package:some_model_package/model.gguf").path == package / "model.gguf"
    assert "some_model_package" not in sys.modules
    with pytest.raises(BaseModelError, match=r"contains model.gguf, not 'other.gguf'"):
        check_source("package:some_model_package/other.gguf")


def test_what_looks_like_a_hub_id_is_one_unless_it_is_a_path(tmp_path, monkeypatch):
    assert is_hub_setting("Qwen/Qwen3-0.6B")
    assert is_hub_setting("Qwen/Qwen3-0.6B@main")
    assert not is_hub_setting("models/file.gguf")
    (tmp_path / "Qwen" / "Qwen3-0.6B").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not is_hub_setting("Qwen/Qwen3-0.6B")


def test_relative_paths_start_where_the_caller_says_and_else_at_the_current_folder(folder, tmp_path, monkeypatch):
    setting = f"{folder.parent.name}/{folder.name}"
    monkeypatch.chdir(tmp_path)
    assert check_source(setting, relative_to=folder.parents[1]).path == folder
    assert not is_hub_setting(setting, relative_to=folder.parents[1])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert is_hub_setting(setting)
    monkeypatch.chdir(folder.parents[1])
    assert check_source(setting).existing_path.samefile(folder)


def test_a_path_may_hold_a_number_sign_and_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "my #1.gguf"
    path.write_bytes(gguf_bytes())
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    assert check_source("~/my #1.gguf").path == path
    assert check_source(f"~/my #1.gguf#sha256={right}").path == path
    with pytest.raises(BaseModelError, match="does not exist"):
        check_source("~/my #2.gguf")
    with pytest.raises(BaseModelError, match="it is damaged or a different version"):
        check_source(f"~/my #1.gguf#sha256={'0' * 64}")


@pytest.mark.parametrize(("package", "distribution"), [("numpy", "numpy"), ("yaml", "PyYAML"), ("email", None)])
def test_the_distribution_of_a_package_is_found_by_its_files(package, distribution):
    assert _distribution_of(package) == distribution


def test_a_gguf_file_is_parsed_once_within_the_block_and_the_package_is_as_before_after_it(tmp_path):
    import gguf

    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes())
    before = gguf.GGUFReader, gguf.get_tensor_name_map
    with parsed_once():
        assert gguf.GGUFReader(path) is gguf.GGUFReader(path)
        assert gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2) is gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == before
    assert gguf.GGUFReader(path) is not gguf.GGUFReader(path)


def test_the_package_is_as_before_after_an_error(tmp_path):
    import gguf

    before = gguf.GGUFReader, gguf.get_tensor_name_map
    with pytest.raises(FileNotFoundError), parsed_once():
        gguf.GGUFReader(tmp_path / "missing.gguf")
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == before
