"""Errors in the code of an encoder, which the user may have written."""

import importlib
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from cochlea_sb.errors import EncoderError, UserError, one_line

FOLDER = os.path.dirname(__file__)
OURS = ("encoder_code.py", "encoder.py", "callable_encoder.py", "load.py")  # that run the code of encoders
CALLERS = (*(os.path.join(FOLDER, name) for name in OURS), importlib.__file__, "<frozen importlib")
INFERENCE_MODE = os.path.join("torch", "utils", "_contextlib.py")  # calls a method under `@torch.inference_mode()`


@contextmanager
def code_of(encoder: str) -> Iterator[None]:
    """Turn an error in the block, which runs the code of an encoder, into an `EncoderError` that names its line.

    Running out of memory is a plain `UserError`.

    Arguments
    ---------
    encoder : str, its name
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error)):
            raise UserError(
                f"The encoder '{encoder}' ran out of memory ({one_line(error)}): end other programs, or use another "
                "device."
            ) from error
        told = traceback.TracebackException.from_exception(error)
        while told.stack and (told.stack[0].filename.startswith(CALLERS) or INFERENCE_MODE in told.stack[0].filename):
            del told.stack[0]
        own = [frame for frame in told.stack if frame.filename == told.stack[0].filename]
        where = f"; line {own[-1].lineno} of {own[-1].filename}" if own else ""
        message = f"The encoder '{encoder}' failed ({type(error).__name__}: {one_line(error)}{where})."
        raise EncoderError(message, "".join(told.format())) from error
