"""Model folders that do harm or came to harm: how a good one is spoilt, and a part of the message that refuses it."""

import json
import os
import pickle
import struct
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save, save_file

from cochlea_sb.inference.model_folder import CONFIG, WEIGHTS


class Runs:
    """Pickled, it makes a folder where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


# Config: what replaces settings of the front end or of the encoder; None as a new value takes the setting away.
HOSTILE_SETTINGS = {
    "function": ("features", {"class": "os.mkdir"}, "names 'os.mkdir' as the class"),
    "process": ("encoder", {"class": "subprocess.Popen"}, "names 'subprocess.Popen'"),
    "attribute chain": ("features", {"class": "cochlea_sb.audio.os.mkdir"}, "names 'cochlea_sb.audio.os.mkdir'"),
    "class of ours": ("encoder", {"class": "cochlea_sb.training.head.ProjectionHead"}, "expected one of cochlea_sb's"),
    "longer name": ("features", {"class": "cochlea_sb.features.LogMel.__class__"}, "expected one of cochlea_sb's"),
    "encoder for a front end": ("features", {"class": "cochlea_sb.encoders.cnn.ConvEncoder"}, "expected one of"),
    "no class": ("features", {"class": None}, "names NoneType as the class"),
    "list for a class": ("encoder", {"class": ["cochlea_sb.encoders.cnn.ConvEncoder"]}, "names list as the class"),
    "object for a class": ("encoder", {"class": {}}, "names dict as the class"),
    "number for a class": ("encoder", {"class": 5}, "names 5 as the class"),
    "control characters": ("encoder", {"class": "\x1b[2J\nError: x"}, r"names '\x1b[2J\nError: x'"),
    "function for a level": ("encoder", {"level": "os.mkdir"}, "the 'level' 'os.mkdir'"),
    "number for a level": ("encoder", {"level": 1}, "the 'level' 1"),
    "list for a level": ("encoder", {"level": ["cochlea_sb.features.level"]}, "can't be built"),
    "level where there is none": ("encoder", {"level": "cochlea_sb.features.level"}, "unexpected keyword"),
    "unknown argument": ("features", {"command": 1}, "unexpected keyword argument 'command'"),
    "missing argument": ("encoder", {"silence": None}, "required positional argument: 'silence'"),
    "dunder argument": ("encoder", {"__class__": 1}, "unexpected keyword argument '__class__'"),
    "self": ("encoder", {"self": 1}, "multiple values for argument 'self'"),
    "argument of control characters": ("encoder", {"\x1b[2J": 1}, r"the '\x1b[2J' 1"),
    "argument that is no name": ("encoder", {"a b": 1}, "the 'a b' 1"),
    "string": ("encoder", {"embedding_size": "128"}, "the 'embedding_size' '128'"),
    "object": ("encoder", {"channels": {"a": 1}}, "the 'channels' dict"),
    "nested list": ("encoder", {"channels": [[32]]}, "the 'channels' list"),
    "list of strings": ("encoder", {"channels": ["os.mkdir"]}, "the 'channels' list"),
    "list of numbers out of range": ("encoder", {"channels": [10**12]}, "the 'channels' list"),
    "many channels": ("encoder", {"channels": [1] * 500}, "the 'channels' list"),
    "not a number": ("encoder", {"range_db": float("nan")}, "the 'range_db' nan"),
    "infinite": ("encoder", {"range_db": float("inf")}, "the 'range_db' inf"),
    "huge number": ("features", {"sample_rate": 10**1000}, "the 'sample_rate' 1000"),
    "huge rate": ("features", {"sample_rate": 10**11}, "sample_rate is 100000000000"),
    "huge window": ("features", {"window_seconds": 1e9}, "at most 65,536 samples"),
    "huge filterbank": ("features", {"n_mels": 100_000_000}, "n_mels is 100000000"),
    "list for a rate": ("features", {"sample_rate": [16000]}, "can't be built"),
    "no hop": ("encoder", {"hop_frames": 0}, "hop_frames is 0"),
    "half a hop": ("encoder", {"hop_frames": 48.5}, "can't be built"),
    "tiny hop at a huge rate": (
        "features",
        {"sample_rate": 384_000, "hop_seconds": 3e-6, "window_seconds": 0.17},
        "of two models",
    ),
    "no size": ("encoder", {"embedding_size": 0}, "weights of another model"),
    "negative size": ("encoder", {"embedding_size": -128}, "can't be built"),
    "huge layer": ("encoder", {"embedding_size": 10**11, "principal_components": False}, "weights of another model"),
    "more numbers than features": ("encoder", {"embedding_size": 10**11}, "the network has 1024 features"),
    "huge network": ("encoder", {"channels": [1_000_000, 1_000_000]}, "weights of another model"),
    "overflowing network": ("encoder", {"channels": [10**11, 10**11]}, "can't be built"),
    "other size": ("encoder", {"embedding_size": 64}, "weights of another model"),
    "other number of bands": ("features", {"n_mels": 32}, "can't be built"),
    "other range": ("encoder", {"range_db": 60.0}, "of two models"),
    "other band edges": ("features", {"low_hz": 100.0}, "of two models"),
}
# Config: its whole content.
HOSTILE_JSON = {
    "empty": (b"", "can't be read as JSON"),
    "no JSON": (b"sample_rate: 16000\n", "can't be read as JSON"),
    "two documents": (b"{}\n{}", "can't be read as JSON"),
    "deep": (b"[" * 2000 + b"]" * 2000, "config.json'"),
    "deep objects": (b'{"features":' * 300 + b"1" + b"}" * 300, "names NoneType as the class"),
    "long": (b'{"a": "' + b"a" * 70_000 + b'"}', "expected at most 4,096"),
    "more digits than Python reads": (b'{"a": 1' + b"0" * 4080 + b"}", "has no settings under 'features'"),
    "list": (b"[]", "has no settings under 'features'"),
    "null": (b"null", "has no settings under 'features'"),
    "number": (b"5", "has no settings under 'features'"),
    "no encoder": (b'{"features": {"class": "cochlea_sb.features.LogMel"}}', "has no settings under 'encoder'"),
    "not UTF-8": (b'{"\xff": 1}', "can't be read as JSON"),
    "pickle": (pickle.dumps(Runs("ran")), "can't be read as JSON"),
}


def spoil_settings(folder, ran, good, *, part, new):
    config = json.loads((folder / CONFIG).read_text())
    config[part] = {name: value for name, value in (config[part] | new).items() if value is not None}
    (folder / CONFIG).write_text(json.dumps(config))


def spoil_json(folder, ran, good, *, content):
    (folder / CONFIG).write_bytes(content)


def rewrite(folder, change):
    """Change the weights by a function of their dictionary."""
    weights = load_file(folder / WEIGHTS)
    save_file(change(weights) or weights, folder / WEIGHTS)


def with_header(folder, change):
    """Change the header of the weights by a function of its JSON or of its bytes."""
    content = (folder / WEIGHTS).read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    header = change(header)
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + data)


def edit(folder, change):
    """Change the bytes of the weights."""
    (folder / WEIGHTS).write_bytes(change((folder / WEIGHTS).read_bytes()))


def one_tensor(header, **new):
    name = next(name for name in header if name != "__metadata__")
    return header | {name: header[name] | new}


def fill(name, value):
    return lambda all: all[name].fill_(value) is None


def too_large(folder):
    with open(folder / WEIGHTS, "r+b") as file:
        file.truncate(3 << 30)  # takes no room on the disk


MILLION = {f"t{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(1_000_000)}
UNREADABLE = "can't be read as safetensors"
HOSTILE_WEIGHTS = {
    "empty": (lambda folder, ran: edit(folder, lambda content: b""), UNREADABLE),
    "four bytes": (lambda folder, ran: edit(folder, lambda content: content[:4]), UNREADABLE),
    "text": (lambda folder, ran: edit(folder, lambda content: b"hello, this is no model"), "has a header of"),
    "pickle": (lambda folder, ran: edit(folder, lambda content: pickle.dumps(Runs(ran))), "has a header of"),
    "pickle in a zip": (lambda folder, ran: torch.save(Runs(ran), folder / WEIGHTS), "has a header of"),
    "cut off": (lambda folder, ran: edit(folder, lambda content: content[:-1000]), UNREADABLE),
    "cut off in the header": (lambda folder, ran: edit(folder, lambda content: content[:100]), UNREADABLE),
    "bytes at the end": (lambda folder, ran: edit(folder, lambda content: content + b"more"), UNREADABLE),
    "huge header": (
        lambda folder, ran: edit(folder, lambda content: struct.pack("<Q", 2**60) + content[8:]),
        "has a header of 1,152,921,504,606,846,976 bytes",
    ),
    "short header": (lambda folder, ran: edit(folder, lambda content: struct.pack("<Q", 40) + content[8:]), UNREADABLE),
    "header of nothing": (lambda folder, ran: with_header(folder, lambda header: b""), UNREADABLE),
    "header of no JSON": (lambda folder, ran: with_header(folder, lambda header: b"{" * 64), UNREADABLE),
    "deep header": (lambda folder, ran: with_header(folder, lambda header: b'{"a":' * 100_000), UNREADABLE),
    "list for a header": (lambda folder, ran: with_header(folder, lambda header: b"[]" + b" " * 6), UNREADABLE),
    "a million tensors": (lambda folder, ran: with_header(folder, lambda header: MILLION), "has a header of"),
    "thousands of tensors": (
        lambda folder, ran: with_header(folder, lambda header: header | dict(list(MILLION.items())[:15_000])),
        "has 't0'",
    ),
    "overlapping": (
        lambda folder, ran: with_header(
            folder, lambda header: header | {"project.0.weight": header["network.0.0.weight"]}
        ),
        UNREADABLE,
    ),
    "offsets beyond the end": (
        lambda folder, ran: with_header(folder, lambda header: one_tensor(header, data_offsets=[0, 2**50])),
        UNREADABLE,
    ),
    "offsets that go back": (
        lambda folder, ran: with_header(folder, lambda header: one_tensor(header, data_offsets=[8, 0])),
        UNREADABLE,
    ),
    "negative shape": (lambda folder, ran: with_header(folder, lambda h: one_tensor(h, shape=[-1])), UNREADABLE),
    "overflowing shape": (
        lambda folder, ran: with_header(folder, lambda header: one_tensor(header, shape=[2**40, 2**40])),
        UNREADABLE,
    ),
    "unknown dtype": (lambda folder, ran: with_header(folder, lambda h: one_tensor(h, dtype="OBJECT")), UNREADABLE),
    "numbers for metadata": (
        lambda folder, ran: with_header(folder, lambda header: header | {"__metadata__": {"fingerprint": 1}}),
        UNREADABLE,
    ),
    "no metadata": (lambda folder, ran: rewrite(folder, lambda all: all), "of two models"),
    "fingerprint of another": (
        lambda folder, ran: edit(folder, lambda content: save(load_file(folder / WEIGHTS), {"fingerprint": "0" * 64})),
        "of two models",
    ),
    "one bit": (
        lambda folder, ran: edit(
            folder, lambda content: content[:-1000] + bytes([content[-1000] ^ 1]) + content[-999:]
        ),
        "of two models",
    ),
    "no tensors": (lambda folder, ran: edit(folder, lambda content: save({})), "lacks"),
    "one too few": (lambda folder, ran: rewrite(folder, lambda all: all.popitem() and None), "lacks"),
    "one too many": (lambda folder, ran: rewrite(folder, lambda all: all | {"more": torch.zeros(1)}), "has 'more'"),
    "control characters": (
        lambda folder, ran: rewrite(folder, lambda all: all | {"\x1b[2J\n": torch.zeros(1)}),
        r"has '\x1b[2J\n'",
    ),
    "wrong shape": (
        lambda folder, ran: rewrite(folder, lambda all: {name: torch.zeros(3) for name in all}),
        "expected torch.",
    ),
    "transposed": (
        lambda folder, ran: rewrite(
            folder, lambda all: all | {"project.0.weight": all["project.0.weight"].T.contiguous()}
        ),
        "weights of another model",
    ),
    "of whole numbers": (
        lambda folder, ran: rewrite(folder, lambda all: all | {"project.0.weight": all["project.0.weight"].int()}),
        "is I32",
    ),
    "of eight bits": (
        lambda folder, ran: rewrite(
            folder, lambda all: all | {"project.0.weight": all["project.0.weight"].to(torch.float8_e4m3fn)}
        ),
        "is F8_E4M3",
    ),
    "not a number": (
        lambda folder, ran: rewrite(folder, fill("project.0.weight", float("nan"))),
        "not finite",
    ),
    "infinite": (lambda folder, ran: rewrite(folder, fill("project.0.weight", float("inf"))), "not finite"),
    "infinite variance": (
        lambda folder, ran: rewrite(folder, fill("normalise.running_var", -1.0)),
        "embeddings of silence that are not finite",
    ),
    "3 GB": (lambda folder, ran: too_large(folder), "has 3,221,225,472 bytes"),
}


def elsewhere(folder, ran, good, *, name, kind):
    """Make a file of the folder irregular, or a link out of the folder."""
    os.remove(folder / name)
    if kind == "folder":
        (folder / name).mkdir()
    elif kind == "pipe":
        os.mkfifo(folder / name)
    elif kind != "missing":
        up = Path(os.path.relpath(good / name, folder))
        (folder / name).symlink_to({"link out": good / name, "link up": up, "dangling": Path("nowhere")}[kind])


ELSEWHERE = {"link out": "leads to", "link up": "leads to", "folder": "is no regular file"}
ELSEWHERE |= {"pipe": "is no regular file", "missing": "is missing", "dangling": "is missing"}

# By name: a function that spoils the copy of a good model, and a part of the message. The function is given the copy,
# the path that code in it would make if it ran, and the good model.
HOSTILE = {
    f"config: {name}": (partial(spoil_settings, part=part, new=new), said)
    for name, (part, new, said) in HOSTILE_SETTINGS.items()
}
HOSTILE |= {f"JSON: {name}": (partial(spoil_json, content=new), said) for name, (new, said) in HOSTILE_JSON.items()}
HOSTILE |= {
    f"weights: {name}": (lambda folder, ran, good, spoil=spoil: spoil(folder, ran), said)
    for name, (spoil, said) in HOSTILE_WEIGHTS.items()
}
HOSTILE |= {
    f"{kind} for {name}": (partial(elsewhere, name=name, kind=kind), said)
    for kind, said in ELSEWHERE.items()
    for name in (CONFIG, WEIGHTS)
}
