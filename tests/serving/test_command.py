"""The command: a running server with the clients that people have, how it stops, and what it refuses to start with."""

from __future__ import annotations

import base64
import re
import signal
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest
from click.testing import CliRunner
from sentence_transformers import SentenceTransformer

from embedding_adaptation.embedder import quantised
from embedding_adaptation.serving import command
from embedding_adaptation.serving.command import main
from serving_fixtures import running

TEXTS = ["where is my stopcock", "", "drain " * 2000, "🎉 emoji", "where is my stopcock"]
KEY = "a key of the tests"


@pytest.fixture(scope="module")
def server(served_folder):
    with running(served_folder, EMBEDDING_API_KEY=KEY) as parts:
        yield parts


@pytest.fixture
def openai_client(server):
    with openai.OpenAI(base_url=f"{server[1]}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def expected(served_folder):
    return SentenceTransformer(str(served_folder), device="cpu").encode(TEXTS)


@pytest.mark.slow
def test_the_openai_client_gets_the_vectors_of_sentence_transformers(openai_client, expected):
    for form in (openai.NOT_GIVEN, "float", "base64"):
        response = openai_client.embeddings.create(model="tiny-model", input=TEXTS, encoding_format=form)
        rows = [row.embedding for row in response.data]
        if form == "base64":
            rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]
        np.testing.assert_allclose(np.array(rows, np.float32), expected, atol=1e-5)
    assert response.usage.total_tokens > len(TEXTS)
    assert [model.id for model in openai_client.models.list()] == ["tiny-model"]


@pytest.mark.slow
def test_the_openai_client_raises_its_own_errors(openai_client, server):
    create = openai_client.embeddings.create
    with pytest.raises(openai.NotFoundError, match="this server has 'tiny-model'"):
        create(model="gpt", input="a")
    with pytest.raises(openai.BadRequestError, match="token ids"):
        create(model="tiny-model", input=[1, 2])
    with pytest.raises(openai.APIStatusError, match="a request may have 2,048") as caught:
        create(model="tiny-model", input=["a"] * 2049)
    assert (caught.value.status_code, caught.value.code) == (413, "too_many_texts")
    with openai.OpenAI(base_url=f"{server[1]}/v1", api_key="wrong", max_retries=0) as other, pytest.raises(openai.AuthenticationError):
        other.embeddings.create(model="tiny-model", input="a")


@pytest.mark.slow
def test_concurrent_clients_get_their_own_vectors(openai_client, expected):
    def ask(number: int) -> float:
        index = number % len(TEXTS)
        vector = openai_client.embeddings.create(model="tiny-model", input=TEXTS[index]).data[0].embedding
        return float(np.abs(np.array(vector) - expected[index]).max())

    with ThreadPoolExecutor(16) as pool:
        assert max(pool.map(ask, range(100))) < 1e-5


@pytest.mark.slow
def test_langchain_gets_the_same_vectors(server, expected):
    langchain = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    client = langchain.OpenAIEmbeddings(
        model="tiny-model", base_url=f"{server[1]}/v1", api_key=KEY, check_embedding_ctx_length=False, max_retries=0
    )
    np.testing.assert_allclose(client.embed_documents(TEXTS), expected, atol=1e-5)
    np.testing.assert_allclose(client.embed_query(TEXTS[0]), expected[0], atol=1e-5)


@pytest.mark.slow
def test_llama_index_gets_the_same_vectors(server, expected):
    llama = pytest.importorskip("llama_index.embeddings.openai_like", reason="llama-index-embeddings-openai-like is not installed")
    client = llama.OpenAILikeEmbedding(model_name="tiny-model", api_base=f"{server[1]}/v1", api_key=KEY, max_retries=0)
    texts, rows = TEXTS[2:], expected[2:]  # it refuses the empty text itself
    np.testing.assert_allclose(client.get_text_embedding_batch(texts), rows, atol=1e-5)


def batches(address: str) -> float:
    with urllib.request.urlopen(f"{address}/metrics", timeout=10) as response:
        (count,) = re.findall(r"^embedding_batch_texts_count (\S+)", response.read().decode(), re.MULTILINE)
    return float(count)


@pytest.fixture
def run(monkeypatch):
    """The command in this process, up to the moment when the server would start; what it would start with is kept."""
    started = []
    monkeypatch.setattr(command.uvicorn, "run", lambda app, **settings: started.append((app, settings)))
    monkeypatch.setattr(command.signal, "signal", lambda *_: None)
    monkeypatch.delenv(command.KEY_VARIABLE, raising=False)

    def invoke(*arguments):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        return result, started

    return invoke


def test_another_address_without_a_key_is_warned_of(run, served_folder, caplog, monkeypatch):
    for host, warns in (("127.0.0.1", False), ("localhost", False), ("::1", False), ("0.0.0.0", True), ("example", True)):
        caplog.clear()
        result, started = run("--model", served_folder, "--device", "cpu", "--host", host)
        assert result.exit_code == 0, result.output
        assert started[-1][1]["host"] == host
        assert ("Anybody who reaches" in caplog.text) == warns
    assert "This model was adapted to mine.txt (9 clean texts)" in caplog.text
    caplog.clear()
    monkeypatch.setenv(command.KEY_VARIABLE, "the secret")
    assert run("--model", served_folder, "--device", "cpu", "--host", "0.0.0.0")[0].exit_code == 0
    assert "Anybody" not in caplog.text
    assert "the secret" not in caplog.text


def test_what_cannot_be_served_is_refused_in_a_sentence(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for arguments, message in (
        (("--model", "nowhere"), "there is no folder 'nowhere'"),
        (("--model", tmp_path), "config.json"),
        ((), "there is no registry"),
        (("--model", "models:/name"), "there is no registry"),
        (("--batch-texts", "0", "--model", tmp_path), "--batch-texts is 0: Input should be greater than or equal to 1"),
    ):
        result, started = run(*arguments)
        assert (result.exit_code, started) == (1, [])
        assert result.output.startswith("Error: ")
        assert message in result.output
    monkeypatch.setenv(command.KEY_VARIABLE, " ")
    assert "EMBEDDING_API_KEY is set, but empty" in run()[0].output
    assert list(tmp_path.iterdir()) == [], "MLflow left no database behind"


def test_a_number_format_that_the_machine_lacks_is_refused_in_a_sentence(run, served_folder, monkeypatch):
    monkeypatch.setattr(quantised, "has_kernel", lambda: False)
    result, started = run("--model", served_folder, "--device", "cpu", "--dtype", "int8")
    assert (result.exit_code, started) == (1, [])
    assert "Error: dtype 'int8' needs exact products of 8-bit integers" in result.output


@pytest.mark.slow
def test_without_the_extra_the_error_says_how_to_install_it():
    code = "import sys, runpy; sys.modules['fastapi'] = None; runpy.run_module('embedding_adaptation.serving', run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Serving needs fastapi, which is not installed: pip install 'embedding-adaptation[serve]'")


@pytest.mark.slow
def test_sigterm_finishes_what_is_accepted(server, openai_client):
    """The last test of the file, because it ends the server."""
    process, address, log = server
    texts = [f"text {number} " * 30 for number in range(1000)]
    before = batches(address)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(openai_client.embeddings.create, model="tiny-model", input=texts)
        while batches(address) == before:
            assert not answer.done()
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
        assert not answer.done(), "the server was told to stop during the request"
        assert len(answer.result(60).data) == len(texts)
    assert process.wait(30) == 0
    with pytest.raises(openai.APIConnectionError):
        openai_client.models.list()
    assert "text 1" not in "".join(log)
    assert KEY not in "".join(log)
