"""The constants of the file format are those of GGUF and of FORMAT.md."""

from __future__ import annotations

import struct

import gguf

from llamacart.file import format as fmt


def test_constants_are_those_of_gguf_and_of_the_document(packed):
    assert struct.pack("<I", gguf.GGUF_MAGIC) == fmt.MAGIC
    assert fmt.GGUF_VERSION == gguf.GGUF_VERSION
    assert fmt.ALIGNMENT == gguf.GGUF_DEFAULT_ALIGNMENT
    assert fmt.QUANTIZATION_VERSION == gguf.GGML_QUANT_VERSION
    kinds = gguf.GGUFValueType
    assert (fmt.UINT32, fmt.FLOAT32) == (kinds.UINT32, kinds.FLOAT32)
    assert (fmt.STRING, fmt.ARRAY) == (kinds.STRING, kinds.ARRAY)
    assert set(fmt.VALUE_BYTES) == {k.value for k in kinds} - {kinds.STRING, kinds.ARRAY}
    for number, name in fmt.TENSOR_TYPES.items():
        assert gguf.GGMLQuantizationType(number).name == name
        kind = gguf.GGMLQuantizationType(number)
        assert gguf.GGML_QUANT_SIZES[kind] == fmt.TYPE_BYTES[name]
    document = packed.DOCUMENT
    for key in fmt.REQUIRED_KEYS | fmt.VERSION_3_KEYS:
        assert f"`{key}`" in document or f"`.{key.rsplit('.', 1)[1]}`" in document, key
