"""Write and read model folders. A folder may come from an untrusted author, so everything that is read is checked.

``config.json`` names the classes of the front end and of the encoder, with their arguments. ``model.safetensors`` holds
the weights. Only these two files are read, and they can't hold code. ``hyperparams.yaml`` is written for SpeechBrain's
``EncoderClassifier.from_hparams`` (see `cochlea_sb.inference.pretrainer`).
"""

import hashlib
import importlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from cochlea_sb import __version__
from cochlea_sb.encoders.windowed import WINDOW_FRAMES, WindowEncoder
from cochlea_sb.errors import UserError, one_line
from cochlea_sb.features import MFCC, FrontEnd, Unnormalised, level
from cochlea_sb.files import whole_file, write_text
from cochlea_sb.hub import download

CONFIG, WEIGHTS, YAML = "config.json", "model.safetensors", "hyperparams.yaml"
# The classes that a config may name.
CLASSES = {
    "features": ("cochlea_sb.features.LogMel", "cochlea_sb.features.MFCC", "cochlea_sb.features.Chroma"),
    "encoder": (
        "cochlea_sb.encoders.bag_of_audio_words.BagOfAudioWords",
        "cochlea_sb.encoders.cnn.ConvEncoder",
        "cochlea_sb.encoders.log_mel.FlattenedLogMel",
        "cochlea_sb.encoders.resnet50.ResNet50",
        "cochlea_sb.encoders.seq2seq.Seq2SeqEncoder",
    ),
}
LEVELS = {"cochlea_sb.features.level": level, "cochlea_sb.features.MFCC.level": MFCC.level}  # for the setting `level`
DTYPES = {"F32": torch.float32, "F64": torch.float64, "I64": torch.int64, "I32": torch.int32, "BOOL": torch.bool}
LARGEST_CONFIG = 1 << 12  # bytes
LARGEST_HEADER = 1 << 20  # bytes, enough for thousands of tensors
LARGEST_WEIGHTS = 2 << 30  # bytes
LONGEST_LIST = 32
YAML_TEXT = """\
# For SpeechBrain's EncoderClassifier.from_hparams. cochlea_sb.AudioEncoder reads config.json instead.
sample_rate: {sample_rate}
compute_features: !new:{features}
mean_var_norm: !new:cochlea_sb.features.Unnormalised
embedding_model: !new:{encoder}

modules:
  compute_features: !ref <compute_features>
  mean_var_norm: !ref <mean_var_norm>
  embedding_model: !ref <embedding_model>

pretrainer: !new:cochlea_sb.inference.pretrainer.SafetensorsPretrainer
  loadables:
    embedding_model: !ref <embedding_model>
"""


def save_model(folder: str | os.PathLike[str], front_end: FrontEnd, encoder: WindowEncoder) -> None:
    """Write a model into a folder, which is created if it is missing. Each file is replaced atomically.

    ``model.safetensors`` also holds the model's fingerprint, so that `load_model` can detect a config of another model.
    Raises a UserError if a setting of the front end or of the encoder can't be stored in ``config.json``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = model_config(front_end, encoder)
    weights = {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}
    write_text(folder / CONFIG, json.dumps(config, indent=1) + "\n")
    write_text(folder / YAML, model_yaml(config))
    with whole_file(folder / WEIGHTS) as partial:
        partial.write_bytes(save(weights, {"fingerprint": fingerprint(front_end, encoder)}))


def model_config(front_end: FrontEnd, encoder: WindowEncoder) -> dict[str, Any]:
    """The content of ``config.json``. `load_model` reads only ``features`` and ``encoder``: class and arguments."""
    parts: dict[str, Any] = {}
    for part, module in (("features", front_end), ("encoder", encoder)):
        settings = {name: full_name(value) if callable(value) else value for name, value in module.settings().items()}
        parts[part] = {"class": full_name(type(module))} | settings
        for name, value in settings.items():
            if not is_plain(name, value):
                given = f"{type(module).__name__} has the {name} {value!r}"
                raise UserError(f"{given}: expected a number or a short list of numbers, which config.json can hold.")
    return {
        "speechbrain_interface": "EncoderClassifier",
        "cochlea_sb": __version__,
        **parts,
        "sample_rate": front_end.sample_rate,
        "window_seconds": WINDOW_FRAMES * front_end.hop / front_end.sample_rate,
        "embedding_size": encoder.embedding_size,
        "parameters": sum(value.numel() for value in encoder.state_dict().values()),
    }


def model_yaml(config: dict[str, Any]) -> str:
    """Write a `model_config` as HyperPyYAML, for SpeechBrain."""

    def part(settings: dict[str, Any]) -> str:
        lines = [settings["class"]]
        for name, value in settings.items():
            if name != "class":
                lines.append(f"  {name}: {f'!name:{value}' if isinstance(value, str) else scalar(value)}")
        return "\n".join(lines)

    def scalar(value: Any) -> str:
        text = json.dumps(value)
        # YAML reads 1e-08 as a string, but 1.0e-08 as a number.
        return text.replace("e", ".0e") if isinstance(value, float) and "e" in text and "." not in text else text

    encoder, features = part(config["encoder"]), part(config["features"])
    return YAML_TEXT.format(sample_rate=config["sample_rate"], features=features, encoder=encoder)


def fingerprint(front_end: FrontEnd, encoder: WindowEncoder) -> str:
    """SHA-256 of the weights and settings. Models with the same fingerprint compute the same embeddings."""
    digest = hashlib.sha256(json.dumps(sorted(front_end.settings().items())).encode())
    digest.update(f"{type(encoder).__qualname__} {encoder.hop_frames} {encoder.range_db}".encode())
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_model(folder: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> dict[str, nn.Module]:
    """Build a model from a folder of an untrusted author. No code of the folder runs, and memory is bounded.

    Files of the folder may be links to files below ``root``, which is the folder itself by default. The result holds
    the modules under SpeechBrain's names. Raises a UserError if a file is missing, too large, damaged, or a link to a
    file outside ``root``; if the config has a class that is not in `CLASSES`, or invalid arguments; if the weights
    belong to another model, or are not finite.
    """
    root = Path(root or folder).resolve()
    config = read_config(file_in(folder, CONFIG, root, LARGEST_CONFIG))
    file = file_in(folder, WEIGHTS, root, LARGEST_WEIGHTS)
    with building(folder):
        front_end = build(config["features"])
        with torch.device("meta"):  # allocates no memory: only the shapes are needed
            shapes = build(config["encoder"]).state_dict()
    weights, fingerprint_then = read_weights(file, shapes)
    with building(folder):
        encoder = build(config["encoder"])
        encoder.load_state_dict(weights)
        with torch.inference_mode():  # two windows: `WindowEncoder` treats a sound of one window differently
            embedding = encoder.eval()(front_end(torch.zeros(1, (WINDOW_FRAMES + 1) * front_end.hop)))
    if not torch.isfinite(embedding).all():
        raise UserError(f"The model in '{folder}' computes embeddings of silence that are not finite: it is damaged.")
    if fingerprint_then != fingerprint(front_end, encoder):
        raise UserError(f"'{folder}' holds a {CONFIG} and a {WEIGHTS} of two models: use two files of the same model.")
    return {"compute_features": front_end, "mean_var_norm": Unnormalised(), "embedding_model": encoder}


def fetch_model(name: str, revision: str | None = None, cache: str | Path | None = None) -> tuple[Path, Path]:
    """Download a model from the Hub, or find it in the cache; returns ``folder`` and ``root`` for `load_model`."""
    folder = download(name, [CONFIG, WEIGHTS], LARGEST_WEIGHTS, revision=revision, cache=cache)
    return folder, folder.parents[2]  # the cache of all models, which may store equal files once


def file_in(folder: str | os.PathLike[str], name: str, root: Path, largest: int) -> Path:
    """Path of a regular file of a model folder; raises a UserError if the file is not as `load_model` expects."""
    path = Path(folder, name)
    try:
        status, real = path.stat(), path.resolve()
    except OSError as error:
        raise UserError(
            f"'{folder}' holds no model ({name} is missing): give a results folder of recipes/train.py, user/name of a "
            "model on the Hub, or another kind of encoder as transformers:NAME, speechbrain:NAME or python:MODULE:NAME."
        ) from error
    if not real.is_relative_to(root):
        raise UserError(f"'{path}' is a link that leads to '{real}': expected a file in the folder of the model.")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"'{path}' is no regular file: expected a file that `AudioEncoder.save` or training wrote.")
    if status.st_size > largest:
        raise UserError(f"'{path}' has {status.st_size:,} bytes: expected at most {largest:,}.")
    return path


def read_config(file: Path) -> dict[str, Any]:
    """Read ``features`` and ``encoder`` of a ``config.json``; raises a UserError for other classes than `CLASSES`."""
    try:
        config = json.loads(file.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"'{file}' can't be read as JSON: {one_line(error)[:300]}") from error
    for part, classes in CLASSES.items():
        settings = config.get(part) if isinstance(config, dict) else None
        if not isinstance(settings, dict):
            raise UserError(f"'{file}' has no settings under '{part}': expected the config of a cochlea_sb model.")
        if settings.get("class") not in classes:
            raise UserError(
                f"'{file}' names {shown(settings.get('class'))} as the class of its {part}: expected one of "
                "cochlea_sb's classes; if you trust the author, trust_remote_code=True loads other classes."
            )
        for name, value in settings.items():
            if name != "class" and not is_plain(name, value):
                raise UserError(f"'{file}' gives {part} the {shown(name)} {shown(value)}: expected a plain number.")
    return {part: config[part] for part in CLASSES}


def is_plain(name: str, value: Any) -> bool:
    """Whether an argument of a model is allowed: a number, null, a short list of numbers, or a function of `LEVELS`."""
    if isinstance(value, list):
        flat = not any(isinstance(one, list) for one in value)
        return len(value) <= LONGEST_LIST and flat and all(is_plain(name, one) for one in value)
    if name == "level" or isinstance(value, str):
        return name == "level" and value in LEVELS
    number = isinstance(value, (int, float)) and abs(value) < 1e12  # false for nan and inf
    return name.isascii() and name.isidentifier() and (number or value is None)


def shown(value: Any) -> str:
    """A short printable text for a value that an untrusted author chose."""
    return ascii(value)[:80] if isinstance(value, (str, int, float)) else type(value).__name__


def read_weights(file: Path, shapes: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], str | None]:
    """Read finite weights like ``shapes`` (names, shapes, dtypes), and the fingerprint that `save_model` stored."""
    weights = {}
    try:
        with file.open("rb") as opened:
            header = int.from_bytes(opened.read(8), "little")
        if header > LARGEST_HEADER:
            raise UserError(f"'{file}' has a header of {header:,} bytes: expected at most {LARGEST_HEADER:,}.")
        with safe_open(file, framework="pt") as stored:
            wrong = sorted(shapes.keys() ^ stored.keys())
            if wrong:
                how = "lacks" if wrong[0] in shapes else "has"
                raise UserError(f"'{file}' {how} {shown(wrong[0])}: these are the weights of another model.")
            for name, wanted in shapes.items():
                part = stored.get_slice(name)
                dtype, shape = DTYPES.get(part.get_dtype()), tuple(part.get_shape())
                if (dtype, shape) != (wanted.dtype, tuple(wanted.shape)):
                    given, expected = f"{part.get_dtype()} {shape[:8]}", f"{wanted.dtype} {tuple(wanted.shape)}"
                    said = f"'{name}' is {given}, expected {expected}"
                    raise UserError(f"In '{file}' {said}: these are the weights of another model.")
                weights[name] = stored.get_tensor(name)
                if not torch.isfinite(weights[name]).all():
                    raise UserError(f"In '{file}' '{name}' holds values that are not finite: the model is damaged.")
            return weights, (stored.metadata() or {}).get("fingerprint")
    except (SafetensorError, OSError) as error:
        raise UserError(f"'{file}' can't be read as safetensors: {one_line(error)[:300]}") from error


@contextmanager
def building(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Turn every error in the block into a `UserError`: arguments in an untrusted config can cause any error."""
    try:
        yield
    except Exception as error:
        raise UserError(f"The model in '{folder}' can't be built: {one_line(error)[:300]}") from error


def build(settings: dict[str, Any]) -> Any:
    """Build an object from a class and arguments that `read_config` has checked."""
    module, _, name = settings["class"].rpartition(".")
    arguments = {key: LEVELS[value] if key == "level" else value for key, value in settings.items() if key != "class"}
    return getattr(importlib.import_module(module), name)(**arguments)


def full_name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"
