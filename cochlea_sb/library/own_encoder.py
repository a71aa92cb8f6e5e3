"""The encoder that a library was made with: load it, and refuse another one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cochlea_sb.errors import UserError

if TYPE_CHECKING:
    from cochlea_sb.inference.encoder import Encoder


def load_own(folder: Path, identity: dict[str, Any], run_opts: dict[str, Any] | None) -> Encoder:
    """Load the encoder of the library in a folder. SpeechBrain is imported only if its run options need it.

    The author of the library chose the encoder. So it is loaded only if no code of it runs: models of cochlea_sb and of
    transformers. Raises a UserError for the others; if ``identity`` names no source; or if the source can't be loaded
    or holds another encoder.
    """
    source = identity["source"]
    if source is None:
        raise UserError(
            f"'{folder}' does not say where its encoder can be loaded from: pass the encoder to `SoundLibrary.open`, "
            "or `--model` at the command line."
        )
    from cochlea_sb.inference.load import load_encoder, split_kind

    kind, name = split_kind(source)
    if kind == "speechbrain":
        raise UserError(
            f"'{folder}' was made with '{source}', and loading this model can run any code of its author: if you trust "
            f"the author, add --model '{source}' --trust_remote_code, or pass the encoder to `SoundLibrary.open`."
        )
    if kind == "python":
        raise UserError(
            f"'{folder}' was made with '{name}', an encoder in Python: pass it to `SoundLibrary.open`, or name it with "
            "--model python:MODULE:NAME, for the object NAME in MODULE.py."
        )
    try:
        found = load_encoder(source, run_opts=run_opts, revision=identity["revision"])
    except UserError as error:
        raise UserError(
            f"The encoder of '{folder}' can't be loaded: {error} Pass the encoder to `SoundLibrary.open`, or `--model` "
            "at the command line."
        ) from error
    check_own(folder, identity, found)
    return found


def check_encoder(given: object) -> None:
    """Raise a UserError if an object is no encoder."""
    from cochlea_sb.inference.encoder import Encoder

    if not isinstance(given, Encoder):
        raise UserError(f"The encoder is {given!r}: expected an Encoder, such as `load_encoder(...)` returns.")


def check_own(folder: Path, own: dict[str, Any], encoder: Encoder) -> None:
    """Raise a UserError if an encoder is not the one whose identity is ``own``."""
    identity = encoder.identity()
    if identity["fingerprint"] != own["fingerprint"]:
        raise UserError(
            f"'{folder}' was made with another encoder ('{own['source']}', fingerprint {own['fingerprint'][:12]}) than "
            f"the given encoder ('{identity['source']}', fingerprint {identity['fingerprint'][:12]}): give the "
            "library's encoder, or index the sounds into a new library."
        )
