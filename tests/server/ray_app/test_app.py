"""The application under Ray itself, on this machine."""

import socket

import numpy as np
import openai
import pytest

from llamacart.cartridge import Cartridge, LayerMap, Metadata
from llamacart.file.writer import write_cartridge

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'llamacart[ray]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


@pytest.fixture(scope="module")
def base_url(tmp_path_factory, tiny_model, tiny_path):
    from ray import serve

    from llamacart_server.ray_app.app import build

    folder = tmp_path_factory.mktemp("cartridges")
    for seed in range(3):
        bias = np.random.default_rng(seed).normal(size=32).astype(np.float32) * 2
        layer = LayerMap(1, np.arange(32, dtype=np.int32), None, bias)
        metadata = Metadata(f"c{seed}", created="2026-01-02T03:04:05Z")
        cartridge = Cartridge(metadata, tiny_model.fingerprint, (layer,))
        write_cartridge(cartridge, folder / f"c{seed}.gguf")
    settings = {
        "model": str(tiny_path()),
        "cartridges": str(folder),
        "ctx": 512,
        "embedding_ctx": 64,
        "parallel": 4,
        "batch": 64,
        "max_cartridges": 2,
    }
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="error")
    serve.start(http_options={"port": port})
    try:
        serve.run(build(settings), name="llamacart")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        serve.shutdown()
        ray.shutdown()


@pytest.fixture
def client(base_url):
    with openai.OpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        yield client


def test_cartridges_come_and_go(client):
    assert [m.id for m in client.models.list()] == ["tiny", "tiny:c0", "tiny:c1", "tiny:c2"]
    asked = {"prompt": "a", "max_tokens": 8, "temperature": 0}
    texts = {}
    for model in ("tiny", "tiny:c0", "tiny:c1", "tiny:c2", "tiny:c0"):
        raw = client.completions.with_raw_response.create(model=model, **asked)
        text = raw.parse().choices[0].text
        assert texts.setdefault(model, text) == text
        assert raw.headers.get("x-llamacart-cartridges") == (None if model == "tiny" else "loaded")
    assert len(set(texts.values())) > 1
    stream = client.completions.create(model="tiny:c0", stream=True, **asked)
    assert "".join(chunk.choices[0].text for chunk in stream) == texts["tiny:c0"]
    with pytest.raises(openai.NotFoundError, match="no cartridge 'none'"):
        client.completions.create(model="tiny:none", **asked)
