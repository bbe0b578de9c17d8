"""Example bodies for the OpenAPI document, which puts the served model's id into `model`."""

from pydantic import JsonValue

COMPLETIONS: list[JsonValue] = [
    {
        "model": "",
        "prompt": "The capital of France is",
        "max_tokens": 8,
        "temperature": 0,
    },
    {
        "model": "",
        "prompt": ["One", "Two"],
        "echo": True,
        "n": 2,
        "seed": 7,
    },
]
EMBEDDINGS: list[JsonValue] = [
    {"model": "", "input": ["A llama is a camelid.", "Bread is baked."]},
    {"model": "", "input": "A llama is a camelid.", "encoding_format": "base64"},
]
RESPONSES: list[JsonValue] = [
    {
        "model": "",
        "instructions": "Answer in one sentence.",
        "input": "Why is the sky blue?",
        "max_output_tokens": 32,
    },
    {"model": "", "input": [{"role": "user", "content": "Hello!"}], "stream": True},
]
CHATS: list[JsonValue] = [
    {
        "model": "",
        "messages": [{"role": "user", "content": "Hello!"}],
        "max_tokens": 16,
    },
    {
        "model": "",
        "messages": [
            {"role": "system", "content": "Answer in one sentence."},
            {"role": "user", "content": [{"type": "text", "text": "What is a llama?"}]},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 16,
        "seed": 7,
    },
    {
        "model": "",
        "messages": [{"role": "user", "content": "A llama as JSON."}],
        "response_format": {"type": "json_object"},
        "cartridges": [],
        "max_tokens": 32,
    },
]
