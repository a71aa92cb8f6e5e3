"""Model folders: what training leaves, what inference loads or fetches, and what is checked in between.

A folder may come from anyone. HyperPyYAML calls whatever a yaml names, and pickle whatever a file of weights names, so
before either sees them: the yaml may build parts of a model that we know, and nothing else; weights are tensors, of the
names and shapes that the model has, before the model takes any memory.
"""

import io
import os
import re
import stat
import zipfile
from pathlib import Path
from typing import Any

import ruamel.yaml
import torch
from hyperpyyaml import load_hyperpyyaml

from cochlea_sb.encoders.windowed import WindowEncoder
from cochlea_sb.features import FrontEnd, Unnormalised
from cochlea_sb.files import whole_file, write_text
from cochlea_sb.hub import download

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
# The tags that a model's yaml may hold.
PRETRAINER = "!new:speechbrain.utils.parameter_transfer.Pretrainer"
KNOWN_PARTS = {"!ref", PRETRAINER} | {
    f"!new:cochlea_sb.{name}"
    for name in (
        "features.LogMel",
        "features.MFCC",
        "features.Chroma",
        "features.Unnormalised",
        "encoders.bag_of_audio_words.BagOfAudioWords",
        "encoders.cnn.ConvEncoder",
        "encoders.log_mel.FlattenedLogMel",
        "encoders.resnet50.ResNet50",
        "encoders.seq2seq.Seq2SeqEncoder",
    )
}
KNOWN_PARTS |= {"!name:cochlea_sb.features.MFCC.level"}
# Named one by one: yaml's own prefix also begins !!python/object/apply.
PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")}
MODULES = {"compute_features": FrontEnd, "mean_var_norm": Unnormalised, "embedding_model": WindowEncoder}
LARGEST_YAML = 1 << 16  # bytes
LARGEST_WEIGHTS = 2 << 30  # bytes


def model_yaml(text: str) -> str:
    """The inference part of a training yaml.

    Arguments
    ---------
    text : str
        From `cochlea_sb.experiment.load_experiment`.

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
        raise ValueError(f"The training yaml has no key '{missing[0]}', which inference needs.")
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
        From `cochlea_sb.experiment.load_experiment`.
    encoder : torch.nn.Module
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu() for name, value in encoder.state_dict().items()}
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
    ValueError
        If a file is missing, leads elsewhere, is too large or damaged; if the yaml wants what is no part of a model; or
        if the weights are no tensors, or not this model's, or not finite.
    """
    root = Path(root or folder).resolve()
    text = read_yaml(file_in(folder, YAML, root, LARGEST_YAML))
    path = file_in(folder, WEIGHTS, root, LARGEST_WEIGHTS)
    with torch.device("meta"):  # shapes without memory
        shapes = build(text, folder)["modules"]["embedding_model"].state_dict()
    weights = read_weights(path, shapes)
    hparams = build(text, folder)
    hparams["modules"]["embedding_model"].load_state_dict(weights)
    return hparams


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
    return folder, folder.parent.parent


def file_in(folder: str | os.PathLike[str], name: str, root: Path, largest: int) -> Path:
    """A regular file of a model folder; ``ValueError`` where there is none, or it lies elsewhere, or is too large."""
    path = Path(folder, name)
    try:
        status, real = path.stat(), path.resolve()
    except OSError as error:
        raise ValueError(
            f"'{folder}' holds no model ({name} is missing): give the folder that recipes/train.py left, or user/name "
            "of a model on the Hub."
        ) from error
    if not real.is_relative_to(root):
        raise ValueError(f"'{path}' leads to '{real}': expected a file in the model's own folder.")
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"'{path}' is no file: expected the one that training left.")
    if status.st_size > largest:
        raise ValueError(f"'{path}' is of {status.st_size:,} bytes: expected at most {largest:,}.")
    return path


def read_yaml(file: Path) -> str:
    """The text of a model's yaml; ``ValueError`` unless all that it would build is known."""
    try:
        text = file.read_text(encoding="utf-8")
        root = ruamel.yaml.YAML().compose(text)
    except (ruamel.yaml.error.YAMLError, OSError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"'{file}' can't be read as a yaml: {' '.join(str(error).split())}") from error

    def refuse(node: ruamel.yaml.nodes.Node, what: str) -> None:
        raise ValueError(f"'{file}', line {node.start_mark.line + 1}, {what}.")

    if not isinstance(root, ruamel.yaml.nodes.MappingNode):
        raise ValueError(f"'{file}' holds no keys: expected a model's.")
    for key, _ in root.value:
        if key.value not in (*MODEL_KEYS, "modules", "pretrainer"):
            refuse(key, f"has the key '{key.value}', which is no part of a model")
    waiting = [root]
    while waiting:
        node = waiting.pop()
        tag = str(node.tag)
        if node.anchor is not None:  # an alias is the node itself, so that a tree of them would have no end
            refuse(node, "has an anchor, which no model needs")
        if tag not in PLAIN_TAGS and tag not in KNOWN_PARTS:
            refuse(node, f"wants {tag}, which is no part of a model")
        if tag == "!ref" and not re.fullmatch(r"<\w+>", str(node.value)):
            refuse(node, f"refers to '{node.value}': expected one key, such as <sample_rate>")
        if isinstance(node, ruamel.yaml.nodes.MappingNode):
            if tag == PRETRAINER and [key.value for key, _ in node.value] != ["loadables"]:
                refuse(node, "has a pretrainer with something else but loadables")
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, ruamel.yaml.nodes.SequenceNode):
            waiting += node.value
    return text


def build(text: str, folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The objects of a model's yaml; ``ValueError`` where they can't be built or are not the three of a model."""
    try:
        hparams: dict[str, Any] = load_hyperpyyaml(text)
    except Exception as error:  # of whatever the constructors make of such arguments
        raise ValueError(f"The model in '{folder}' can't be built: {' '.join(str(error).split())[:500]}") from error
    modules = hparams.get("modules")
    for name, kind in MODULES.items():
        if not isinstance(modules, dict) or not isinstance(modules.get(name), kind):
            raise ValueError(f"The model in '{folder}' has no module '{name}': expected a {kind.__name__}.")
    return hparams


def read_weights(file: Path, shapes: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights as tensors on the CPU; ``ValueError`` unless they are of these names and shapes, and finite.

    Arguments
    ---------
    file : Path
        From ``torch.save``.
    shapes : dict of torch.Tensor
        The model's own, such as on the device ``meta``.

    Returns
    -------
    dict of torch.Tensor
    """
    try:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
            if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
                raise ValueError("it is compressed, which torch.save does not do")
            if sum(part.file_size for part in parts) > file.stat().st_size:
                raise ValueError("it declares more than it holds")
        weights = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged or hostile file: zipfile, pickle and torch have many
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"'{file}' can't be read as weights: {reason.rstrip('.')}.") from error
    if not isinstance(weights, dict) or not all(type(value) is torch.Tensor for value in weights.values()):
        raise ValueError(f"'{file}' holds something else than tensors: expected a state dict.")
    wrong = sorted(map(str, weights.keys() ^ shapes.keys()))
    if wrong:
        side = "lacks" if wrong[0] in shapes else "has"
        raise ValueError(f"'{file}' {side} '{wrong[0]}': these are the weights of another model.")
    for name, value in weights.items():
        if value.layout is not torch.strided or value.device.type != "cpu" or value.dtype != shapes[name].dtype:
            raise ValueError(
                f"'{file}' holds '{name}' as {value.dtype}, {value.layout}: expected {shapes[name].dtype}."
            )
        if value.shape != shapes[name].shape:
            raise ValueError(
                f"'{file}' holds '{name}' of shape {list(value.shape)}: expected {list(shapes[name].shape)}; these are "
                "the weights of another model."
            )
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(f"'{file}' holds '{name}' with values that are not finite: the model is damaged.")
    return weights
