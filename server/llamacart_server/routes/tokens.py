"""Texts to tokens and back, for clients of llama-server and of vLLM."""

from fastapi import APIRouter

from llamacart.errors import InputError
from llamacart_server.bodies.answers import Text, TokenizerInfo, Tokens
from llamacart_server.bodies.generation import DetokenizeBody, Message, TokenizeBody
from llamacart_server.prompts.chat import chat_tokens
from llamacart_server.service import Service


def router(service: Service) -> APIRouter:
    """The routes, bound to what they work with."""
    routes = APIRouter()
    model = service.model

    # Plain functions: FastAPI runs them in a thread, for a text can be long.
    @routes.post("/tokenize")
    def tokenize(body: TokenizeBody) -> Tokens:
        given = [field for field in (body.content, body.prompt, body.messages) if field is not None]
        if len(given) != 1:
            raise InputError("give 'content', 'prompt' or 'messages', one of them", param="content")
        if body.messages is not None:
            return told(chat_prompt(body.messages, body))
        if body.content is not None:
            text, add_special = body.content, bool(body.add_special)
        else:
            text, add_special = body.prompt or "", body.add_special_tokens is not False
        tokens = model.tokenizer.tokenize(
            text, add_special=add_special, parse_special=body.parse_special is not False
        )
        return told(tokens)

    def told(tokens: list[int]) -> Tokens:
        return Tokens(tokens=tokens, count=len(tokens), max_model_len=model.n_ctx)

    def chat_prompt(messages: list[Message], body: TokenizeBody) -> list[int]:
        """The prompt that a chat becomes; its template says which special tokens it has."""
        for name in ("add_special", "add_special_tokens"):
            if getattr(body, name):
                raise InputError(f"{name} does not go with 'messages'", param=name)
        return chat_tokens(model.template, messages, model.tokenizer)

    @routes.get("/tokenizer_info")
    def tokenizer_info() -> TokenizerInfo:
        template = model.template
        return TokenizerInfo(
            bos_token=template.bos or None,
            eos_token=template.eos or None,
            chat_template=template.text,
            model_max_length=model.n_ctx,
        )

    @routes.post("/detokenize")
    def detokenize(body: DetokenizeBody) -> Text:
        service.check_tokens(body.tokens, "tokens")
        text = model.tokenizer.detokenize(body.tokens, special=True)
        return Text(content=text, prompt=text)

    return routes
