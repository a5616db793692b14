"""The application in process: both interfaces, limits, the key and metrics."""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

TEXTS = [
    "where is my stopcock",
    "",
    "the drain is blocked " * 500,
    "🎉👩‍👩‍👧 مرحبا Ünïcode\n\ttab",
    " spaces around ",
    "drain",
    "where is my stopcock",
]


def vectors_of(response) -> np.ndarray:
    assert response.status_code == 200, response.text
    data = response.json()["data"]
    assert [row["index"] for row in data] == list(range(len(data)))
    return np.array([row["embedding"] for row in data], dtype=np.float32)


def openai_error(response, status, param=None, code=None) -> str:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["param"], error["code"]) == (param, code)
    return error["message"]


def test_both_interfaces_give_the_vectors_of_sentence_transformers_in_order(client, served_folder):
    assert max(map(len, TEXTS)) > 10_000
    expected = SentenceTransformer(str(served_folder), device="cpu").encode(TEXTS)
    api = client()
    response = api.post("/v1/embeddings", json={"model": "tiny-model", "input": TEXTS, "user": "someone"})
    np.testing.assert_allclose(vectors_of(response), expected, atol=1e-5)
    response = api.post("/embed", json={"inputs": TEXTS, "truncate": True})
    np.testing.assert_allclose(np.array(response.json(), np.float32), expected, atol=1e-5)


def test_base64_is_the_same_vectors_as_little_endian_float32(client):
    api, body = client(), {"model": "tiny-model", "input": TEXTS}
    numbers = vectors_of(api.post("/v1/embeddings", json=body))
    rows = api.post("/v1/embeddings", json=body | {"encoding_format": "base64"}).json()["data"]
    decoded = np.array([np.frombuffer(base64.b64decode(row["embedding"]), dtype="<f4") for row in rows])
    np.testing.assert_array_equal(decoded, numbers)


def test_a_string_is_a_list_of_one(client):
    api = client()
    one, several = (api.post("/v1/embeddings", json={"model": "tiny-model", "input": texts}) for texts in ("a text", ["a text"]))
    np.testing.assert_array_equal(vectors_of(one), vectors_of(several))
    assert len(api.post("/embed", json={"inputs": "a text"}).json()) == 1


def test_usage_counts_the_tokens_that_the_model_reads(client, served_folder):
    model = SentenceTransformer(str(served_folder), device="cpu")
    expected = sum(int(model.preprocess([text])["attention_mask"].sum()) for text in TEXTS)
    usage = client().post("/v1/embeddings", json={"model": "tiny-model", "input": TEXTS}).json()["usage"]
    assert usage == {"prompt_tokens": expected, "total_tokens": expected}


def test_dimensions_keep_the_first_ones_at_unit_length(client):
    api, body = client(), {"model": "tiny-model", "input": TEXTS}
    full = vectors_of(api.post("/v1/embeddings", json=body))
    short = vectors_of(api.post("/v1/embeddings", json=body | {"dimensions": 5}))
    np.testing.assert_allclose(short, full[:, :5] / np.linalg.norm(full[:, :5], axis=1, keepdims=True), atol=1e-6)
    message = openai_error(api.post("/v1/embeddings", json=body | {"dimensions": 33}), 400, "dimensions", "invalid_dimensions")
    assert message == "dimensions is 33, but the model's vectors have 32; give at most that"
    assert api.post("/embed", json={"inputs": "a", "dimensions": 33}).status_code == 400


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"input": [1, 2]}, "input", "token ids"),
        ({"input": ["fine", "half \ud800"]}, "input", "item 1 holds half a surrogate pair"),
        ({"input": [[1, 2], [3]]}, "input", "check_embedding_ctx_length=False"),
        ({"input": []}, "input", "empty list"),
        ({"input": None}, "input", "missing (null)"),
        ({"input": 3}, "input", "it is a number"),
        ({"input": ["a secret", None]}, "input", "item 1 is missing (null)"),
        ({"input": ["a secret", {"text": "secret"}]}, "input", "item 1 is an object"),
        ({"input": ["a secret", True]}, "input", "item 1 is a boolean"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "'float' or 'base64'"),
        ({"input": "a", "dimensions": 0}, "dimensions", "greater than or equal to 1"),
        ({"input": "a", "dimensions": "5"}, "dimensions", "integer"),
        ({"input": "a", "inputs": "b"}, "inputs", "not permitted"),
        ({"input": "a", "model": ""}, "model", "at least 1"),
        ({}, "input", "required"),
    ],
)
def test_a_wrong_body_is_refused_in_openais_form(client, body, param, message):
    content = json.dumps({"model": "tiny-model"} | body)  # a client may write half a surrogate pair as an escape
    answer = client().post("/v1/embeddings", content=content, headers={"content-type": "application/json"})
    said = openai_error(answer, 400, param, "invalid_value")
    assert message in said
    assert "secret" not in said


def test_what_is_not_json_is_refused(client):
    api = client()
    for content in (b"{", b"\xff\xfe", b"", b"[]", b"3"):
        response = api.post("/v1/embeddings", content=content, headers={"content-type": "application/json"})
        assert response.status_code == 400
        assert response.json()["error"]["type"] == "invalid_request_error"


def test_an_unknown_model_path_or_method_is_refused_in_openais_form(client):
    api = client()
    message = openai_error(api.post("/v1/embeddings", json={"model": "gpt", "input": "a"}), 404, "model", "model_not_found")
    assert message == "there is no model 'gpt'; this server has 'tiny-model'"
    openai_error(api.get("/v1/nothing"), 404)
    wrong_method = api.get("/v1/embeddings")
    openai_error(wrong_method, 405)
    assert wrong_method.headers["allow"] == "POST"
    (model,) = api.get("/v1/models").json()["data"]
    assert model["id"] == "tiny-model"


def test_embed_truncates_only_when_told(client, served):
    api, long = client(), "drain " * 500
    response = api.post("/embed", json={"inputs": ["short", long]})
    assert response.status_code == 413
    assert response.json()["error_type"] == "Validation"
    tokens = len(served.embedder.tokenizer(long, add_special_tokens=False)["input_ids"])
    assert f"text 1 has {tokens} tokens, and the model reads {served.room};" in response.json()["error"]
    assert api.post("/embed", json={"inputs": ["short", long], "truncate": True}).status_code == 200
    assert api.post("/embed", json={"inputs": ["short", 3]}).status_code == 422
    assert api.post("/embed", json={"inputs": "a", "prompt_name": "query"}).status_code == 422
    assert api.post("/embed", json={"inputs": []}).json()["error_type"] == "Validation"


def test_embed_normalises_unless_told_otherwise(client, served):
    class Long:
        """The model, with vectors of another length."""

        name, dimensions, count_tokens = "long", served.dimensions, served.count_tokens

        @staticmethod
        def encode(texts):
            return 3 * served.encode(texts)

    api = client(model=Long())
    plain, unit = (np.array(api.post("/embed", json={"inputs": ["a", "b"], "normalize": flag}).json()) for flag in (False, True))
    np.testing.assert_allclose(np.linalg.norm(plain, axis=1), 3, atol=1e-5)
    np.testing.assert_allclose(unit, plain / 3, atol=1e-6)


def test_a_request_that_is_too_large_is_refused(client):
    api = client(max_texts=2, max_characters=10, max_bytes=200)
    body = {"model": "tiny-model", "input": ["a"] * 3}
    assert "3 texts; a request may have 2" in openai_error(api.post("/v1/embeddings", json=body), 413, "input", "too_many_texts")
    assert "11 characters" in openai_error(api.post("/v1/embeddings", json=body | {"input": "é" * 11}), 413, "input", "too_many_characters")
    openai_error(api.post("/v1/embeddings", json=body | {"input": "a" * 200}), 413, None, "request_too_large")
    chunks = (b" " * 50 for _ in range(10))  # without Content-Length
    openai_error(api.post("/v1/embeddings", content=chunks), 413, None, "request_too_large")
    openai_error(api.post("/v1/embeddings", content=b"{}", headers={"content-length": "9" * 30}), 413, None, "request_too_large")
    response = api.post("/embed", json={"inputs": ["a"] * 3})
    assert (response.status_code, response.json()["error_type"]) == (413, "Validation")
    assert api.post("/v1/embeddings", json=body | {"input": ["a", "é" * 9]}).status_code == 200


def test_a_key_is_asked_for_except_by_probes_and_metrics(client):
    api, body, right = client(key="sésame"), {"model": "tiny-model", "input": "a"}, "sésame".encode()
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": right},
        {"authorization": b"Basic " + right},
    ):
        response = api.post("/v1/embeddings", json=body, headers=headers)
        openai_error(response, 401, None, "invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"
        assert api.get("/v1/models", headers=headers).status_code == api.get("/info", headers=headers).status_code == 401
        assert api.post("/embed", json={"inputs": "a"}, headers=headers).json()["error_type"] == "Unauthorized"
    assert api.post("/v1/embeddings", json=body, headers={"authorization": b"Bearer " + right}).status_code == 200
    assert api.get("/health").status_code == api.get("/metrics").status_code == 200


def test_concurrent_requests_give_the_vectors_of_single_ones(client):
    texts = [f"text number {index} " * (1 + index % 40) for index in range(60)]
    single = client(batch_texts=1, wait_ms=0)
    expected = np.concatenate([vectors_of(single.post("/v1/embeddings", json={"model": "tiny-model", "input": text})) for text in texts])
    api = client(batch_texts=16, batch_tokens=300, wait_ms=20)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda text: api.post("/v1/embeddings", json={"model": "tiny-model", "input": text}), texts))
    np.testing.assert_allclose(np.concatenate([vectors_of(answer) for answer in answers]), expected, atol=1e-6)
    batches = metric(api, "embedding_batch_texts_count")
    assert 4 <= batches < 60, "texts of several requests share a batch"


def metric(api, name: str) -> float:
    (line,) = [line for line in api.get("/metrics").text.splitlines() if line.startswith(f"{name} ")]
    return float(line.rpartition(" ")[2])


def test_metrics_count_requests_texts_and_tokens(client, served):
    api = client()
    api.post("/v1/embeddings", json={"model": "tiny-model", "input": ["a secret", "b"]})
    api.post("/v1/embeddings", json={"model": "other", "input": "a"})
    api.get("/secret/path")
    text = api.get("/metrics").text
    assert 'embedding_requests_total{path="/v1/embeddings",status="200"} 1.0' in text
    assert 'embedding_requests_total{path="/v1/embeddings",status="404"} 1.0' in text
    assert 'embedding_requests_total{path="other",status="404"} 1.0' in text
    assert 'embedding_request_seconds_count{path="/v1/embeddings"} 2.0' in text
    assert metric(api, "embedding_texts_total") == 2
    assert metric(api, "embedding_tokens_total") == sum(served.count_tokens(["a secret", "b"]))
    assert metric(api, "embedding_queue_texts") == 0
    assert "secret" not in text


def test_info_names_the_limits_and_no_path(client, served):
    response = client(max_texts=7).get("/info")
    info = response.json()
    assert (info["model_id"], info["model_dtype"], info["dimensions"]) == ("tiny-model", "float32", 32)
    assert (info["max_client_batch_size"], info["max_input_length"]) == (7, served.room)
    assert "/" not in response.text.replace("models:/", "")


def test_beyond_the_queue_a_request_is_told_to_come_back(client, served):
    began, gate = threading.Event(), threading.Event()

    class Held:
        name, dimensions, count_tokens = "held", served.dimensions, served.count_tokens

        @staticmethod
        def encode(texts):
            began.set()
            assert gate.wait(10)
            return served.encode(texts)

    api = client(model=Held(), queue_texts=1, batch_texts=1, wait_ms=0)
    body = {"model": "held", "input": "a"}
    with ThreadPoolExecutor(2) as pool:
        accepted = [pool.submit(api.post, "/v1/embeddings", json=body)]
        assert began.wait(10)
        accepted.append(pool.submit(api.post, "/v1/embeddings", json=body))
        while metric(api, "embedding_queue_texts") == 0:
            time.sleep(0.005)
        refused, plain = api.post("/v1/embeddings", json=body), api.post("/embed", json={"inputs": "a"})
        assert "would be more than 1" in openai_error(refused, 503, None, "overloaded")
        assert refused.headers["retry-after"] == plain.headers["retry-after"] == "1"
        assert plain.json()["error_type"] == "Overloaded"
        gate.set()
        assert [one.result(10).status_code for one in accepted] == [200, 200]


def test_a_failure_of_the_model_is_status_500_and_its_message_is_not_logged(client, served, caplog):
    class Failing:
        name, dimensions, count_tokens = "failing", served.dimensions, served.count_tokens

        @staticmethod
        def encode(texts):
            if any("bad" in text for text in texts):
                raise ValueError("cannot embed: " + texts[0])
            return served.encode(texts)

    api = client(model=Failing())
    with caplog.at_level(logging.DEBUG):
        response = api.post("/v1/embeddings", json={"model": "failing", "input": "a bad secret"})
    openai_error(response, 500, None, "model_failed")
    assert "ValueError during the embedding of a request of 1 texts" in caplog.text
    assert "secret" not in caplog.text + response.text
    assert api.post("/v1/embeddings", json={"model": "failing", "input": "good"}).status_code == 200


def test_no_text_and_no_key_is_logged(client, caplog):
    api = client(key="the key")
    with caplog.at_level(logging.DEBUG, logger="embedding_adaptation"), caplog.at_level(logging.DEBUG, logger="uvicorn"):
        for key in ("the key", "a wrong key"):
            headers = {"authorization": f"Bearer {key}"}
            for body in ({"model": "tiny-model", "input": "a secret"}, {"model": "tiny-model", "input": {"a": "secret"}}):
                api.post("/v1/embeddings", json=body, headers=headers)
    assert "secret" not in caplog.text
    assert "key" not in caplog.text


def test_before_its_start_and_after_its_end_the_server_is_not_ready(served):
    from starlette.testclient import TestClient

    from embedding_adaptation.serving.application import create_app

    api = TestClient(create_app(served))
    for _ in range(2):
        assert api.get("/health").status_code == 503
        response = api.post("/v1/embeddings", json={"model": "tiny-model", "input": "a"})
        openai_error(response, 503, None, response.json()["error"]["code"])
        assert response.headers["retry-after"] == "1"
        with api:
            assert api.get("/health").status_code == 200
