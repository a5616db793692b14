from __future__ import annotations

import logging

import pytest
from kedro.io import DataCatalog
from kedro.io.core import DatasetError

from embedding_adaptation.datasets.chat_server import ChatServerDataset, ChatServerKey

KEY = "sk-very-secret-key"
TYPE = "embedding_adaptation.datasets.chat_server.ChatServerDataset"


def test_the_key_comes_from_kedros_credentials_and_shows_nowhere(caplog):
    with caplog.at_level(logging.DEBUG):
        config = {"chat_server": {"type": TYPE, "credentials": "chat_server"}}
        catalog = DataCatalog.from_config(config, {"chat_server": {"api_key": f" {KEY}\n"}})
        key = catalog.load("chat_server")
    assert key == ChatServerKey(KEY)
    assert key.value == KEY
    assert catalog.exists("chat_server")
    dataset = catalog.get("chat_server")
    for shown in (repr(key), str(key), repr(dataset), str(dataset), str(dataset._describe()), repr(catalog), caplog.text):
        assert KEY not in shown


@pytest.mark.parametrize("credentials", [None, {}, {"api_key": ""}, {"api_key": None}, {"api_key": "  "}])
def test_a_server_may_want_no_key(credentials):
    assert ChatServerDataset(credentials=credentials).load() == ChatServerKey(None)


@pytest.mark.parametrize(
    ("credentials", "message"),
    [
        ({"api_key": KEY, "token": KEY, "url": KEY}, "unknown credentials .*: 'token', 'url'; only 'api_key' is allowed"),
        ({"api_key": 123456}, "is of type int, not text; put it in quotes"),
        ({"api_key": f"{KEY}\n{KEY}"}, "contains a line break or a non-ASCII character; copy it again"),
        ({"api_key": f"{KEY}\u2013"}, "contains a line break or a non-ASCII character"),
    ],
)
def test_wrong_credentials_are_named_but_not_shown(credentials, message):
    with pytest.raises(DatasetError, match=message) as caught:
        ChatServerDataset(credentials=credentials)
    assert "secret" not in str(caught.value)
    assert "123456" not in str(caught.value)
    assert "conf/local/credentials.yml" in str(caught.value)


def test_a_key_is_never_written():
    with pytest.raises(DatasetError, match="never written"):
        ChatServerDataset(credentials={"api_key": KEY}).save("x")
