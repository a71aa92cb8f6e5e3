"""What the user can mend: every such error is a `UserError`, whose message is one sentence.

The command line shows that sentence and ends with status 2. Any other exception is a defect of this package: it shows
its traceback and ends with status 1.
"""


class UserError(ValueError):
    """The message says what was given, what was expected and what to do."""


class AudioError(UserError):
    """A sound can't be read; the message names it.

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
    what : str
        What needs the package.
    package : str
        Name of the package.
    extra : str
        The extra of cochlea_sb that installs it.

    Example
    -------
    >>> print(MissingExtra("A picture", "matplotlib", "plots"))
    A picture needs matplotlib, which is not installed: pip install 'cochlea_sb[plots]'.
    """

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(f"{what} needs {package}, which is not installed: pip install 'cochlea_sb[{extra}]'.")


class NothingToMeasure(UserError):
    """The sounds that were given allow no measurement, for example because no two of them share a label."""


def is_damage(error: Exception) -> bool:
    """Whether an error tells of a missing or damaged file. Others (access, input and output) tell of the system."""
    return not isinstance(error, OSError) or error.errno is None or isinstance(error, FileNotFoundError)


def one_line(error: object) -> str:
    """The message of an error without line breaks, to quote it in a sentence."""
    return " ".join(str(error).split())
