"""Model folders: what training leaves, what inference loads or fetches, and what is checked in between.

A folder may come from anyone. HyperPyYAML calls whatever a yaml names, and pickle whatever a file of weights names, so
neither sees one: the yaml is read as the few things that `model_yaml` writes, and the weights (`weights`) as a list of
tensors, of the names and shapes that the model has.
"""

import importlib
import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import ruamel.yaml
import torch

from cochlea_sb.encoders.windowed import WindowEncoder
from cochlea_sb.errors import UserError
from cochlea_sb.features import MFCC, FrontEnd, Unnormalised
from cochlea_sb.files import whole_file, write_text
from cochlea_sb.hub import download
from cochlea_sb.inference.weights import read_weights

YAML, WEIGHTS = "hyperparams.yaml", "embedding_model.ckpt"
# What inference needs of a training yaml, in the order in which it is written.
MODEL_KEYS = ("sample_rate", "compute_features", "mean_var_norm", "embedding_model")
HEADER = "# A cochlea_sb encoder: load it with cochlea_sb.AudioEncoder.from_hparams(this folder).\n"
FOOTER = """
modules:
  compute_features: !ref <compute_features>
  mean_var_norm: !ref <mean_var_norm>
  embedding_model: !ref <embedding_model>

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
  loadables:
    embedding_model: !ref <embedding_model>
"""
# The classes that a model's yaml may name, for each of its parts.
PARTS = {
    "compute_features": ("features.LogMel", "features.MFCC", "features.Chroma"),
    "mean_var_norm": ("features.Unnormalised",),
    "embedding_model": (
        "encoders.bag_of_audio_words.BagOfAudioWords",
        "encoders.cnn.ConvEncoder",
        "encoders.log_mel.FlattenedLogMel",
        "encoders.resnet50.ResNet50",
        "encoders.seq2seq.Seq2SeqEncoder",
    ),
}
NAMED = {"!name:cochlea_sb.features.MFCC.level": MFCC.level}  # what is no number among their arguments
KINDS = {"compute_features": FrontEnd, "mean_var_norm": Unnormalised, "embedding_model": WindowEncoder}
LARGEST_YAML = 1 << 12  # bytes
LONGEST_LIST = 32
LARGEST_WEIGHTS = 2 << 30  # bytes


def model_yaml(text: str) -> str:
    """The inference part of a training yaml.

    Arguments
    ---------
    text : str
        From `cochlea_sb.training.recipe.load_experiment`.

    Returns
    -------
    str
        Loads with `cochlea_sb.AudioEncoder` and with SpeechBrain's ``EncoderClassifier``.
    """
    editor = ruamel.yaml.YAML()
    # Comments of the training yaml would end up beside keys they don't speak of.
    tree = editor.load("\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")))
    missing = [key for key in MODEL_KEYS if key not in tree]
    if missing:
        raise UserError(f"The training yaml has no key '{missing[0]}', which inference needs.")
    model = ruamel.yaml.comments.CommentedMap((key, tree[key]) for key in MODEL_KEYS)
    out = io.StringIO()
    editor.dump(model, out)
    return HEADER + out.getvalue() + FOOTER


def save_model(folder: str | os.PathLike[str], text: str, encoder: torch.nn.Module) -> None:
    """Leave a model in a folder; each file is replaced as a whole.

    Arguments
    ---------
    folder : str or Path
    text : str
        From `cochlea_sb.training.recipe.load_experiment`.
    encoder : torch.nn.Module
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}
    with whole_file(folder / WEIGHTS) as partial:
        torch.save(weights, partial)
    write_text(folder / YAML, model_yaml(text))


def load_model(folder: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Build a model and load its weights, whoever it is from.

    Arguments
    ---------
    folder : str or Path
    root : str or Path, optional
        Links may lead to places in here; by default in the folder itself.

    Returns
    -------
    dict
        What the yaml holds; ``modules`` by name.

    Raises
    ------
    UserError
        If a file is missing, leads elsewhere, is too large or damaged; if the yaml wants what is no part of a model; or
        if the weights are no tensors, or not this model's, or not finite.
    """
    root = Path(root or folder).resolve()
    plan = read_yaml(file_in(folder, YAML, root, LARGEST_YAML))
    path = file_in(folder, WEIGHTS, root, LARGEST_WEIGHTS)
    with building(folder):
        features, normalise = (build(name, *plan[name]) for name in ("compute_features", "mean_var_norm"))
        with torch.device("meta"):  # shapes without memory
            shapes = build("embedding_model", *plan["embedding_model"]).state_dict()
    weights = read_weights(path, shapes)
    with building(folder):
        encoder = build("embedding_model", *plan["embedding_model"])
        encoder.load_state_dict(weights)
        with torch.inference_mode():
            heard = encoder.eval()(features(torch.zeros(1, features.sample_rate)))
    if not torch.isfinite(heard).all():
        raise UserError(f"The model in '{folder}' makes embeddings that are not finite of silence: it is damaged.")
    modules = {"compute_features": features, "mean_var_norm": normalise, "embedding_model": encoder}
    return {"sample_rate": plan["sample_rate"], "modules": modules, **modules}


def fetch_model(name: str, revision: str | None = None, cache: str | Path | None = None) -> tuple[Path, Path]:
    """Fetch a model's two files from the Hub, or find them in the cache: `cochlea_sb.hub.download`.

    Returns
    -------
    folder : Path
        With the files of that revision.
    root : Path
        In which the cache keeps what these may be links to.
    """
    folder = download(name, [YAML, WEIGHTS], LARGEST_WEIGHTS, revision=revision, cache=cache)
    return folder, folder.parents[2]  # of all models: the cache may keep files of several in one place


def file_in(folder: str | os.PathLike[str], name: str, root: Path, largest: int) -> Path:
    """A regular file of a model folder; `UserError` where there is none, or it lies elsewhere, or is too large."""
    path = Path(folder, name)
    try:
        status, real = path.stat(), path.resolve()
    except OSError as error:
        raise UserError(
            f"'{folder}' holds no model ({name} is missing): give the folder that recipes/train.py left, or user/name "
            "of a model on the Hub."
        ) from error
    if not real.is_relative_to(root):
        raise UserError(f"'{path}' leads to '{real}': expected a file in the model's own folder.")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"'{path}' is no file: expected the one that training left.")
    if status.st_size > largest:
        raise UserError(f"'{path}' is of {status.st_size:,} bytes: expected at most {largest:,}.")
    return path


def read_yaml(file: Path) -> dict[str, Any]:
    """What a model's yaml says, without HyperPyYAML, which would call whatever it names.

    Returns
    -------
    dict
        ``sample_rate``, and of each part its class' name and its arguments.

    Raises
    ------
    UserError
        Unless it is a model's yaml, with nothing in it that `model_yaml` does not write.
    """
    try:
        text = file.read_text(encoding="utf-8")
        root, footer = (ruamel.yaml.YAML().compose(part) for part in (text, FOOTER))
    except (ruamel.yaml.error.YAMLError, OSError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"'{file}' can't be read as a yaml: {' '.join(str(error).split())[:300]}") from error

    def refuse(node: Any, what: str) -> NoReturn:
        raise UserError(f"'{file}', line {node.start_mark.line + 1}, {what}.")

    def value(node: Any) -> Any:
        """A number, a truth value, null, a list of them, or one of `NAMED`."""
        tag, kind = str(node.tag), str(node.tag).removeprefix("tag:yaml.org,2002:")
        if node.anchor is not None:
            refuse(node, "has an anchor, which no model needs")
        if tag in NAMED and node.value == "":
            return NAMED[tag]
        if kind == "seq" and len(node.value) <= LONGEST_LIST and not any(part.tag == node.tag for part in node.value):
            return [value(part) for part in node.value]
        written = node.value if isinstance(node, ruamel.yaml.nodes.ScalarNode) else ""
        if kind == "int" and re.fullmatch("[-+]?[0-9]{1,12}", written):
            return int(written)
        if kind == "float" and re.fullmatch(r"[-+]?[0-9]+\.?[0-9]*([eE][-+]?[0-9]{1,2})?", written[:40]):
            return float(written)
        if kind == "bool" and written in ("true", "false", "True", "False"):
            return written in ("true", "True")
        if kind == "null":
            return None
        refuse(
            node, wants(tag) if kind == tag or "/" in kind else f"holds {written[:80]!r}, which is no part of a model"
        )

    def wants(tag: str) -> str:
        return f"wants {tag[:80].encode('unicode_escape').decode()}, which is no part of a model"

    def pairs(node: Any) -> dict[str, Any]:
        """Nodes by key; each key once, and a plain word."""
        if not isinstance(node, ruamel.yaml.nodes.MappingNode):
            return {} if node.value == "" else refuse(node, "holds no keys")
        keys = [key.value if isinstance(key, ruamel.yaml.nodes.ScalarNode) else "" for key, _ in node.value]
        for (key, _), name in zip(node.value, keys, strict=True):
            if not re.fullmatch(r"[a-z]\w{0,40}", name) or keys.count(name) > 1:
                refuse(key, f"has the key {name[:80]!r}, which is no part of a model")
        return {name: part for name, (_, part) in zip(keys, node.value, strict=True)}

    if root is None:
        raise UserError(f"'{file}' holds no keys: expected a model's.")
    if root.tag != footer.tag:
        refuse(root, wants(str(root.tag)))
    parts, ends = pairs(root), pairs(footer)
    for name in (*parts, *MODEL_KEYS, *ends):
        if name not in (*MODEL_KEYS, *ends):
            refuse(parts[name], f"has the key {name!r}, which is no part of a model")
        if name not in parts:
            raise UserError(f"'{file}' has no key '{name}', which a model needs.")
    for name in ends:  # for SpeechBrain's own loading: always the same
        if not alike(parts[name], ends[name]):
            refuse(parts[name], f"has another '{name}' than a model's")
    plan: dict[str, Any] = {"sample_rate": value(parts["sample_rate"])}
    for name, classes in PARTS.items():
        tag = str(parts[name].tag)
        if tag not in [f"!new:cochlea_sb.{one}" for one in classes]:
            refuse(parts[name], wants(tag))
        arguments = {key: value(part) for key, part in pairs(parts[name]).items()}
        plan[name] = tag.removeprefix("!new:"), arguments
    if type(plan["sample_rate"]) is not int:
        refuse(parts["sample_rate"], "has a sample_rate that is no whole number")
    return plan


def alike(one: Any, other: Any) -> bool:
    """Whether two yaml nodes say the same."""
    if type(one) is not type(other) or one.tag != other.tag or one.anchor is not None:
        return False
    if isinstance(one, ruamel.yaml.nodes.ScalarNode):
        return bool(one.value == other.value)
    mapping = isinstance(one, ruamel.yaml.nodes.MappingNode)
    flat = [[part for pair in node.value for part in pair] if mapping else node.value for node in (one, other)]
    return len(flat[0]) == len(flat[1]) and all(alike(*pair) for pair in zip(*flat, strict=True))


@contextmanager
def building(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Turn whatever the constructors make of a stranger's arguments into a `UserError` of one sentence."""
    try:
        yield
    except Exception as error:
        raise UserError(f"The model in '{folder}' can't be built: {' '.join(str(error).split())[:500]}") from error


def build(name: str, path: str, arguments: dict[str, Any]) -> Any:
    """A part of a model; `UserError` where its arguments are none."""
    module, _, kind = path.rpartition(".")
    part = getattr(importlib.import_module(module), kind)(**arguments)
    if not isinstance(part, KINDS[name]):
        raise UserError(f"{name} is no {KINDS[name].__name__}")
    return part
