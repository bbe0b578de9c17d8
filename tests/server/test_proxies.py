"""The proxies of docker/proxies, run before three servers: who answers, and what passes through."""

import re
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from llamacart.errors import OverloadedError
from llamacart_server.app import create_app
from llamacart_server.library.library import CartridgeLibrary
from llamacart_server.settings import ServeSettings

FOLDER = Path(__file__).parents[2] / "docker" / "proxies"
NJS = "/usr/lib/nginx/modules/ngx_http_js_module.so"
MISSING = {
    "nginx": None if shutil.which("nginx") and Path(NJS).exists() else "nginx with njs is missing",
    "haproxy": None if shutil.which("haproxy") else "haproxy is missing",
}
N = 12
IDS = [f"fake-1b:c{i}" for i in range(N)]


def nginx(folder, text):
    """The command that runs a configuration of nginx, its files below `folder`."""
    text = text.replace("/etc/nginx/", f"{folder}/").replace("/run/", f"{folder}/")
    paths = "".join(
        f"    {kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = text.replace("http {\n", f"http {{\n{paths}", 1).replace("auto", "1", 1)
    shutil.copy(FOLDER / "model_id.js", folder)
    (folder / "proxy.conf").write_text(text)
    return ["nginx", "-p", str(folder), "-c", str(folder / "proxy.conf"), "-g", "daemon off;"]


def haproxy(folder, text):
    """The same for HAProxy."""
    (folder / "proxy.conf").write_text(text)
    return ["haproxy", "-db", "-f", str(folder / "proxy.conf")]


PROXIES = {"nginx": (nginx, "nginx.conf"), "haproxy": (haproxy, "haproxy.cfg")}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(params=PROXIES)
def name(request):
    if MISSING[request.param]:
        pytest.skip(MISSING[request.param])
    return request.param


@pytest.fixture
def engines(shared_engine):
    return [type(shared_engine)() for _ in range(3)]


class Fleet:
    """A proxy and the servers behind it.

    Args:
        name: Of the proxy.
        text: Its configuration, with the addresses of the servers.
        port: Where it listens.
        folder: For its files.

    Attributes:
        client: Of the proxy.
        engines: Those of the servers.
        stop: Functions that stop each server.
    """

    def __init__(self, name, text, port, folder):
        self._command, self._text, self._folder = PROXIES[name][0], text, folder
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        self.engines, self.stop = [], []
        self._process = None

    def start(self, without=None):
        """Start the proxy, perhaps without the server of an address."""
        lines = self._text.splitlines(keepends=True)
        text = "".join(line for line in lines if without is None or without not in line)
        with (self._folder / "said.txt").open("w") as said:
            command = self._command(self._folder, text)
            self._process = subprocess.Popen(command, stdout=said, stderr=said)  # noqa: S603
        while True:
            assert self._process.poll() is None, (self._folder / "said.txt").read_text()
            try:
                self.client.get("/health")
                return
            except httpx.TransportError:
                time.sleep(0.01)

    def end(self):
        self._process.terminate()
        self._process.wait(30)

    def ask(self, model, **more):
        return self.client.post("/v1/completions", json={"prompt": "a", **more, "model": model})

    def who(self, model, **more):
        """The server that answers."""
        before = [len(engine.requests) for engine in self.engines]
        answer = self.ask(model, **more)
        assert answer.status_code == 200, answer.text
        after = [len(engine.requests) for engine in self.engines]
        [index] = [i for i in range(len(before)) if before[i] != after[i]]
        return index


@pytest.fixture
def fleet(name, engines, live, served, cartridge_named, tmp_path, request):
    library = CartridgeLibrary([cartridge_named(f"c{i}") for i in range(N)])
    settings = ServeSettings(**getattr(request, "param", {}))
    text, port = (FOLDER / PROXIES[name][1]).read_text(), free_port()
    text, n = re.subn(r"(listen |bind )(:?)8000", rf"\g<1>127.0.0.1:{port}", text)
    assert n == 1
    with ExitStack() as stack:
        stop, urls = [], []
        for i, engine in enumerate(engines, 1):
            own = stack.enter_context(ExitStack())
            urls.append(own.enter_context(live(create_app(engine, library, served, settings))))
            stop.append(own.close)
            text, n = re.subn(rf"10\.0\.0\.{i}:8080", urls[-1].removeprefix("http://"), text)
            assert n == 2
        fleet = Fleet(name, text, port, tmp_path)
        fleet.engines, fleet.stop, fleet.urls = engines, stop, urls
        stack.callback(fleet.client.close)
        fleet.start()
        stack.callback(fleet.end)
        yield fleet


def test_one_id_meets_one_server_and_all_have_their_share(fleet):
    first = {model: fleet.who(model) for model in IDS}
    assert {model: fleet.who(model, max_tokens=3) for model in IDS} == first
    assert set(first.values()) == {0, 1, 2}


def test_a_long_prompt_goes_where_a_short_one_goes(fleet):
    for model in IDS[:4]:
        assert fleet.who(model, prompt=[11] * 400, user="x" * 100_000) == fleet.who(model)


def test_a_body_that_no_proxy_holds_as_a_whole_is_answered(fleet):
    assert fleet.ask(IDS[0], user="x" * 2_000_000).status_code == 200


def test_a_server_that_is_gone_moves_its_own_ids_only(fleet):
    first = {model: fleet.who(model) for model in IDS}
    fleet.stop[0]()
    then = {model: fleet.who(model) for model in IDS}
    moved = {model for model in IDS if first[model] != then[model]}
    assert moved == {model for model in IDS if first[model] == 0}


def test_with_a_server_less_the_ids_of_the_others_stay(fleet):
    first = {model: fleet.who(model) for model in IDS}
    fleet.end()
    fleet.start(without=fleet.urls[0].removeprefix("http://"))
    stayed = {model: fleet.who(model) for model in IDS if first[model] != 0}
    assert stayed == {model: index for model, index in first.items() if index != 0}


def test_only_haproxy_gives_some_of_an_id_that_all_want_to_others(fleet, name):
    for engine in fleet.engines:
        engine.hangs = True
    body = {"model": IDS[0], "prompt": "a", "stream": True}
    with ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(fleet.client.stream("POST", "/v1/completions", json=body))
        busy = [len(engine.requests) for engine in fleet.engines]
    assert sum(busy) == 6
    assert (max(busy) < 6) == (name == "haproxy")


def test_the_next_server_answers_for_one_that_is_full(fleet):
    usual = fleet.who(IDS[0])
    fleet.engines[usual].refusals = [OverloadedError("full")]
    assert fleet.who(IDS[0]) != usual
    assert fleet.who(IDS[1]) >= 0


def test_where_all_are_full_the_client_is_told(fleet):
    for engine in fleet.engines:
        engine.refusals = [OverloadedError("full")] * 3
    answer = fleet.ask(IDS[0])
    assert answer.status_code == 503
    assert "Retry-After" in answer.headers


def test_tokens_pass_through_one_by_one_and_a_client_that_leaves_is_noticed(fleet, until):
    for engine in fleet.engines:
        engine.say("hello", end=False)
        engine.hangs = True
    body = {"model": IDS[0], "prompt": "a", "stream": True}
    with fleet.client.stream("POST", "/v1/completions", json=body) as answer:
        said = ""
        for line in answer.iter_lines():  # would wait for ever if it were held back
            said += line
            if '"o"' in line:
                [generation] = [g for engine in fleet.engines for g in engine.generations]
                assert not generation.cancelled.is_set()
                break  # which closes the answer
        assert '"h"' in said
    until(generation.cancelled.is_set)


@pytest.mark.parametrize("fleet", [{"api_key": "k"}], indirect=True)
def test_keys_and_errors_are_the_servers_own(fleet):
    assert fleet.ask(IDS[0]).json()["error"]["code"] == "invalid_api_key"
    key = {"Authorization": "Bearer k"}
    json = {**key, "Content-Type": "application/json"}
    broken = fleet.client.post("/v1/completions", content=b"{", headers=json)
    assert broken.status_code == 400
    unknown = fleet.client.post("/v1/completions", json={"prompt": "a"}, headers=key)
    assert unknown.status_code == 400


def test_what_is_the_same_everywhere_is_answered_by_anyone(fleet):
    models = fleet.client.get("/v1/models").json()["data"]
    assert {model["id"] for model in models} == {"fake-1b", *IDS}
    assert fleet.client.post("/tokenize", json={"prompt": "a"}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/cartridges"),
        ("DELETE", "/v1/cartridges/c1"),
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/v1/train_jobs"),
        ("GET", "/metrics"),
        ("GET", "/ready"),
    ],
)
def test_what_is_each_servers_own_is_not_reached(fleet, method, path):
    assert fleet.client.request(method, path).status_code in (403, 404)


@pytest.mark.parametrize("file", [file for _, file in PROXIES.values()])
def test_a_proxy_waits_longer_than_the_server_lets_an_answer_take(file):
    text = (FOLDER / file).read_text()
    [seconds] = re.findall(r"(?:proxy_read_timeout|timeout server) (\d+)s", text)
    assert float(seconds) > ServeSettings.model_fields["request_timeout"].default
