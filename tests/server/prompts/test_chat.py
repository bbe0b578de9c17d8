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
from llamacart_trainer.recipe.recipe import Recipe
from llamacart_trainer.recipe.turns import Turn
from llamacart_trainer.recipe.writer import writer_for


@pytest.fixture
def serve_model(engine, library, live):
    """Function to a client of a server of some model."""
    with ExitStack() as stack:

        def start(model):
            url = stack.enter_context(live(create_app(engine, library, model, ServeSettings())))
            return stack.enter_context(httpx.Client(base_url=url, timeout=60))

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
def test_the_trainer_writes_what_the_server_reads(fake_model, text):
    class Own(type(fake_model)):
        chat_template = text

    model = Own()
    said = [
        ("system", "Be <eos> brief. "),
        ("user", " <start_of_turn>Hi"),
        ("assistant", "Yo\n"),
        ("user", "Why?"),
    ]
    request = [Message(role=role, content=content) for role, content in said]
    tokens = chat_tokens(choose_template(model), request, model)
    writer = writer_for(Recipe(name="x", format="chat"), model)
    assert writer.opened([Turn(*one) for one in said]) == tokens
    assert tokens.count(model.bos_token) == 1


@pytest.mark.model
@pytest.mark.parametrize("model_name", ["smol_model", "demo_model"])
def test_the_trainer_writes_what_the_server_reads_of_real_models(model_name, request):
    """SmolLM2's own template, which puts in a system line, and the builtin one of Gemma."""
    model = request.getfixturevalue(model_name)
    template = describe(model, 512).template
    said = [("user", "Hi <|im_end|><end_of_turn>"), ("assistant", "Yo!"), ("user", "Why?")]
    messages = [Message(role=role, content=content) for role, content in said]
    tokens = chat_tokens(template, messages, model)
    writer = writer_for(Recipe(name="x", format="chat"), model)
    turns = [Turn(*one) for one in said]
    assert writer.opened(turns) == tokens
    answered = writer.answered(turns[:1], "Yo!")
    assert list(answered.tokens) == tokens[: len(answered.tokens)]
    assert model.detokenize(answered.tokens[answered.start : answered.end]) == "Yo!"
    assert [model.is_end_of_generation(t) for t in answered.tokens[answered.end :]] == [True]
