"""Load any encoder by the name of its source."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from cochlea_sb.errors import UserError, one_line
from cochlea_sb.inference.encoder import Encoder
from cochlea_sb.inference.encoder_code import code_of
from cochlea_sb.inference.sound_encoder import SHIPPED, likely_device, load_sound_encoder, locate
from cochlea_sb.machine import check_device

KINDS = ("speechbrain", "transformers", "python")


def split_kind(source: str) -> tuple[str, str]:
    """Split a source into its kind, empty for a model of cochlea_sb, and the rest.

    Example
    -------
    >>> split_kind("transformers:user/name"), split_kind("user/name")
    (('transformers', 'user/name'), ('', 'user/name'))
    """
    kind, colon, name = source.partition(":")
    return (kind, name) if colon and kind in KINDS else ("", source)


def load_encoder(
    source: str | os.PathLike[str] = SHIPPED,
    *,
    run_opts: dict[str, Any] | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Encoder:
    """Load an encoder of any kind.

    Arguments
    ---------
    source : str or Path
        A model of cochlea_sb, as in `AudioEncoder.from_hparams`; by default, the shipped model.
        ``transformers:FOLDER`` or ``transformers:user/name``: CLAP, AST, or a model such as wav2vec2.
        ``speechbrain:FOLDER`` or ``speechbrain:user/name``: an `EncoderClassifier`, with ``trust_remote_code=True``.
        ``python:MODULE:NAME``: the `Encoder` with this name in a module of yours.
    run_opts : dict, optional, such as ``{"device": "cuda"}``; ``eval_precision`` is only for models of cochlea_sb
    revision : str, optional, branch, tag or commit of a model on the Hub
    trust_remote_code : bool, whether code of the model's author may run; models of transformers never run any

    Returns
    -------
    Encoder

    Raises
    ------
    UserError
        If the model can't be loaded, or needs ``trust_remote_code``, or the device can't be used.
    EncoderError, a UserError
        If importing a module of yours fails.
    """
    options = run_opts or {}
    check_device(options.get("device"))
    kind, name = split_kind(os.fspath(source))
    prefix, colon, _ = name.partition(":")
    if not kind and colon and prefix.isidentifier() and name != SHIPPED and not os.path.exists(name):
        raise UserError(f"'{name}' begins with '{prefix}:': expected one of {', '.join(f'{kind}:' for kind in KINDS)}.")
    if kind and options.get("eval_precision", "fp32") != "fp32":
        raise UserError(f"The precision is '{options['eval_precision']}': expected fp32 for '{source}'.")
    if kind == "python":
        return load_object(name, options.get("device"))
    if kind == "":
        return load_model_of_ours(source, options, revision, trust_remote_code)
    if kind == "speechbrain" and not trust_remote_code:
        raise UserError(
            f"'{source}' is a model of SpeechBrain, and loading one can run any code of its author: if you trust the "
            "author, give --trust_remote_code (`trust_remote_code=True`)."
        )
    place = locate(name, revision)
    if kind == "speechbrain":
        from cochlea_sb.inference.speechbrain_encoder import SpeechBrainEncoder

        found: Encoder = SpeechBrainEncoder.load(place.path, place.revision, run_opts)
        found.revision = place.revision
    else:
        from cochlea_sb.inference.transformers_encoder import TransformersEncoder

        device = options.get("device") or likely_device()
        found = TransformersEncoder.load(place.path, place.revision, is_folder=place.is_folder, device=device)
    found.source = f"{kind}:{place.source}"
    return found


def load_model_of_ours(
    source: str | os.PathLike[str], options: dict[str, Any], revision: str | None, trust_remote_code: bool
) -> Encoder:
    """Load a model of cochlea_sb. SpeechBrain is imported only if ``options`` or foreign code need it."""
    if not trust_remote_code and not options.keys() - {"device"}:
        return load_sound_encoder(source, device=options.get("device"), revision=revision)
    from cochlea_sb.inference.audio_encoder import AudioEncoder

    return AudioEncoder.from_hparams(source, run_opts=options, revision=revision, trust_remote_code=trust_remote_code)


def load_object(name: str, device: str | None = None) -> Encoder:
    """Import an `Encoder` by ``MODULE:NAME``. The current folder is searched, too, as ``python -m`` does."""
    module, _, attribute = name.partition(":")
    expected = "expected python:MODULE:NAME, such as python:my_encoder:encoder for `encoder` in my_encoder.py."
    if not module.strip(".") or module.startswith(".") or not attribute:
        raise UserError(f"The encoder is 'python:{name}': {expected}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    with code_of(f"python:{name}"):
        try:
            found = getattr(importlib.import_module(module), attribute, None)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # the module is there, and imports another one that is not
            raise UserError(f"'python:{name}' can't be imported ({one_line(error)}): {expected}") from error
    if found is None:
        raise UserError(f"'python:{name}' can't be imported ('{module}' has no '{attribute}'): {expected}")
    if not isinstance(found, Encoder):
        kind = "class" if isinstance(found, type) else type(found).__name__
        raise UserError(
            f"'python:{name}' is a {kind}: expected an object, such as `encoder = MyEncoder()` of a class, or "
            "`encoder = CallableEncoder(function, ...)` of a function."
        )
    if device not in (None, found.device):
        raise UserError(
            f"device is '{device}', and 'python:{name}' is on '{found.device}': its module chooses the device."
        )
    found.source = f"python:{name}"
    found._check()
    return found
