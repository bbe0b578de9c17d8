from __future__ import annotations

import pytest

from llamacart.errors import ModelError
from llamacart.passes.lora import LoraAdapter


def test_what_is_no_adapter_is_refused(tiny_model, tmp_path) -> None:
    path = tmp_path / "no.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"cannot load adapter .*no\.gguf"):
        LoraAdapter(tiny_model, path)
    with pytest.raises(ModelError, match=r"expect general\.type to be 'adapter'"):
        LoraAdapter(tiny_model, tiny_model.path)
