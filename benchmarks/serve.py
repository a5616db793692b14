"""Throughput and latency of three servers of one exported model under concurrent single-text requests: python benchmarks/serve.py.

This project's server, MLflow's, and a minimal one of FastAPI around ``SentenceTransformer.encode`` run at once, but are asked in turn,
several times, so that other work on the machine slows them alike; compare ratios, not figures of different runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from _workload import ONE_WORD, default_weights, sample_texts, weights_of

from embedding_adaptation import Embedder, Strategy
from embedding_adaptation.embedder.export import write_sentence_transformer
from embedding_adaptation.model_registry import write_mlflow_model

OWN, MLFLOW, PLAIN = "this project", "MLflow", "sentence-transformers"
PLAIN_SERVER = """
import sys
import uvicorn
from fastapi import Body, FastAPI
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
app = FastAPI()
@app.post("/")
def embed(text: str = Body(embed=True)) -> list[float]:
    return model.encode(text, show_progress_bar=False).tolist()
uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
"""
STARTUP_SECONDS = 180


@dataclass
class Side:
    """A server: how it is started and asked, and what was measured."""

    name: str
    command: list[str]
    port: int
    path: str
    body: dict[str, Any]
    key: str
    seconds: list[float] = field(default_factory=list)
    errors: int = 0
    wall: float = 0.0

    @property
    def url(self) -> str:
        """Where texts are sent."""
        return f"http://127.0.0.1:{self.port}{self.path}"

    def request(self, text: str) -> bytes:
        """The body that asks for a text's vector."""
        return json.dumps(self.body | {self.key: text if self.name != MLFLOW else [text]}).encode()


def sides_of(folder: Path, scratch: Path, dtype: str) -> list[Side]:
    """The three servers of an exported folder."""
    model = SimpleNamespace(artifact_location="model", model_id=None, source_run_id=None)
    dimensions = Embedder.load(folder, device="cpu").encode(["a"], progress=False).shape[1]
    write_mlflow_model(folder, scratch / "mlflow", dimensions, model)
    own, mlflow, plain = (free_port() for _ in range(3))
    python, port = sys.executable, ["--port"]
    serve = [python, "-m", "embedding_adaptation.serving", "--model", str(folder), "--name", "model"]
    serve += ["--device", "cpu", "--dtype", dtype, *port, str(own)]
    uri = ["--model-uri", str(scratch / "mlflow"), "--env-manager", "local"]
    return [
        Side(OWN, serve, own, "/v1/embeddings", {"model": "model"}, "input"),
        Side(MLFLOW, [python, "-m", "mlflow", "models", "serve", *uri, *port, str(mlflow)], mlflow, "/invocations", {}, "inputs"),
        Side(PLAIN, [python, "-c", PLAIN_SERVER, str(folder), str(plain)], plain, "/", {}, "text"),
    ]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def running(side: Side, log: Path) -> Iterator[None]:
    """A server that answers, until the end of the block."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "TOKENIZERS_PARALLELISM": "false"}
    environment.pop("EMBEDDING_API_KEY", None)
    with log.open("wb") as file:
        process = subprocess.Popen(side.command, stdout=file, stderr=file, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + STARTUP_SECONDS
        request = urllib.request.Request(side.url, side.request("a text"), {"Content-Type": "application/json"})
        while True:
            try:
                urllib.request.urlopen(request, timeout=30).close()
                break
            except (urllib.error.URLError, ConnectionError) as error:
                if process.poll() is not None or time.monotonic() > deadline or isinstance(error, urllib.error.HTTPError):
                    sys.exit(f"the server of {side.name} does not answer ({error}):\n{log.read_text()[-3000:]}")
                time.sleep(0.2)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # its own session: MLflow's command starts another process
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Client(asyncio.Protocol):
    """One connection that sends the next text as soon as the answer to the last has arrived.

    It does no more than that, because a client library would take as much of the shared CPU as the servers that are compared.
    """

    def __init__(self, requests: list[bytes], turn: int, end: float) -> None:
        self.requests, self.turn, self.end = requests, turn, end
        self.seconds: list[float] = []
        self.errors = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first text."""
        self.transport: Any = transport
        self.send()

    def send(self) -> None:
        """Send the next text, or stop if the time is over."""
        self.begun, self.answer = time.perf_counter(), bytearray()
        if self.begun < self.end:
            self.transport.write(self.requests[self.turn % len(self.requests)])
            self.turn += 1
        else:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Collect an answer; once it is complete, send the next text."""
        self.answer += data
        head, separator, body = self.answer.partition(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        if not separator or length is None or len(body) < int(length[1]):
            return
        if head.split(maxsplit=2)[1] == b"200":
            self.seconds.append(time.perf_counter() - self.begun)
        else:
            self.errors += 1
        self.send()

    def connection_lost(self, error: Exception | None) -> None:
        """End; before the time is over, or in the middle of an answer, that is an error."""
        self.errors += int(error is not None or time.perf_counter() < self.end or bool(self.answer))
        self.done.set_result(None)


async def ask(side: Side, texts: list[str], clients: int, seconds: float, *, keep: bool) -> None:
    """Let all clients send one text after another for some time."""
    head = f"POST {side.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: "
    bodies = [side.request(text) for text in texts]
    requests = [f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies]
    loop, start = asyncio.get_running_loop(), time.perf_counter()
    made = [Client(requests, number * len(requests) // clients, start + seconds) for number in range(clients)]
    for client in made:
        await loop.create_connection(lambda client=client: client, "127.0.0.1", side.port)
    await asyncio.gather(*(client.done for client in made))
    if keep:
        side.wall += time.perf_counter() - start
        side.seconds += [one for client in made for one in client.seconds]
        side.errors += sum(client.errors for client in made)


def export(base: str | None, folder: Path) -> None:
    """Write a base model with PromptEOL's template as a plain sentence-transformers folder."""
    weights = default_weights() if base is None else weights_of(base, folder.parent)
    embedder = Embedder.load(weights, device="cpu", dtype="float32")
    folder.mkdir()
    write_sentence_transformer(embedder, folder, Strategy("prompted_last", ONE_WORD, "last"))


def main() -> None:
    """Measure the three servers and print a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="an exported folder; otherwise --base is exported")
    parser.add_argument("--base", help="a base model, such as random:tiny-llama; otherwise the project's")
    parser.add_argument("--dtype", default="float32", help="number format of this project's server; the others keep the folder's")
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds a server")
    parser.add_argument("--words", type=int, help="cut the texts to so many words, as queries are short")
    parser.add_argument("--clients", type=int, default=64, help="concurrent clients")
    parser.add_argument("--rounds", type=int, default=3, help="turns a server")
    arguments = parser.parse_args()
    texts = [" ".join(text.split()[: arguments.words]) for text in sample_texts(500)]
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as servers:
        folder = arguments.model or Path(scratch) / "model"
        if arguments.model is None:
            export(arguments.base, folder)
        sides = sides_of(folder.resolve(), Path(scratch), arguments.dtype)
        for side in sides:
            servers.enter_context(running(side, Path(scratch) / f"{side.port}.log"))
            asyncio.run(ask(side, texts, arguments.clients, 2.0, keep=False))
        for _ in range(arguments.rounds):
            for side in sides:
                asyncio.run(ask(side, texts, arguments.clients, arguments.seconds / arguments.rounds, keep=True))
    speeds = {}
    print(f"{arguments.clients} clients, single texts, {arguments.seconds:g} s a server in {arguments.rounds} turns")
    for side in sides:
        if not side.seconds:
            sys.exit(f"the server of {side.name} answered no request ({side.errors} errors)")
        speeds[side.name] = len(side.seconds) / side.wall
        p50, p99 = 1000 * np.percentile(side.seconds, [50, 99])
        print(f"  {side.name:<24} {speeds[side.name]:>8.1f} texts/s   p50 {p50:>7.1f} ms   p99 {p99:>7.1f} ms   {side.errors} errors")
    own = sides[0]
    p50, p99 = 1000 * np.percentile(own.seconds, [50, 99])
    result = {
        "throughput_ratio_mlflow": round(speeds[OWN] / speeds[MLFLOW], 2),
        "throughput_ratio_sentence_transformers": round(speeds[OWN] / speeds[PLAIN], 2),
        "p50_ms": round(p50, 1),
        "p99_ms": round(p99, 1),
        "errors": own.errors,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
