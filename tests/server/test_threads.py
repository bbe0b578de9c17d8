"""Calls in threads and the tasks that wait for them."""

import asyncio
import threading

import pytest

from llamacart_server.routes.cartridges import _Upload
from llamacart_server.threads import in_thread


def test_results_and_errors():
    async def main():
        assert await in_thread(max, 2, 7) == 7
        with pytest.raises(ZeroDivisionError):
            await in_thread(lambda: 1 // 0)

    asyncio.run(main())


@pytest.mark.parametrize("fails", [False, True])
def test_a_cancelled_task_waits_for_its_thread(fails):
    inside, go, over = threading.Event(), threading.Event(), threading.Event()

    def work():
        inside.set()
        assert go.wait(60)
        over.set()
        if fails:
            raise ValueError("nobody asks any more")

    async def main():
        task = asyncio.ensure_future(in_thread(work))
        await asyncio.to_thread(inside.wait, 60)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
            assert not task.done(), "the thread works on"
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert over.is_set()

    asyncio.run(main())


def test_a_cancelled_upload_leaves_no_file(tmp_path):
    path = tmp_path / "upload.tmp"
    inside, go = threading.Event(), threading.Event()

    class Slow(_Upload):
        def write(self, piece):
            inside.set()
            assert go.wait(60)
            super().write(piece)

    upload = Slow(path)

    async def receive():
        try:
            try:
                await in_thread(upload.write, b"abc")
            finally:
                await in_thread(upload.close)
        finally:
            path.unlink()  # as `CartridgeStore.upload_path` does; it is there by now

    async def main():
        task = asyncio.ensure_future(receive())
        await asyncio.to_thread(inside.wait, 60)
        task.cancel()
        await asyncio.sleep(0)
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert not list(tmp_path.iterdir())
    assert upload._file.closed
