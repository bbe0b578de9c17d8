"""Constants of cartridge file format versions 1 to 4; FORMAT.md gives the rules and reasons."""

from __future__ import annotations

from typing import Final

from llamacart.file.storage import STORAGES
from llamacart.matrix import BLOCK

FORMAT_VERSIONS: Final = (1, 2, 3, 4)
"""Since version 2 a delta may be Q4_0 or Q5_0; version 3 has the key `llamacart.when`; since
version 4 a layer may hold two factors, and the key may be there or not. A file states the least it
needs."""
FILE_SUFFIX: Final = ".gguf"
"""Of files that are written; `has_suffix` takes other letter cases too."""

MAGIC: Final = b"GGUF"
GGUF_VERSION: Final = 3
ALIGNMENT: Final = 32
QUANTIZATION_VERSION: Final = 2

# GGUF value types.
UINT32: Final = 4
FLOAT32: Final = 6
STRING: Final = 8
ARRAY: Final = 9
VALUE_BYTES: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of one value of each fixed-size GGUF type; strings and arrays are the rest."""

TENSOR_TYPES: Final = {
    0: "F32",
    1: "F16",
    26: "I32",
    **{storage.ggml_number: storage.ggml_name for storage in STORAGES.values()},
}
"""GGML's number for each tensor type a cartridge may hold."""
_BLOCKS = ("Q8_0", "Q5_0", "Q4_0")
PART_TYPES: Final = {
    "neurons": ("I32",),
    "delta": _BLOCKS,
    "left": ("F16",),
    "right": _BLOCKS,
    "bias": ("F32",),
}
"""Types that each tensor `blk.N.<part>` may have; a layer has `neurons`, `bias`, and nothing else,
or `delta`, or `left` and `right`."""
FACTORS: Final = ("left", "right")
"""Parts that there are since version 4."""
VERSION_2_TYPES: Final = ("Q5_0", "Q4_0")
TYPE_BYTES: Final = {
    "F32": (1, 4),
    "F16": (1, 2),
    "I32": (1, 4),
    **{s.ggml_name: (BLOCK, s.block.itemsize) for s in STORAGES.values()},
}
"""Elements of one block of each type and its bytes."""

ARCHITECTURE: Final = "general.architecture"
TYPE: Final = "general.type"
NAME: Final = "general.name"
DESCRIPTION: Final = "general.description"
QUANTIZATION: Final = "general.quantization_version"
ALIGNMENT_KEY: Final = "general.alignment"
ADAPTER_TYPE: Final = "adapter.type"

PREFIX: Final = "llamacart."
VERSION: Final = "llamacart.format_version"
SITE_KEY: Final = "llamacart.site"
BASE_ARCHITECTURE: Final = "llamacart.base.architecture"
BASE_LAYERS: Final = "llamacart.base.n_layer"
BASE_WIDTH: Final = "llamacart.base.n_ff"
BASE_EMBEDDING: Final = "llamacart.base.n_embd"
BASE_HASH: Final = "llamacart.base.weights_hash"
BASE_NAME: Final = "llamacart.base.name"
DEFAULT_ALPHA: Final = "llamacart.default_alpha"
SOLVER: Final = "llamacart.solver"
SETTINGS: Final = "llamacart.settings"
DATASET_HASH: Final = "llamacart.dataset_hash"
DIAGNOSTICS: Final = "llamacart.diagnostics"
CREATED: Final = "llamacart.created"
TOOL_VERSION: Final = "llamacart.tool_version"
CONTENT_HASH: Final = "llamacart.content_hash"
WHEN: Final = "llamacart.when"

REQUIRED_KEYS: Final = {
    ARCHITECTURE: STRING,
    TYPE: STRING,
    ADAPTER_TYPE: STRING,
    NAME: STRING,
    DESCRIPTION: STRING,
    QUANTIZATION: UINT32,
    VERSION: UINT32,
    SITE_KEY: STRING,
    BASE_ARCHITECTURE: STRING,
    BASE_LAYERS: UINT32,
    BASE_WIDTH: UINT32,
    BASE_EMBEDDING: UINT32,
    BASE_HASH: STRING,
    BASE_NAME: STRING,
    DEFAULT_ALPHA: FLOAT32,
    SOLVER: STRING,
    SETTINGS: STRING,
    DATASET_HASH: STRING,
    DIAGNOSTICS: STRING,
    CREATED: STRING,
    TOOL_VERSION: STRING,
    CONTENT_HASH: STRING,
}
"""Every key of all versions with its GGUF type, in the order in which they are written."""
VERSION_3_KEYS: Final = {WHEN: STRING}
"""Keys that files of version 3 have beside those, and files of no earlier version; later ones may
have them."""

FIXED_VALUES: Final[dict[str, tuple[str, int, tuple[str | int, ...]]]] = {
    TYPE: ("adapter-type", STRING, ("adapter",)),
    ADAPTER_TYPE: ("adapter-type", STRING, ("llamacart",)),
    VERSION: ("format-version", UINT32, FORMAT_VERSIONS),
    QUANTIZATION: ("quantization-version", UINT32, (QUANTIZATION_VERSION,)),
    ALIGNMENT_KEY: ("alignment", UINT32, (ALIGNMENT,)),
}
"""Keys whose legal values are few: the rule it is, the GGUF type and the values."""

MAX_FILE_BYTES: Final = 1 << 30
MAX_KEYS: Final = 64
MAX_KEY_BYTES: Final = 128
MAX_STRING_BYTES: Final = 1 << 20
MAX_ARRAY_LENGTH: Final = 4096
MAX_JSON_DEPTH: Final = 16
MAX_WHEN_TEXTS: Final = 4096
MAX_WHEN_BYTES: Final = 256
MAX_LAYERS: Final = 1024
MAX_WIDTH: Final = 1 << 20
MAX_TENSORS: Final = 4 * MAX_LAYERS
MAX_TENSOR_NAME_BYTES: Final = 63
MAX_DIMS: Final = 4
MIN_HASH_DIGITS: Final = 8
MAX_HASH_DIGITS: Final = 128
