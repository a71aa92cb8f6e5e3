"""Model folders that somebody made to do harm, or that came to harm: what is done to a good one, and what is then said.

Used by the tests, and by benchmarks/safety.py, which gives the same folders to plain SpeechBrain.
"""

import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from functools import partial
from pathlib import Path

import torch

from cochlea_sb.inference.model_folder import WEIGHTS, YAML

NEW_LOG_MEL = "!new:cochlea_sb.features.LogMel"

# By name: what replaces a piece of the yaml ({ran} is the file that code would leave), and what is said of it.
OLD, LOG_MEL = "sample_rate: 16000\ncompute", "compute_features: " + NEW_LOG_MEL
HOSTILE_YAML = {
    "apply": (OLD, "sample_rate: !apply:os.mkdir ['{ran}']\ncompute", "wants !apply:os.mkdir"),
    "apply in a list": (OLD, "sample_rate: [!apply:os.mkdir ['{ran}']]\ncompute", "wants !apply"),
    "apply in a key": (OLD, "? !apply:os.mkdir ['{ran}']\n: 1\nsample_rate: 16000\ncompute", "is no part of a model"),
    "new of another module": (
        OLD,
        "sample_rate: !new:subprocess.Popen [[touch, '{ran}']]\ncompute",
        "wants !new:subproc",
    ),
    "new inside of a part": (
        "n_mels: 64\n  low",
        "n_mels: !new:subprocess.Popen [[touch, '{ran}']]\n  low",
        "wants !new:sub",
    ),
    "name": (OLD, "sample_rate: !name:os.mkdir ['{ran}']\ncompute", "wants !name:os.mkdir"),
    "module": (OLD, "sample_rate: !module:antigravity\ncompute", "wants !module:antigravity"),
    "include": (OLD, "sample_rate: !include:/etc/passwd\ncompute", "wants !include"),
    "copy": (OLD, "sample_rate: !copy <compute_features>\ncompute", "wants !copy"),
    "tuple": (OLD, "sample_rate: !tuple (1, 2)\ncompute", "wants !tuple"),
    "placeholder": (OLD, "sample_rate: !PLACEHOLDER\ncompute", "wants !PLACEHOLDER"),
    "python tag": (OLD, "sample_rate: !!python/object/apply:os.mkdir ['{ran}']\ncompute", "wants tag:yaml"),
    "attribute chain": (NEW_LOG_MEL, "!new:cochlea_sb.audio.os.mkdir", "wants !new:cochlea_sb.audio.os.mkdir"),
    "module of ours": (
        NEW_LOG_MEL,
        "!new:cochlea_sb.training.brain.EmbeddingBrain",
        "wants !new:cochlea_sb.training.brain",
    ),
    "longer name": (
        NEW_LOG_MEL,
        "!new:cochlea_sb.features.LogMel.__class__",
        "wants !new:cochlea_sb.features.LogMel.__",
    ),
    "tag handle": ("# A coch", "%TAG !e! !apply:os.\n--- !e!mkdir\n# A coch", "wants !apply:os.mkdir"),
    "anchor": (OLD, "sample_rate: &a 16000\ncompute", "has an anchor"),
    "merge": ("n_mels: 64\n  low", "<<: &m {{a: 1}}\n  n_mels: 64\n  low", "has the key '<<'"),
    "reference to an attribute": ("!ref <mean_var_norm>", "!ref <mean_var_norm.__class__>", "has another 'modules'"),
    "arithmetic reference": ("!ref <mean_var_norm>", "!ref <sample_rate> ** <sample_rate>", "has another 'modules'"),
    "doubling references": ("!ref <mean_var_norm>", "!ref <sample_rate><sample_rate>", "has another 'modules'"),
    "reference to nothing": ("!ref <mean_var_norm>", "!ref <nothing>", "has another 'modules'"),
    "reference to itself": ("sample_rate: 16000\ncomp", "sample_rate: !ref <sample_rate>\ncomp", "wants !ref"),
    "pretrainer with paths": ("pretrainer:", "paths: {{a: /etc/passwd}}\npretrainer:", "has the key 'paths'"),
    "run options": ("pretrainer:", "compile_module_keys: [a]\npretrainer:", "has the key 'compile_module_keys'"),
    "unknown argument": ("n_mels: 64\n  low", "command: rm\n  low", "holds 'rm'"),
    "other module": (
        "mean_var_norm: !ref <mean_var_norm>",
        "mean_var_norm: !ref <compute_features>",
        "has another 'mo",
    ),
    "tuple that HyperPyYAML evaluates": (
        OLD,
        "sample_rate: \"(!!python/object/apply:os.mkdir ['{ran}'])\"\ncompute",
        "is no part of a model",
    ),
    "the same unquoted": (
        "n_mels: 64\n  low",
        "n_mels: (!!python/object/apply:os.mkdir ['{ran}'])\n  low",
        "is no part of a model",
    ),
    "arithmetic in a string": (OLD, "sample_rate: \"'<modules[a]>'*4000000000\"\ncompute", "is no part of a model"),
    "a module more": (
        "modules:\n",
        "modules:\n  a: !new:cochlea_sb.encoders.resnet50.ResNet50\n",
        "has another 'modules'",
    ),
    "many channels": ("range_db: 50.0", "channels: [" + "1," * 1500 + "1]", "is no part of a model"),
    "infinite": ("range_db: 50.0", "range_db: .inf", "holds '.inf'"),
    "other number of bands": ("n_mels: 64\n  low", "n_mels: 32\n  low", "can't be built"),
    "a list for a rate": (OLD, "sample_rate: [16000]\ncompute", "no whole number"),
    "the same key twice": (OLD, "sample_rate: 16000\nsample_rate: 16000\ncompute", "'sample_rate'"),
    "control characters": (OLD, '"\\e[2J\\nError: x": 1\nsample_rate: 16000\ncompute', "is no part of a model"),
    "huge rate": ("sample_rate: 16000\n  n", "sample_rate: 1000000000000\n  n", "holds '1000000000000'"),
    "huge window": ("n_mels: 64\n  low", "window_seconds: 1.0e+9\n  low", "at most 65,536 samples"),
    "huge filterbank": ("n_mels: 64\n  low", "n_mels: 100000000\n  low", "n_mels is 100000000"),
    "no hop": ("range_db: 50.0", "hop_frames: 0", "hop_frames is 0"),
    "huge layer": ("embedding_size: 128", "embedding_size: 100000000000", "weights of another model"),
    "huge network": ("range_db: 50.0", "channels: [1000000, 1000000]", "weights of another model"),
    "other size": ("embedding_size: 128", "embedding_size: 64", "weights of another model"),
    "bomb of anchors": (
        OLD,
        "sample_rate: [&a [1,1,1,1,1,1,1,1,1], "
        + ", ".join(f"&{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True))
        + "]\ncompute",
        "is no part of a model",
    ),
    "bomb of references": (
        OLD,
        "b0: aaaaaaaaaa\n"
        + "".join(f"b{i + 1}: !ref {f'<b{i}>' * 10}\n" for i in range(9))
        + "sample_rate: 16000\ncompute",
        "has the key 'b0'",
    ),
    "weights of another place": (
        "  loadables:",
        "  paths:\n    embedding_model: {good}\n  loadables:",
        "has another 'pretrainer'",
    ),
    "no yaml": ("sample_rate: 16000\n", "sample_rate: [1\n", "can't be read as a yaml"),
    "two documents": ("\npretrainer:", "\n---\na: 1\n---\npretrainer:", "can't be read as a yaml"),
    "deep": (OLD, "sample_rate: " + "[" * 1500 + "]" * 1500 + "\ncompute", "can't be read as a yaml"),
    "long": (OLD, "sample_rate: " + "1" * 70_000 + "\ncompute", "expected at most 4,096"),
}


def spoil_yaml(folder, ran, good, *, old, new):
    text = (folder / YAML).read_text()
    assert text.count(old) >= 1
    (folder / YAML).write_text(text.replace(old, new.format(ran=ran, good=good / WEIGHTS), 1))


class Runs:
    """Pickled, it leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def weights_of(folder):
    return torch.load(folder / WEIGHTS, weights_only=True)


def rewrite(folder, change):
    """Change the weights by a function of their dictionary."""
    weights = weights_of(folder)
    torch.save(change(weights) or weights, folder / WEIGHTS)


def compressed(folder, ran):
    with zipfile.ZipFile(folder / WEIGHTS) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    with zipfile.ZipFile(folder / WEIGHTS, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content + bytes(50_000_000 if name.endswith("/0") else 0))


def declares_10_gb(folder, ran):
    content = bytearray((folder / WEIGHTS).read_bytes())
    at = content.index(b"PK\x01\x02")  # the first entry of the directory: its size
    content[at + 24 : at + 28] = struct.pack("<I", 0xFFFFFFF0)
    (folder / WEIGHTS).write_bytes(content)


def stretched(weights):
    name = next(iter(weights))
    weights[name] = torch.zeros(1).expand(10**12)  # four bytes that look like 4 TB


def pickled(folder, content):
    """Put a pickle of one's own in the place of what torch.save wrote."""
    with zipfile.ZipFile(folder / WEIGHTS) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    with zipfile.ZipFile(folder / WEIGHTS, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, content if name.endswith("/data.pkl") else part)


def with_metadata(weights):
    weights = OrderedDict(weights)
    weights._metadata = 5
    return weights


def stretched_in_shape(weights):
    name = max(weights, key=lambda name: weights[name].numel())
    weights[name] = torch.zeros(1).expand(weights[name].shape)


HOSTILE_WEIGHTS = {
    "deep tuple as a key": (
        lambda folder, ran: pickled(folder, b"\x80\x02})" + b"\x85" * 900_000 + b"Ns."),
        "can't be read as weights",
    ),
    "bytes without end": (
        lambda folder, ran: pickled(folder, b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\x00\x00\x00\x00\x02\x85R."),
        "it names '__builtin__ bytearray'",
    ),
    "memory of the unpickler": (
        lambda folder, ran: pickled(folder, b"\x80\x02}r\xff\xff\xff\x7f."),
        "lacks",
    ),
    "long pickle": (lambda folder, ran: pickled(folder, b"\x80\x02" + b"}" * 20_000_000 + b"."), "table of contents"),
    "stretched, of the right shape": (
        lambda folder, ran: rewrite(folder, stretched_in_shape),
        "is not stored as it should be",
    ),
    "with metadata": (
        lambda folder, ran: rewrite(folder, with_metadata),
        "can't be read as weights",
    ),
    "infinite variance": (
        lambda folder, ran: rewrite(folder, lambda all: all["normalise.running_var"].fill_(-1.0) is None),
        "not finite",
    ),
    "pickle": (lambda folder, ran: (folder / WEIGHTS).write_bytes(pickle.dumps(Runs(ran))), "can't be read as weights"),
    "pickle in a zip": (lambda folder, ran: torch.save(Runs(ran), folder / WEIGHTS), "can't be read as weights"),
    "pickle among weights": (
        lambda folder, ran: torch.save(weights_of(folder) | {"extra": Runs(ran)}, folder / WEIGHTS),
        "can't be read as weights",
    ),
    "old format": (
        lambda folder, ran: torch.save({"a": Runs(ran)}, folder / WEIGHTS, _use_new_zipfile_serialization=False),
        "can't be read as weights",
    ),
    "a whole module": (lambda folder, ran: torch.save(torch.nn.Linear(1, 1), folder / WEIGHTS), "can't be read"),
    "no weights": (lambda folder, ran: (folder / WEIGHTS).write_bytes(b"hello"), "can't be read as weights"),
    "empty": (lambda folder, ran: (folder / WEIGHTS).write_bytes(b""), "can't be read as weights"),
    "cut off": (
        lambda folder, ran: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1000]),
        "can't be read as weights",
    ),
    "zip bomb": (compressed, "it is compressed"),
    "10 GB declared": (declares_10_gb, "can't be read as weights"),
    "a list": (lambda folder, ran: torch.save([torch.zeros(1)], folder / WEIGHTS), "it wants EMPTY_LIST"),
    "numbers": (lambda folder, ran: torch.save({"a": 1}, folder / WEIGHTS), "something else than tensors"),
    "one too few": (lambda folder, ran: rewrite(folder, lambda all: all.popitem() and None), "lacks"),
    "one too many": (lambda folder, ran: rewrite(folder, lambda all: all | {"more": torch.zeros(1)}), "has 'more'"),
    "wrong shape": (
        lambda folder, ran: rewrite(folder, lambda all: {n: torch.zeros(3) for n in all}),
        "expected",
    ),
    "stretched": (lambda folder, ran: rewrite(folder, stretched), "expected"),
    "not a number": (
        lambda folder, ran: rewrite(folder, lambda all: all["project.0.weight"].fill_(float("nan")) is None),
        "not finite",
    ),
    "sparse": (
        lambda folder, ran: rewrite(
            folder, lambda all: all | {"project.0.weight": all["project.0.weight"].to_sparse()}
        ),
        "_rebuild_sparse_tensor",
    ),
    "of whole numbers": (
        lambda folder, ran: rewrite(folder, lambda all: all | {"project.0.weight": all["project.0.weight"].int()}),
        "torch.int32",
    ),
}


def elsewhere(folder, ran, good, *, name, kind):
    """A file of the folder that is none, or leads out of it."""
    os.remove(folder / name)
    if kind == "folder":
        (folder / name).mkdir()
    elif kind == "pipe":
        os.mkfifo(folder / name)
    elif kind != "missing":
        up = Path(os.path.relpath(good / name, folder))
        (folder / name).symlink_to({"link out": good / name, "link up": up, "dangling": Path("nowhere")}[kind])


ELSEWHERE = {"link out": "leads to", "link up": "leads to", "folder": "is no file", "pipe": "is no file"}
ELSEWHERE |= {"missing": "is missing", "dangling": "is missing"}

# By name: a function that spoils a good model's copy, and what is said when it is refused. It is given the copy, the
# path that code in it would make if it ran, and the good model.
HOSTILE = {
    f"yaml: {name}": (partial(spoil_yaml, old=old, new=new), said) for name, (old, new, said) in HOSTILE_YAML.items()
}
HOSTILE |= {
    f"weights: {name}": (lambda folder, ran, good, spoil=spoil: spoil(folder, ran), said)
    for name, (spoil, said) in HOSTILE_WEIGHTS.items()
}
HOSTILE |= {
    f"{kind} for the {what}": (partial(elsewhere, name=name, kind=kind), said)
    for kind, said in ELSEWHERE.items()
    for what, name in (("yaml", YAML), ("weights", WEIGHTS))
}
