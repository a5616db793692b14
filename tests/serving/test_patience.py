"""Clients that never finish, many at once, that leave in the middle, or that are there when the server has to stop."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi")
from serving_fixtures import running

SECONDS = 2.0
BODY = json.dumps({"inputs": "where is my stopcock"}).encode()
HEAD = f"POST /embed HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()


@pytest.fixture(scope="module")
def server(served_folder):
    with running(served_folder, "--request-seconds", str(SECONDS)) as parts:
        yield parts


def connect(address: str) -> socket.socket:
    parts = urlsplit(address)
    return socket.create_connection((parts.hostname, parts.port), timeout=30)


def embed(address: str) -> int:
    request = urllib.request.Request(f"{address}/embed", BODY, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.status


def seconds_until_closed(connection: socket.socket, pieces: bytes) -> float:
    """How long a connection lives whose client sends a byte now and then."""
    start = time.perf_counter()
    connection.settimeout(0.1)
    left = iter(pieces)
    while time.perf_counter() - start < 10 * SECONDS:
        try:
            if (byte := next(left, None)) is not None:
                connection.sendall(bytes([byte]))
            if connection.recv(100) == b"":
                break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    return time.perf_counter() - start


@pytest.mark.slow
@pytest.mark.parametrize("sent", [b"", HEAD[:-4], HEAD], ids=["nothing", "a head", "a body"])
def test_a_request_that_does_not_come_is_not_waited_for(server, sent):
    with connect(server[1]) as connection:
        if sent == HEAD:
            connection.sendall(HEAD)
        taken = seconds_until_closed(connection, {b"": b"", HEAD[:-4]: HEAD[:-4], HEAD: BODY[:-1]}[sent])
    assert 0.5 * SECONDS < taken < 3 * SECONDS


@pytest.mark.slow
def test_a_connection_that_is_used_again_has_as_long_for_each_request(server):
    with connect(server[1]) as connection:
        for _ in range(3):
            time.sleep(0.6 * SECONDS)
            connection.sendall(HEAD + BODY)
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
            connection.settimeout(0.3)
            try:
                while connection.recv(1 << 16):
                    pass
            except TimeoutError:
                connection.settimeout(30)
        connection.sendall(HEAD[:10])
        assert seconds_until_closed(connection, b"") < 3 * SECONDS


@pytest.mark.slow
def test_many_idle_connections_and_clients_that_leave_do_not_stop_the_others(server):
    idle = [connect(server[1]) for _ in range(200)]
    try:
        for connection in idle[:100]:
            connection.sendall(HEAD + BODY)
            connection.close()  # without reading the answer
        assert embed(server[1]) == 200
    finally:
        for connection in idle:
            connection.close()
    assert server[0].poll() is None


@pytest.mark.slow
def test_a_body_without_end_is_refused(server):
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    with connect(server[1]) as connection:
        connection.sendall(b"POST /embed HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n")
        answer = b""
        try:
            for _ in range(400):
                connection.sendall(chunk)
        except ConnectionError:
            pass
        try:
            answer = connection.recv(100)
        except ConnectionError:  # closed with data unread
            answer = b"HTTP/1.1 413"
    assert answer.startswith(b"HTTP/1.1 413")
    assert embed(server[1]) == 200


@pytest.mark.slow
def test_sigterm_under_load_answers_what_it_has_accepted_and_ends_well(served_folder):
    outcomes: list[str] = []

    def client(address: str) -> None:
        while True:
            try:
                outcomes.append(str(embed(address)))
            except urllib.error.HTTPError as error:
                outcomes.append(str(error.code))
                return
            except (urllib.error.URLError, ConnectionError) as error:
                reason = getattr(error, "reason", error)
                outcomes.append("refused" if isinstance(reason, ConnectionError) else repr(error))
                return

    with running(served_folder, "--stop-seconds", "20") as (process, address, log):
        clients = [threading.Thread(target=client, args=[address]) for _ in range(16)]
        for thread in clients:
            thread.start()
        while outcomes.count("200") < 50:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        for thread in clients:
            thread.join(60)
        assert process.wait(30) == 0
    assert set(outcomes) <= {"200", "503", "refused"}, log
    assert len(outcomes) - outcomes.count("200") == len(clients)  # each was answered until it was refused
