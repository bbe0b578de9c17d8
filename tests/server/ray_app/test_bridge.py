import asyncio
from contextlib import aclosing

import pytest

from llamacart_server.ray_app.bridge import BODY, START, answered, plain_scope

START_OF_ANSWER = {"type": START, "status": 200, "headers": []}


def collected(app, body=b""):
    async def collect():
        async with aclosing(answered(app, {"type": "http"}, body)) as messages:
            return [message async for message in messages]

    return asyncio.run(collect())


def test_the_request_goes_in_and_the_answer_comes_out():
    async def app(scope, receive, send):
        assert scope == {"type": "http"}
        request = await receive()
        assert not request["more_body"]
        await send(START_OF_ANSWER)
        await send({"type": BODY, "body": request["body"].upper()})

    assert collected(app, b"abc") == [
        START_OF_ANSWER,
        {"type": BODY, "body": b"ABC", "more_body": False},
    ]


def test_pieces_that_wait_come_as_one():
    async def app(scope, receive, send):
        await send(START_OF_ANSWER)
        sends = [
            send({"type": BODY, "body": bytes([65 + i]), "more_body": i < 3}) for i in range(4)
        ]
        await asyncio.gather(*sends)

    _, *pieces = collected(app)
    assert b"".join(piece["body"] for piece in pieces) == b"ABCD"
    assert [piece["more_body"] for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    assert len(pieces) < 4


def test_a_body_without_an_end():
    async def app(scope, receive, send):
        await send({"type": BODY, "body": b"a", "more_body": True})

    assert collected(app) == [{"type": BODY, "body": b"a", "more_body": True}]


def test_what_the_application_raises_is_raised():
    async def app(scope, receive, send):
        await send(START_OF_ANSWER)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        collected(app)


@pytest.mark.parametrize("how", ["closed", "cancelled"])
def test_leaving_ends_the_application(how):
    ended = []

    async def app(scope, receive, send):
        await receive()
        try:
            await send(START_OF_ANSWER)
            await asyncio.sleep(3600)
        finally:
            ended.append((await receive())["type"])

    async def leave():
        begun = asyncio.Event()

        async def read():
            async with aclosing(answered(app, {}, b"")) as messages:
                async for _ in messages:
                    begun.set()
                    if how == "closed":
                        return

        task = asyncio.ensure_future(read())
        await begun.wait()
        if how == "cancelled":
            task.cancel()
        await asyncio.wait({task})
        return task

    task = asyncio.run(leave())
    assert ended == ["http.disconnect"]
    assert task.cancelled() is (how == "cancelled")


def test_a_scope_for_another_process():
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/completions",
        "headers": [(b"content-encoding", b"gzip"), (b"Content-Length", b"9"), (b"a", b"b")],
        "app": object(),
    }
    scope["headers"][1] = (b"content-length", b"9")
    plain = plain_scope(scope, b"12345", "id")
    assert plain["headers"] == [(b"a", b"b"), (b"content-length", b"5"), (b"x-request-id", b"id")]
    assert plain["method"] == "POST"
    assert "app" not in plain
