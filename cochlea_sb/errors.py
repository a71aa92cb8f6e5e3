"""Errors that the user can correct. Each is a `UserError`, whose message is one sentence; `program.run` prints it."""


class UserError(ValueError):
    """An error that the user can correct. The message says what was given, what was expected and what to do."""


class AudioError(UserError):
    """A sound can't be read. The message names the sound.

    Example
    -------
    >>> from cochlea_sb.audio import read_audio
    >>> try:
    ...     read_audio("gone.wav")
    ... except AudioError as error:
    ...     print(error)
    gone.wav: cannot be opened (No such file or directory); expected an audio file.
    """


class MissingExtra(UserError):
    """An optional package is not installed.

    Arguments
    ---------
    what : str, the feature that needs the package, at the start of the message
    package : str, name of the missing package
    extra : str, the extra of cochlea_sb that installs the package

    Example
    -------
    >>> print(MissingExtra("A picture", "matplotlib", "plots"))
    A picture needs matplotlib, which is not installed: install the extra 'plots' with pip install 'cochlea_sb[plots]'.
    """

    def __init__(self, what: str, package: str, extra: str) -> None:
        install = f"install the extra '{extra}' with pip install 'cochlea_sb[{extra}]'"
        super().__init__(f"{what} needs {package}, which is not installed: {install}.")


class EncoderError(UserError):
    """The code of an encoder has failed, or it gives what an encoder must not give.

    Arguments
    ---------
    message : str
    traceback : str, of the code of the encoder, without the calls in cochlea_sb that led to it; empty if nothing failed
    """

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


class NothingToMeasure(UserError):
    """A quality can't be measured on the given sounds, for example because no two sounds have the same label."""


def is_damage(error: Exception) -> bool:
    """Return whether an error means a missing or damaged file, and not a problem of access, of a disk or a network."""
    return not isinstance(error, OSError) or error.errno is None or isinstance(error, FileNotFoundError)


def one_line(error: object) -> str:
    """Return the message of an error without line breaks."""
    return " ".join(str(error).split())
