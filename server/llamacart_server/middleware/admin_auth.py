"""Who may change what the server offers."""

import hmac
from collections.abc import Awaitable, Callable

from fastapi import Request
from pydantic import SecretStr

from llamacart.errors import LlamacartError
from llamacart_server.errors import AuthenticationError
from llamacart_server.middleware.auth import presented_keys


class PermissionDeniedError(LlamacartError):
    """The request's key is not the admin key."""

    status = 403
    code = "admin_key_needed"
    type = "permission_error"


class AdminOffError(PermissionDeniedError):
    """The server has no admin key, so that nobody may administer it."""

    code = "admin_off"


class TrainingOffError(PermissionDeniedError):
    """The server makes no cartridges."""

    code = "training_off"


def admin_guard(key: SecretStr | None) -> Callable[[Request], Awaitable[None]]:
    """A dependency that lets only the admin key pass; compared in constant time.

    It raises `AdminOffError` where there is no such key, `AuthenticationError` where the request
    carries none, and `PermissionDeniedError` where it carries another.

    Args:
        key: The admin key, None where administration is off.
    """
    secret = None if key is None else key.get_secret_value().encode()

    async def guard(request: Request) -> None:
        if secret is None:
            raise AdminOffError(
                "administration is off; the server must be started with an admin key "
                "(--admin-key, LLAMACART_ADMIN_KEY)"
            )
        given = list(presented_keys(request.scope["headers"]))
        if not given:
            raise AuthenticationError(
                "the admin key is needed, as 'Authorization: Bearer <key>' or 'X-Api-Key: <key>'"
            )
        if not any(hmac.compare_digest(one, secret) for one in given):
            raise PermissionDeniedError("this key may not administer the server")

    return guard
