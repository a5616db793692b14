"""A local server that speaks OpenAI's chat protocol, and says what a test tells it to."""

from __future__ import annotations

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

KEY = "sk-very-secret-key"


def answer(text, reason="stop"):
    return {"choices": [{"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text}}]}


class ChatHandler(BaseHTTPRequestHandler):
    """Asks the test what to answer."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        chat = self.server.chat
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        with chat.lock:
            chat.bodies.append(body)
            chat.headers.append(self.headers)
            chat.tries[text] += 1
            chat.under_way += 1
            chat.most_under_way = max(chat.most_under_way, chat.under_way)
        status, said = chat.say(text, chat.tries[text]) if self.path == "/v1/chat/completions" else (404, "<html>nothing here</html>")
        with chat.lock:
            chat.under_way -= 1
        data = (said if isinstance(said, str) else json.dumps(said)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if isinstance(said, str) else "application/json")
        if status == 307:
            self.send_header("Location", chat.location)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        """Quiet."""


class QuietServer(ThreadingHTTPServer):
    """Says nothing about clients that hang up."""

    daemon_threads = True

    def handle_error(self, request, client_address):
        """Quiet."""


class Chat:
    def __init__(self):
        self.lock = threading.Lock()
        self.bodies, self.headers, self.tries = [], [], Counter()
        self.under_way = self.most_under_way = 0
        self.say = lambda text, attempt: (200, answer(f" re: {text}\n"))
        self.location = ""
        self.server = QuietServer(("127.0.0.1", 0), ChatHandler)
        self.server.chat = self
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def chat(monkeypatch):
    """The server, and what it was asked."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    chat = Chat()
    yield chat
    chat.server.shutdown()
    chat.server.server_close()
