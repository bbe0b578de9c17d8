"""SIGTERM, as a real process with a real engine on a tiny model."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx
import pytest

COMMAND = [
    sys.executable,
    "-c",
    "import typer, llamacart_server.commands.serve as c; typer.run(c.serve)",
]
BROKEN = """
import typer, llamacart_server.commands.serve as c
from llamacart.runner import LlamaRunner

def broken(self, *slots):
    raise RuntimeError("the cache is gone")

LlamaRunner.free = LlamaRunner.clear = broken
typer.run(c.serve)
"""
HELD = """
import pathlib, sys, time, typer, llamacart_server.commands.serve as c
from llamacart.runner import LlamaRunner

run, go = LlamaRunner.run, pathlib.Path(sys.argv.pop(1))

def held(self, batch):
    all_there = len(set(batch.sequences)) == 3 and min(batch.positions) > 20
    while not go.exists():
        time.sleep(0.04)  # slow steps until three streams have begun, then none until told so
        if not all_there:
            break
    return run(self, batch)

LlamaRunner.run = held
typer.run(c.serve)
"""
LONG = 200_000
"""Tokens that no machine generates within a test."""


class Process:
    """`llamacart serve` on a free port, and its log, one JSON object a record."""

    def __init__(self, child):
        self.child = child
        greeting = child.stdout.readline()
        assert "listening on" in greeting, child.stderr.read()
        self.url = greeting.split()[2].rstrip(",").removesuffix("/v1")
        self._lines = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        self._lines.extend(self.child.stderr)

    def signal(self):
        self.child.send_signal(signal.SIGTERM)

    def wait(self, seconds=60):
        code = self.child.wait(seconds)
        self._reader.join()  # its pipe has ended
        return code

    @property
    def log(self):
        return [json.loads(line) for line in self._lines]


@contextmanager
def served(tiny_path, *options, command=COMMAND):
    settings = ["--model", str(tiny_path()), "--port", "0", "--ctx", "262144", "--threads", "1"]
    settings += ["--max-tokens", str(LONG), "--log-format", "json", "--parallel", "4"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(  # noqa: S603
        [*command, *settings, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as child:
        try:
            yield Process(child)
        finally:
            child.kill()


def body(max_tokens):
    return {
        "model": "tiny",
        "prompt": "a",
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "stream": True,
    }


class Stream(threading.Thread):
    """Reads one stream to its end in a thread."""

    def __init__(self, url, max_tokens):
        super().__init__(daemon=True)
        self._request = (f"{url}/v1/completions", body(max_tokens))
        self.begun = threading.Event()
        self.events = []
        self.error = None
        self.start()

    def run(self):
        url, content = self._request
        try:
            with httpx.stream("POST", url, json=content, timeout=60) as response:
                for line in response.iter_lines():
                    if line and line != ": keep-alive":
                        self.events.append(line.removeprefix("data: "))
                        self.begun.set()
        except httpx.HTTPError as error:
            self.error = error

    def ended(self):
        """The events before [DONE], the stream having ended as HTTP wants it."""
        self.join(60)
        assert not self.is_alive()
        assert self.error is None
        assert self.events[-1] == "[DONE]"
        return [json.loads(event) for event in self.events[:-1]]


def start_streams(process, *lengths):
    streams = [Stream(process.url, length) for length in lengths]
    for stream in streams:
        assert stream.begun.wait(60)
    return streams


def test_open_streams_finish_and_new_requests_are_refused(tiny_path, tmp_path, until):
    go = tmp_path / "go"
    command = [sys.executable, "-c", HELD, str(go)]
    with served(tiny_path, "--shutdown-seconds", "600", command=command) as process:
        streams = start_streams(process, 600, 600, 600)
        with httpx.Client(base_url=process.url, timeout=60) as client:
            assert client.get("/ready").status_code == 200
            process.signal()
            until(lambda: client.get("/ready").status_code == 503)  # the signal is on its way
            assert client.get("/health").status_code == 200
            refused = client.post("/v1/completions", json=body(1))
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert refused.headers["connection"] == "close"
            assert refused.json()["error"]["code"] == "overloaded"
        go.touch()
        for stream in streams:
            assert stream.ended()[-1]["choices"][0]["finish_reason"] == "length"
        assert process.wait() == 0


def test_what_outlives_the_grace_period_ends_with_an_error_event(tiny_path):
    with served(tiny_path, "--shutdown-seconds", "1") as process:
        streams = start_streams(process, LONG, LONG)
        begun = time.monotonic()
        process.signal()
        for stream in streams:
            *pieces, last = stream.ended()
            assert all(piece["choices"][0]["finish_reason"] is None for piece in pieces)
            assert last["error"]["code"] == "overloaded"
            assert "stopping" in last["error"]["message"]
        assert time.monotonic() - begun >= 1
        assert process.wait() == 0


def test_a_second_signal_stops_at_once(tiny_path, until):
    with served(tiny_path, "--shutdown-seconds", "600") as process:
        (stream,) = start_streams(process, LONG)
        process.signal()
        until(lambda: httpx.get(f"{process.url}/ready", timeout=60).status_code == 503)
        process.signal()
        assert process.wait() == 1
        stream.join(60)
        assert not stream.is_alive()
        assert "[DONE]" not in stream.events
        assert not [record for record in process.log if record["level"] == "error"]


def test_a_failed_engine_ends_the_process(tiny_path):
    command = [sys.executable, "-c", BROKEN]
    with served(tiny_path, "--prefix-cache", "0", command=command) as process:
        (long,) = start_streams(process, LONG)
        short = httpx.post(
            f"{process.url}/v1/completions", json=body(3) | {"stream": False}, timeout=60
        )
        assert short.status_code == 500
        assert short.json()["error"]["message"] == "the cache is gone"
        assert long.ended()[-1]["error"]["message"] == "the cache is gone"
        assert process.wait() == 70
        messages = [r["message"] for r in process.log if r["level"] == "critical"]
        assert messages == [
            "the engine has failed",
            "the server ends because its engine has failed",
        ]


def test_without_requests_it_stops_at_once(tiny_path):
    with served(tiny_path, "--shutdown-seconds", "600") as process:
        httpx.get(f"{process.url}/v1/models", timeout=60)
        process.signal()
        assert process.wait() == 0


@pytest.mark.parametrize("trusted", [True, False])
def test_proxies_are_believed_only_when_told(tiny_path, trusted):
    options = ["--trusted-proxy", "127.0.0.1"] if trusted else []
    with served(tiny_path, *options) as process:
        headers = {"X-Forwarded-For": "203.0.113.9", "X-Request-Id": "abc"}
        url = f"{process.url}/v1/models?a=b"
        assert httpx.get(url, headers=headers, timeout=60).status_code == 200
        process.signal()
        assert process.wait() == 0
        (record,) = [r for r in process.log if r.get("request_id") == "abc"]
        assert record["message"] == "GET /v1/models"
        assert record["client"] == ("203.0.113.9" if trusted else "127.0.0.1")
        assert (record["status"], record["level"]) == (200, "info")
