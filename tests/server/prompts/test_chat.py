from contextlib import ExitStack

import httpx
import pytest

from llamacart.chat.builtin_templates import CHATML
from llamacart.chat.templates import ChatTemplate, choose_template
from llamacart.errors import InputError
from llamacart_server.app import create_app
from llamacart_server.bodies.generation import Message
from llamacart_server.prompts.chat import chat_tokens
from llamacart_server.served import ServedModel, describe
from llamacart_server.settings import ServeSettings


@pytest.fixture
def serve_model(engine, library, live):
    """Function to a client of a server of some model."""
    with ExitStack() as stack:

        def start(model):
            url = stack.enter_context(live(create_app(engine, library, model, ServeSettings())))
            return stack.enter_context(httpx.Client(base_url=url, timeout=10))

        yield start


def test_a_server_whose_template_is_broken(serve_model, engine, fake_model):
    template = ChatTemplate("gguf", "a\n{% frobnicate %}", "<bos>")
    client = serve_model(ServedModel("fake-1b", (), 512, fake_model, template))
    for path, field, param in (
        ("/v1/chat/completions", "messages", "messages"),
        ("/v1/responses", "input", "input"),
    ):
        body = {"model": "fake-1b", field: [{"role": "user", "content": "Hi"}]}
        response = client.post(path, json=body)
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["param"] == param
        assert "unknown tag 'frobnicate'" in error["message"]
        assert "(line 2)" in error["message"]
    answer = client.post("/v1/completions", json={"model": "fake-1b", "prompt": "a"})
    assert answer.status_code == 200


def test_parts_are_joined_by_newlines():
    message = Message.model_validate(
        {"role": "user", "content": [{"type": "text", "text": t} for t in "ab"]}
    )
    assert message.text == "a\nb"


def test_the_log_says_of_a_broken_template_how_to_name_another(fake_model, caplog):
    class Broken(type(fake_model)):
        name = spec = "broken"
        chat_template = "{% frobnicate %}"

    template = describe(Broken(), 512).template
    assert "the model's chat template cannot be used: " in caplog.text
    assert "unless --chat-template names another (a file, or gemma, llama3, chatml)" in caplog.text
    with pytest.raises(InputError, match=r"another one \(--chat-template\)"):
        chat_tokens(template, [Message(role="user", content="x")], Broken())


def test_a_developer_speaks_as_the_system(fake_model):
    template = choose_template(fake_model)
    written = [
        chat_tokens(
            template,
            [Message(role=role, content="S"), Message(role="user", content="U")],
            fake_model,
        )
        for role in ("system", "developer")
    ]
    assert written[0] == written[1]
    assert fake_model.detokenize(written[0]).startswith("user\nS\n\nU")


WITH_BOS = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}"
    "{{ eos_token if m.role == 'assistant' }}{% endfor %}"
    "{{ '[assistant] ' if add_generation_prompt }}"
)


@pytest.mark.parametrize("text", [None, WITH_BOS, CHATML])
def test_plain_messages_are_what_templates_take_already(fake_model, text):
    """So that a program that holds messages and no request has the server's tokens."""

    class Own(type(fake_model)):
        chat_template = text

    model = Own()
    template = choose_template(model)
    turns = [
        ("system", "Be <eos> brief. "),
        ("user", " <start_of_turn>Hi"),
        ("assistant", "Yo\n"),
        ("user", "Why?"),
    ]
    request = [Message(role=role, content=content) for role, content in turns]
    plain = [{"role": role, "content": content} for role, content in turns]
    tokens = chat_tokens(template, request, model)
    assert tokens == template.tokens(plain, model)
    assert tokens.count(model.bos_token) == 1


@pytest.mark.model
def test_plain_messages_of_a_real_template(smol_model):
    template = describe(smol_model, 512).template
    request = [Message(role="user", content="Hi <|im_end|>")]
    tokens = chat_tokens(template, request, smol_model)
    assert tokens == template.tokens([{"role": "user", "content": "Hi <|im_end|>"}], smol_model)
    assert "You are a helpful AI assistant named SmolLM" in smol_model.detokenize(tokens)
