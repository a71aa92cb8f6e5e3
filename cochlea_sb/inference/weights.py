"""Weights from anyone: the files that ``torch.save`` writes of a dictionary of tensors, read without unpickling.

Such a file is a zip of the tensors' bytes and of a pickle that says which is which. Unpickling makes objects, and is at
the mercy of whoever wrote the pickle even where few kinds are allowed; here its few instructions are read as a list.
"""

import pickletools
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cochlea_sb.errors import UserError

LARGEST_PICKLE = 1 << 20  # bytes: some thousand tensors
KINDS = {
    "torch FloatStorage": torch.float32,
    "torch DoubleStorage": torch.float64,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch BoolStorage": torch.bool,
}
ANOTHER, NO_TENSORS = "these are the weights of another model", "it holds something else than tensors"
TENSOR, NO_HOOKS = "torch._utils _rebuild_tensor_v2", "collections OrderedDict"


class Stored(NamedTuple):
    """Where a tensor's bytes are.

    dtype : torch.dtype
    key : str, of the file in the zip
    size : int, elements in that file
    offset : int, elements before the tensor's first
    shape, stride : tuple of int
    """

    dtype: torch.dtype
    key: str
    size: int
    offset: int = 0
    shape: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()


def read_weights(file: Path, shapes: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Read weights.

    Arguments
    ---------
    file : Path
        From ``torch.save`` of a dict of tensors.
    shapes : dict of torch.Tensor
        The model's own, such as on the device ``meta``.

    Returns
    -------
    dict of torch.Tensor
        On the CPU.

    Raises
    ------
    UserError
        Unless they are of these names, shapes and kinds, and finite.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return read_archive(archive, shapes, file.stat().st_size)
    except (ValueError, OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, IndexError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"'{file}' can't be read as weights: {reason.rstrip('.')}.") from error


def read_archive(archive: zipfile.ZipFile, shapes: dict[str, torch.Tensor], size: int) -> dict[str, torch.Tensor]:
    """As `read_weights`, of an open zip of so many bytes."""
    parts = {part.filename.partition("/")[2]: part for part in archive.infolist()}
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts.values()):
        raise UserError("it is compressed, which torch.save does not do")
    if "byteorder" in parts and archive.read(parts["byteorder"])[:6] != b"little":
        raise UserError("its bytes are in another order than this machine's")
    if parts["data.pkl"].file_size > LARGEST_PICKLE:
        raise UserError(f"its table of contents is of {parts['data.pkl'].file_size:,} bytes")
    stored = read_pickle(archive.read(parts["data.pkl"]))
    wrong = sorted(stored.keys() ^ shapes.keys())
    if wrong:
        raise UserError(f"it {'lacks' if wrong[0] in shapes else 'has'} {wrong[0][:80]!r}: {ANOTHER}")
    for name, wanted in shapes.items():
        one, count = stored[name], wanted.numel()
        if (one.dtype, one.shape) != (wanted.dtype, tuple(wanted.shape)):
            given, expected = f"{one.dtype} {list(one.shape)[:8]}", f"{wanted.dtype} {list(wanted.shape)}"
            raise UserError(f"'{name}' is {given}, expected {expected}: {ANOTHER}")
        held = one.size * wanted.element_size() == parts[f"data/{one.key}"].file_size
        if not held or one.offset + count > one.size or one.stride != wanted.contiguous().stride():
            raise UserError(f"'{name}' is not stored as it should be")
    if sum(wanted.numel() * wanted.element_size() for wanted in shapes.values()) > size:
        raise UserError("it declares more than it holds")
    weights = {}
    for name, wanted in shapes.items():
        one, content = stored[name], bytearray(archive.read(parts[f"data/{stored[name].key}"]))
        values = torch.frombuffer(content, dtype=wanted.dtype) if content else torch.empty(0, dtype=wanted.dtype)
        weights[name] = values[one.offset : one.offset + wanted.numel()].view(wanted.shape)
        if wanted.is_floating_point() and not torch.isfinite(weights[name]).all():
            raise UserError(f"'{name}' holds values that are not finite: the model is damaged")
    return weights


def read_pickle(content: bytes) -> dict[str, Stored]:
    """What the pickle of a dict of tensors says; `UserError` where it says anything else.

    Only the instructions that ``torch.save`` writes are known. None of them calls anything here: a name is a string,
    and what would be called by it is looked at.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    argument: Any
    for code, argument, _ in pickletools.genops(content):
        name = code.name
        if name in ("PROTO", "STOP"):
            continue
        if name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE"):
            stack.append(argument)
        elif name in ("NEWTRUE", "NEWFALSE"):
            stack.append(name == "NEWTRUE")
        elif name == "GLOBAL":
            if argument not in (TENSOR, NO_HOOKS, *KINDS):
                raise UserError(f"it names {argument[:80]!r}, which is no part of a tensor")
            stack.append(argument)
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name in ("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            first = marks.pop() if name == "TUPLE" else len(stack) - int(name[-1]) if name[-1].isdigit() else len(stack)
            stack[first:] = [tuple(stack[first:])]
        elif name == "BINPERSID":
            _, kind, key, _, size = entries(stack.pop(), 5)
            if not isinstance(kind, str) or kind not in KINDS or not isinstance(key, str) or not whole_numbers((size,)):
                raise UserError(NO_TENSORS)
            stack.append(Stored(KINDS[kind], key, size))
        elif name == "REDUCE":
            given, called = stack.pop(), stack.pop()
            if isinstance(called, str) and called == NO_HOOKS:
                stack.append(None)
                continue
            storage, offset, shape, stride, *_ = entries(given, 6)
            numbers = all(isinstance(part, tuple) and whole_numbers(part) for part in (shape, stride, (offset,)))
            if not isinstance(called, str) or called != TENSOR or not isinstance(storage, Stored) or not numbers:
                raise UserError(NO_TENSORS)
            stack.append(storage._replace(offset=offset, shape=shape, stride=stride))
        elif name in ("SETITEM", "SETITEMS"):
            first = marks.pop() if name == "SETITEMS" else len(stack) - 2
            items, into = stack[first:], stack[first - 1]
            del stack[first:]
            names, tensors = items[::2], items[1::2]
            if not isinstance(into, dict) or not all(isinstance(one, str) for one in names) or len(items) % 2:
                raise UserError("it holds something else than a dictionary of tensors")
            if not all(isinstance(one, Stored) for one in tensors):
                raise UserError(NO_TENSORS)
            into.update(zip(names, tensors, strict=True))
        else:
            raise UserError(f"it wants {name}, which no dictionary of tensors does")
    if len(stack) != 1 or not isinstance(stack[0], dict):
        raise UserError("it holds something else than a dictionary of tensors")
    return stack[0]


def entries(value: Any, count: int) -> tuple[Any, ...]:
    """A tuple of so many; `UserError` for anything else."""
    if not isinstance(value, tuple) or len(value) != count:
        raise UserError(NO_TENSORS)
    return value


def whole_numbers(values: tuple[Any, ...]) -> bool:
    """Whether all are integers from 0 on."""
    return all(type(value) is int and value >= 0 for value in values)
