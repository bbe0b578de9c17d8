"""OpenAI's Responses API, told in terms of a chat."""
