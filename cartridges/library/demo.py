"""Start a server with the French cartridge, ask it once without and once with it, and stop it.

Run by `make demo` after `llamacart train`; takes the folder of the cartridge.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

PROMPTS = ("In the summer we like to", "The best way to learn a new language is")
PORT = 8081
URL = f"http://127.0.0.1:{PORT}"


def call(path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """GET, or POST a JSON body; returns the JSON answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(  # noqa: S310 - always our own loopback server
        URL + path, data, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:  # noqa: S310
        answer: dict[str, Any] = json.load(response)
        return answer


def wait_until_ready(server: subprocess.Popen[bytes]) -> None:
    """Poll `/ready` until the model is loaded."""
    for _ in range(600):
        if server.poll() is not None:
            sys.exit(f"the server stopped with exit code {server.returncode}")
        try:
            call("/ready")
        except OSError:
            time.sleep(0.1)
        else:
            return
    sys.exit("the server was not ready within a minute")


def main() -> None:
    """Print English beside French."""
    folder = Path(sys.argv[1])
    command = [Path(sys.executable).with_name("llamacart"), "serve", "--model", "demo"]
    options = ["--cartridges", folder, "--port", str(PORT), "--no-log-requests", "--no-ui"]
    server = subprocess.Popen([*command, *options])  # noqa: S603
    try:
        wait_until_ready(server)
        base, steered = (model["id"] for model in call("/v1/models")["data"])
        table = Table("prompt", base, steered)
        for prompt in PROMPTS:
            texts = []
            for model in (base, steered):
                body = {"model": model, "prompt": prompt, "max_tokens": 24, "temperature": 0}
                texts.append(call("/v1/completions", body)["choices"][0]["text"].strip())
            table.add_row(prompt, *texts)
        Console(width=110).print(table)
    finally:
        server.terminate()
        server.wait()
    print(how_to_browse(folder))


def how_to_browse(folder: Path) -> str:
    """What starts the page, where cartridges can be made too, with a key of its own."""
    key = secrets.token_hex(4)
    program = os.path.relpath(Path(sys.executable).with_name("llamacart"))
    return (
        f"The same in a browser, and a cartridge of your own (its key is {key}): run\n"
        f"  {program} serve --model demo --cartridges {folder} --train-jobs --admin-key {key}\n"
        "and open http://127.0.0.1:8080/"
    )


if __name__ == "__main__":
    main()
