"""The encoder that a library was made with: load it, and refuse another one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cochlea_sb.errors import UserError

if TYPE_CHECKING:
    from cochlea_sb.inference.sound_encoder import SoundEncoder


def load_own(folder: Path, identity: dict[str, Any], run_opts: dict[str, Any] | None) -> SoundEncoder:
    """Load the encoder of the library in a folder. SpeechBrain is imported only if its run options need it.

    Raises a UserError if ``identity`` names no source, or if the source can't be loaded or holds another encoder.
    """
    if identity["source"] is None:
        raise UserError(
            f"'{folder}' does not say where its encoder can be loaded from: pass the encoder to `SoundLibrary.open`, "
            "or `--model` at the command line."
        )
    from cochlea_sb.inference.sound_encoder import load_encoder

    options = run_opts or {}
    try:
        # The author of the library chose this model. It is safe to load: no code of a model runs.
        found = load_encoder(identity["source"], device=options.get("device"), revision=identity["revision"])
    except UserError as error:
        raise UserError(
            f"The encoder of '{folder}' can't be loaded: {error} Pass the encoder to `SoundLibrary.open`, or `--model` "
            "at the command line."
        ) from error
    check_own(folder, identity, found)
    if options.keys() - {"device"}:  # such as the precision
        from cochlea_sb.inference.audio_encoder import AudioEncoder

        found = AudioEncoder._of(found, options)
    return found


def check_own(folder: Path, own: dict[str, Any], encoder: SoundEncoder) -> None:
    """Raise a UserError if an encoder is not the one whose identity is ``own``."""
    identity = encoder.identity()
    if identity["fingerprint"] != own["fingerprint"]:
        raise UserError(
            f"'{folder}' was made with another encoder ('{own['source']}', fingerprint {own['fingerprint'][:12]}) than "
            f"the given encoder ('{identity['source']}', fingerprint {identity['fingerprint'][:12]}): give the "
            "library's encoder, or index the sounds into a new library."
        )
