"""The folder in which a fit leaves what is done, so that a killed one goes on where it was.

    manifest.json         what the fit is of; another fit is refused
    answers.json          what the model has answered behind the prompt
    layer-<l>.gguf        the layer's map, as a cartridge of one layer
    layer-<l>.json        the layer's figures, and the content hash of its map; written last
    moments-<l>-<n>.npz   sums over the first n chunks of a layer whose rows stream past

Each file is written under a temporary name, put on disk and renamed, so that what is there is
whole. Everything is restored to the bit, and a fit is a function of what the manifest holds: the
resumed one gives the same cartridge file.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from llamacart.cartridge import Cartridge, Metadata
from llamacart.disk.whole import write_whole
from llamacart.errors import CartridgeError, InputError
from llamacart.file.reader import read_cartridge
from llamacart.file.writer import write_cartridge
from llamacart_trainer.fitting.identity import differing, digests
from llamacart_trainer.fitting.moments import Moments
from llamacart_trainer.fitting.settings import LayerReport
from llamacart_trainer.recipe.turns import Exchange

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from llamacart.cartridge import Fingerprint, LayerMap

    Found = tuple[LayerMap | None, LayerReport]

MANIFEST = "manifest.json"
ANSWERS = "answers.json"
SECONDS_BETWEEN_MOMENTS = 60.0
"""Sums are large, and no more work than this is lost."""

_OWN = re.compile(
    r"(manifest\.json|answers\.json|layer-\d+\.(json|gguf)|moments-\d+-\d+\.npz|\.[\w.-]+-[0-9a-f]{16}\.tmp)"
)


class NoJob:
    """Keeps nothing."""

    def answers(self) -> list[Exchange] | None:
        """See `Job`."""
        return None

    def save_answers(self, answers: Sequence[Exchange]) -> None:
        """See `Job`."""

    def layer(self, layer: int) -> Found | None:  # noqa: ARG002
        """See `Job`."""
        return None

    def save(self, layer: int, layer_map: LayerMap | None, report: LayerReport) -> None:
        """See `Job`."""

    def moments(self, layer: int) -> tuple[int | None, Moments | None]:  # noqa: ARG002
        """See `Job`."""
        return None, None

    def save_moments(self, layer: int, n_chunks: int, moments: Moments) -> None:
        """See `Job`."""


NO_JOB = NoJob()


class Job:
    """Checkpoints of one fit.

    Nothing is written before there is something to keep.

    Args:
        folder: Where they are, or will be made.
        facts: What the result depends on, as JSON objects by name.
        fingerprint: The model.
        restart: Drop the checkpoints of another fit, or of this one, instead of resuming.

    Raises:
        InputError: The folder holds another fit's checkpoints, or something else altogether.
    """

    def __init__(
        self,
        folder: Path,
        facts: Mapping[str, Any],
        fingerprint: Fingerprint,
        *,
        restart: bool = False,
    ) -> None:
        self.folder = folder
        self._hashes = digests(facts)
        self._fingerprint = fingerprint
        self._saved_at = time.monotonic()
        if folder.exists():
            check_job(folder)
            if restart:
                remove_job(folder)
            else:
                self._check_same()

    def answers(self) -> list[Exchange] | None:
        """The model's answers, or None where they are not kept."""
        path = self.folder / ANSWERS
        if not path.exists():
            return None
        try:
            return [Exchange(**record) for record in json.loads(path.read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError) as error:
            raise _damaged(path, error) from error

    def save_answers(self, answers: Sequence[Exchange]) -> None:
        """Keep the model's answers."""
        self._open()
        self._write(ANSWERS, [asdict(answer) for answer in answers])

    def layer(self, layer: int) -> Found | None:
        """A finished layer's map and figures, or None where it is not finished."""
        path = self.folder / f"layer-{layer}.json"
        if not path.exists():
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            report = _read_report(record["report"])
            if record["map"] is None:
                return None, report
            kept = read_cartridge(path.with_suffix(".gguf"))
            if kept.content_hash != record["map"] or kept.layers[0].layer != layer:
                raise ValueError("the map is not the one the figures belong to")
        except (OSError, ValueError, KeyError, TypeError, CartridgeError) as error:
            raise _damaged(path, error) from error
        return kept.layers[0], report

    def save(self, layer: int, layer_map: LayerMap | None, report: LayerReport) -> None:
        """Keep a finished layer, and drop the sums it came from."""
        self._open()
        content = None
        if layer_map is not None:
            kept = Cartridge(Metadata(f"layer-{layer}"), self._fingerprint, (layer_map,))
            write_cartridge(kept, self.folder / f"layer-{layer}.gguf")
            content = kept.content_hash
        self._write(f"layer-{layer}.json", {"map": content, "report": asdict(report)})
        for path in self._moments_files(layer):
            path.unlink()

    def moments(self, layer: int) -> tuple[int, Moments | None]:
        """How many chunks of a layer have been summed up, and their sums."""
        found = self._moments_files(layer)
        return (_n_chunks(found[-1]), Moments.load(found[-1])) if found else (0, None)

    def save_moments(self, layer: int, n_chunks: int, moments: Moments) -> None:
        """Keep the sums over the first chunks of a layer, if the last ones are old enough."""
        if time.monotonic() - self._saved_at < SECONDS_BETWEEN_MOMENTS:
            return
        self._open()
        older = self._moments_files(layer)
        moments.save(self.folder / f"moments-{layer}-{n_chunks}.npz")
        for path in older:
            path.unlink()
        self._saved_at = time.monotonic()

    # --- the folder -------------------------------------------------------------------------

    def _open(self) -> None:
        if (self.folder / MANIFEST).exists():
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"folder {str(self.folder)!r} cannot be made: {error}") from error
        self._write(MANIFEST, self._hashes)

    def _check_same(self) -> None:
        path = self.folder / MANIFEST
        for unfinished in self.folder.glob(".*.tmp"):
            unfinished.unlink()
        if not any(self.folder.iterdir()):
            return
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            other = differing(known, self._hashes)
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(
                f"{str(path)!r} cannot be read ({error}); start over with --restart"
            ) from error
        if other:
            raise InputError(
                f"job folder {str(self.folder)!r} belongs to a fit with another "
                f"{' and another '.join(other)}; start over with --restart, "
                "or name another folder with --job"
            )

    def _moments_files(self, layer: int) -> list[Path]:
        """Ascending by the number of chunks."""
        return sorted(self.folder.glob(f"moments-{layer}-*.npz"), key=_n_chunks)

    def _write(self, name: str, content: object) -> None:
        path = self.folder / name
        try:
            write_whole(path, json.dumps(content))
        except OSError as error:
            raise InputError(f"cannot write {str(path)!r}: {error.strerror or error}") from error


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"checkpoint {str(path)!r} is damaged ({error}); start over with --restart")


def check_job(folder: Path) -> None:
    """Refuse a folder that holds anything but checkpoints.

    Raises:
        InputError: It does, or it is no folder.
    """
    if not folder.is_dir():
        raise InputError(f"job folder {str(folder)!r} is not a folder")
    foreign = sorted(path.name for path in folder.iterdir() if not _OWN.fullmatch(path.name))
    if foreign:
        raise InputError(
            f"job folder {str(folder)!r} holds {foreign[0]!r}, which no training has written"
        )


def kept(folder: Path) -> str:
    """What a job folder holds and how to go on, a clause for people."""
    n_layers = len(list(folder.glob("layer-*.json")))
    n_sums = len(list(folder.glob("moments-*.npz")))
    if not n_layers and not n_sums:
        if (folder / ANSWERS).exists():
            return (
                f"the model's answers are kept in {str(folder)!r}; the same command goes on from "
                "there, with --restart it starts over"
            )
        return "no layer was finished, nothing is kept"
    layers = f"{n_layers} layer{'s' * (n_layers != 1)}"
    return (
        f"{layers}{' and the sums of another' * (n_sums > 0)} kept in {str(folder)!r}; the same "
        "command goes on from there, with --restart it starts over"
    )


def remove_job(folder: Path) -> None:
    """Delete checkpoints, and the folder with them; nothing is done where there is none.

    Raises:
        InputError: The folder holds something else too.
    """
    if folder.exists():
        check_job(folder)
        # The manifest goes last: without it the rest would belong to nobody.
        for path in sorted(folder.iterdir(), key=lambda path: path.name == MANIFEST):
            path.unlink()
        folder.rmdir()


def _n_chunks(path: Path) -> int:
    return int(path.stem.split("-")[2])


def _read_report(record: dict[str, Any]) -> LayerReport:
    known = {field.name for field in fields(LayerReport)}
    values: dict[str, Any] = {
        name: _tuples(value) for name, value in record.items() if name in known
    }
    return LayerReport(**values)


def _tuples(value: Any) -> Any:
    """A JSON value with tuples for lists."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
