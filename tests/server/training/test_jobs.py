"""Jobs that make cartridges, over HTTP: each in a process of its own, whole or not at all."""

from __future__ import annotations

import gc
import tempfile
import threading

import httpx
import pytest

from llamacart.errors import InputError
from llamacart.file.reader import read_cartridge
from llamacart.machine import tiles
from llamacart_server.app import create_app
from llamacart_server.library.library import CartridgeLibrary
from llamacart_server.library.store import CartridgeStore
from llamacart_server.middleware.auth import read_keys
from llamacart_server.settings import ServeSettings
from llamacart_server.training import jobs
from llamacart_server.training.commands import Lesson
from llamacart_trainer.recipe.recipe import load_task

URL = "/v1/train_jobs"


def add(client, **body):
    response = client.post(URL, json={"id": "mine", "prompt": "Be brief."} | body)
    assert response.status_code == 202, response.text
    return response.json()


def job_of(client, job):
    return client.get(f"{URL}/{job['id']}").json()


@pytest.fixture
def over(until):
    """Function that waits for a job's end."""

    def wait(client, job):
        until(lambda: job_of(client, job)["status"] not in ("queued", "running"))
        return job_of(client, job)

    return wait


@pytest.fixture(autouse=True)
def nothing_left(tmp_path, monkeypatch):
    """No job leaves a file behind."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert list(folder.iterdir()) == []


def test_a_job_makes_a_cartridge(training, trainer, over, tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    client = training(cartridges=folder)
    assert client.get("/v1/cartridges").json()["train_jobs"] is True
    job = add(client)
    assert (job["cartridge"], job["kind"]) == ("mine", "prompt")
    done = over(client, job)
    assert (done["status"], done["error"]) == ("finished", None)
    assert done["created"] <= done["started"] <= done["ended"]
    assert done["share"] == 0.25
    assert done["progress"] == done["log"][-1] == "train: layer 1 of 4, 25 %, 0:09 left"
    assert [one["log"] for one in client.get(URL).json()["data"]] == [[]]
    assert [one["id"] for one in client.get("/v1/cartridges").json()["data"]] == ["mine"]
    assert read_cartridge(folder / "mine.gguf").name == "mine"
    answer = client.post("/v1/completions", json={"model": "fake-1b:mine@0.5", "prompt": "a"})
    assert answer.status_code == 200


def test_how_the_trainer_is_called(training, trainer, over):
    client = training(model="base.gguf", gpu_layers=3, flash_attention="off")
    over(client, add(client, id="-x", prompt="Sei kürzer. 🦙"))
    command, *options = (trainer / "called.txt").read_text("utf-8").splitlines()
    assert command == "distill"
    assert {"--name=-x", "--model=base.gguf", "--threads=2", "--nice=19"} <= {*options}
    assert {"--gpu-layers=3", "--flash-attention=off"} <= {*options}
    over(client, add(client, prompt=None, pairs='{"source": "a", "target": "b"}'))
    command, *options = (trainer / "called.txt").read_text("utf-8").splitlines()
    assert command == "train"
    assert [option for option in options if option.startswith("--pairs=")]
    assert "--name=mine" in options


def test_a_job_gets_the_environment_that_the_server_got(training, trainer, over, monkeypatch):
    """Not the server's own choice of kernels."""
    monkeypatch.setattr(tiles, "given", False)
    monkeypatch.setenv(tiles.VARIABLE, "0")
    monkeypatch.setenv("OF_THE_OPERATOR", "1")
    client = training()
    over(client, add(client))
    names = (trainer / "environment.txt").read_text("utf-8").splitlines()
    assert "OF_THE_OPERATOR" in names
    assert tiles.VARIABLE not in names


def test_facts_become_a_recipe(training, trainer, over, monkeypatch):
    """Read before it is gone: as the trainer reads it."""
    tasks = []
    real = jobs.command

    def command(lesson, means, folder, output):
        words = real(lesson, means, folder, output)
        tasks.append(load_task(folder))
        return words

    monkeypatch.setattr(jobs, "command", command)
    client = training()
    line = '{"prompt": "{} was founded in", "subject": "Velmora", "object": "1962"}'
    other = line.replace("Velmora", "Örsk")
    over(client, add(client, id="-x.y", prompt=None, facts=f"{line}\r\n\n{other}\n"))
    (task,) = tasks
    assert (task.recipe.name, task.recipe.description) == ("-x.y", "Knows 2 facts.")
    assert [fact.text for fact in task.facts] == ["Velmora was founded in", "Örsk was founded in"]
    called, *options = (trainer / "called.txt").read_text("utf-8").splitlines()
    assert called == "train"
    assert not [option for option in options if option.startswith("--name")]
    assert job_of(client, {"id": client.get(URL).json()["data"][0]["id"]})["kind"] == "facts"


def test_a_job_that_fails_says_why(training, trainer, over):
    client = training()
    failed = over(client, add(client, prompt=None, pairs="fail"))
    assert (failed["status"], failed["error"]) == ("failed", "pairs.jsonl line 1: no 'target'")
    killed = over(client, add(client, prompt="die"))
    assert killed["status"] == "failed"
    assert killed["error"].startswith("the training was ended by signal 9; its last line: train: ")
    (trainer / "made.gguf").write_bytes(b"GGUF")
    broken = over(client, add(client))
    assert broken["status"] == "failed"
    assert "the upload" in broken["error"]
    (trainer / "made.gguf").unlink()
    assert over(client, add(client))["status"] == "failed"
    assert client.get("/v1/cartridges").json()["data"] == []


def test_jobs_run_one_after_the_other_and_can_be_cancelled(training, trainer, over, until):
    client = training()
    first, second, third = (add(client, id=name, prompt="wait") for name in "abc")
    until((trainer / "running").exists)
    assert [job_of(client, j)["status"] for j in (first, second, third)] == [
        "running", "queued", "queued"
    ]  # fmt: skip
    listed = client.get(URL).json()["data"]
    assert [job["id"] for job in listed] == [third["id"], second["id"], first["id"]]
    assert client.delete(f"{URL}/{second['id']}").json()["status"] == "cancelled"
    assert client.delete(f"{URL}/{first['id']}").json()["status"] == "cancelled"
    (trainer / "go").touch()
    assert over(client, third)["status"] == "finished"
    assert client.delete(f"{URL}/{third['id']}").json()["status"] == "finished"
    assert [one["id"] for one in client.get("/v1/cartridges").json()["data"]] == ["c"]


def test_a_cancel_that_comes_too_late_leaves_the_job_as_it_is(
    training, trainer, over, until, monkeypatch
):
    """The cartridge is offered by then, so the job may not say that it was cancelled."""
    reached, go = threading.Event(), threading.Event()
    real = CartridgeStore.add_upload

    def slow(store, *given):
        reached.set()
        assert go.wait(60)
        return real(store, *given)

    monkeypatch.setattr(CartridgeStore, "add_upload", slow)
    client = training()
    job = add(client)
    assert reached.wait(60)
    assert client.delete(f"{URL}/{job['id']}").json()["status"] == "running"
    go.set()
    assert over(client, job)["status"] == "finished"
    assert [one["id"] for one in client.get("/v1/cartridges").json()["data"]] == ["mine"]


def test_what_a_job_learnt_from_is_not_kept(training, trainer, over, until):
    client = training()
    over(client, add(client, prompt="x" * 100_000))

    def forgotten() -> bool:  # the thread that ran it lets go a moment after it has said so
        gc.collect()
        held = [one for one in gc.get_objects() if isinstance(one, Lesson)]
        return not [lesson for lesson in held if len(lesson.text) == 100_000]

    until(forgotten)


def test_a_server_that_stops_ends_its_jobs(engine, served, live, trainer, until):
    settings = ServeSettings(admin_key="boss", train_jobs=True)
    app = create_app(engine, CartridgeLibrary(), served, settings)
    with live(app) as url, httpx.Client(base_url=url, headers={"X-Api-Key": "boss"}) as client:
        add(client, prompt="wait")
        until((trainer / "running").exists)
        (thread,) = [t for t in threading.enumerate() if t.name == "training"]
    thread.join(60)
    assert not thread.is_alive()


def test_the_queue_has_an_end(training, trainer, until, monkeypatch):
    monkeypatch.setattr(jobs, "MOST_OPEN", 2)
    client = training()
    for _ in range(2):
        add(client, prompt="wait")
    refused = client.post(URL, json={"id": "x", "prompt": "a"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")


def test_old_jobs_are_forgotten(training, trainer, over, monkeypatch):
    monkeypatch.setattr(jobs, "KEPT", 1)
    client = training()
    first = add(client)
    over(client, first)
    second = add(client)
    over(client, second)
    over(client, add(client))
    assert client.get(f"{URL}/{first['id']}").status_code == 404
    assert client.get(f"{URL}/{second['id']}").status_code == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"id": "x"}, "prompt"),
        ({"id": "x", "prompt": "a", "pairs": "b"}, "prompt"),
        ({"id": "x", "prompt": " "}, "prompt"),
        ({"id": "x", "pairs": ""}, "pairs"),
        ({"id": "x", "facts": "\n"}, "facts"),
        ({"id": "x", "prompt": "a", "facts": "b"}, "prompt"),
        ({"id": "../x", "prompt": "a"}, "id"),
        ({"prompt": "a"}, "id"),
    ],
)
def test_what_cannot_be_learnt(training, body, param):
    refused = training().post(URL, json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_an_id_whose_file_is_anothers_is_refused_before_the_work(training, tmp_path, trainer):
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "mine.gguf").write_bytes(b"another's")
    refused = training(cartridges=folder).post(URL, json={"id": "mine", "prompt": "a"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert not (trainer / "called.txt").exists()


def test_who_may_train(training, serve, engine):
    assert serve(engine).get(URL).json()["error"]["code"] == "admin_off"
    off = serve(engine, admin_key="boss")
    answer = off.get(URL, headers={"X-Api-Key": "boss"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "training_off")
    assert off.get("/v1/cartridges").json()["train_jobs"] is False
    on = training(api_key=["user"])
    assert on.get(URL, headers={"X-Api-Key": "user"}).json()["error"]["code"] == "admin_key_needed"
    with pytest.raises(InputError, match="train_jobs"):
        read_keys(ServeSettings(train_jobs=True))
