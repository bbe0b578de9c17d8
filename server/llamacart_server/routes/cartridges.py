"""`/v1/cartridges`: shows cartridges, and with the admin key adds and removes them while serving.

`POST /v1/load_lora_adapter` and `/v1/unload_lora_adapter` do the same in vLLM's words.
"""

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from llamacart.errors import InputError, NotFoundError
from llamacart_server.answers.sse import CLIENT_CLOSED_REQUEST
from llamacart_server.bodies.cartridges import (
    CartridgeDeleted,
    CartridgeId,
    CartridgeInfo,
    CartridgeList,
    LeftOutFile,
    LoadBody,
    LoadLoraBody,
    UnloadLoraBody,
)
from llamacart_server.errors import (
    BodyTooLargeError,
    ConflictError,
    StorageError,
    UnsupportedMediaTypeError,
)
from llamacart_server.middleware.admin_auth import PermissionDeniedError, admin_guard
from llamacart_server.openapi import failures
from llamacart_server.refusals import from_validation, unreadable
from llamacart_server.service import Service
from llamacart_server.threads import in_thread

PATH = "/v1/cartridges"
JSON, BINARY = "application/json", "application/octet-stream"

_POST_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            BINARY: {"schema": {"type": "string", "format": "binary"}},
            JSON: {"schema": LoadBody.model_json_schema()},
        },
    }
}


def router(service: Service) -> APIRouter:
    """The routes, bound to what they work with."""
    routes = APIRouter()
    base_id = service.model.id

    @routes.get(PATH)
    async def list_cartridges() -> CartridgeList:
        entries = service.library.snapshot
        left_out = service.library.left_out
        return CartridgeList(
            data=[CartridgeInfo.of(entry, base_id) for entry in entries],
            left_out=[LeftOutFile(file=left.file, reason=left.reason) for left in left_out],
            train_jobs=service.settings.train_jobs,
            weights_hash=service.model.weights_hash,
        )

    @routes.get(f"{PATH}/{{cartridge_id}}", responses=failures(NotFoundError))
    async def retrieve_cartridge(cartridge_id: str) -> CartridgeInfo:
        return CartridgeInfo.of(service.library.snapshot.entry(cartridge_id), base_id)

    routes.include_router(_admin_routes(service))
    return routes


def _admin_routes(service: Service) -> APIRouter:
    store = service.store
    # The guard is a dependency of the whole router, so that no route can go without it.
    routes = APIRouter(
        dependencies=[Depends(admin_guard(service.settings.admin_key))],
        responses=failures(PermissionDeniedError, NotFoundError, ConflictError),
    )
    replaced = {"model": CartridgeInfo, "description": "It replaced the cartridge with this id."}

    @routes.post(
        PATH,
        status_code=201,
        response_model=CartridgeInfo,
        responses={200: replaced, **failures(UnsupportedMediaTypeError)},
        openapi_extra=_POST_BODY,
    )
    async def add_cartridge(
        request: Request,
        response: Response,
        cartridge_id: Annotated[CartridgeId | None, Query(alias="id")] = None,
    ) -> CartridgeInfo | Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            if kind == JSON:
                body = await _json_body(request, service.settings.max_body_bytes)
                if cartridge_id is not None:
                    raise InputError("'id' belongs in the JSON body, not in the URL", param="id")
                entry, again = await in_thread(store.add_file, body.path, body.id)
            elif kind == BINARY:
                with store.upload_path() as path:
                    await _save_body(request, path)
                    entry, again = await in_thread(store.add_upload, path, cartridge_id)
            else:
                raise UnsupportedMediaTypeError(
                    f"Content-Type is {kind!r}; the bytes of a file as {BINARY}, or {JSON} "
                    "that names one, is needed"
                )
        except ClientDisconnect:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        if again:
            response.status_code = 200
        return CartridgeInfo.of(entry, service.model.id)

    @routes.delete(f"{PATH}/{{cartridge_id}}")
    async def delete_cartridge(cartridge_id: str, delete_file: bool = False) -> CartridgeDeleted:
        remove = partial(store.remove, delete_file=delete_file)
        deleted = await in_thread(remove, cartridge_id)
        return CartridgeDeleted(id=cartridge_id, file_deleted=deleted)

    @routes.post("/v1/load_lora_adapter", response_class=PlainTextResponse)
    async def load_lora_adapter(body: LoadLoraBody) -> str:
        add = partial(store.add_file, replaces=bool(body.load_inplace), param="lora_path")
        await in_thread(add, body.lora_path, body.lora_name)
        return f"Success: LoRA adapter '{body.lora_name}' added successfully."

    @routes.post("/v1/unload_lora_adapter", response_class=PlainTextResponse)
    async def unload_lora_adapter(body: UnloadLoraBody) -> str:
        await in_thread(store.remove, body.lora_name)
        return f"Success: LoRA adapter '{body.lora_name}' removed successfully."

    return routes


async def _save_body(request: Request, path: Path) -> None:
    upload = _Upload(path)
    try:
        try:
            async for piece in request.stream():
                await in_thread(upload.write, piece)
        finally:
            await in_thread(upload.close)
    except OSError as error:
        raise StorageError(f"cannot store the upload: {error.strerror or error}") from error


class _Upload:
    """A new file; what opens it also keeps it, so that a cancel in between loses nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def write(self, piece: bytes) -> None:
        if self._file is None:
            self._file = self._path.open("xb")
        self._file.write(piece)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


async def _json_body(request: Request, max_bytes: int) -> LoadBody:
    raw = bytearray()
    async for piece in request.stream():
        raw += piece
        if len(raw) > max_bytes:
            raise BodyTooLargeError(f"the body is larger than {max_bytes} bytes")
    try:
        body: Any = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise unreadable(error) from None
    try:
        return LoadBody.model_validate(body)
    except ValidationError as error:
        places = [{**e, "loc": ("body", *e["loc"])} for e in error.errors()]
        raise from_validation(places, body) from None
