"""Recognise names of the Hugging Face Hub, download models, and turn errors of the Hub into one sentence.

Only huggingface_hub reads the token of the user, from ``hf auth login`` or the environment variable ``HF_TOKEN``.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from cochlea_sb.errors import UserError, one_line


def names_on_hub(name: str | os.PathLike[str]) -> bool:
    """Return whether a string looks like ``user/name`` on the Hub, and not like a path on this computer.

    Example
    -------
    >>> names_on_hub("user/name"), names_on_hub("./name"), names_on_hub("~/sounds")
    (True, False, False)
    """
    owner, slash, rest = str(name).partition("/")
    return bool(slash and rest) and "/" not in rest and owner not in ("", ".", "..", "~") and not os.path.exists(owner)


def why_out_of_reach(dataset: str) -> str:
    """Ask the Hub for a dataset once. Returns why the Hub can't be reached; an empty string if it answers."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError  # type: ignore[attr-defined]

    try:
        HfApi().dataset_info(dataset, timeout=10)
    except (HfHubHTTPError, HFValidationError):  # an answer, which `datasets` explains
        return ""
    except (HTTPError, OSError) as error:
        return one_line(error)
    return ""


@contextmanager
def hub_errors(name: str, kind: str = "model", revision: str | None = None) -> Iterator[None]:
    """Turn errors of huggingface_hub in the block into a `UserError` of one sentence."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError of its HTTP library
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except (HTTPError, OSError, ValueError, RuntimeError) as problem:
        # An interrupted download raises a RuntimeError, whose cause has the better message.
        error = problem.__cause__ or problem if isinstance(problem, RuntimeError) else problem
        if type(error) in (ValueError, UserError):
            raise UserError(one_line(error)) from problem
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        log_in = "log in with `hf auth login`, or set HF_TOKEN"
        if isinstance(error, HFValidationError):
            said = f"'{name}' is no name on the Hub: {reason}"
        elif isinstance(error, GatedRepoError):
            said = f"'{name}' is open only to users whom its owner has admitted: ask for access on its page."
        elif isinstance(error, RevisionNotFoundError):
            said = f"'{name}' has no revision '{revision}' on the Hub: give one of its branches, tags or commits."
        elif status == 401 and get_token() is not None and not isinstance(error, RepositoryNotFoundError):
            said = f"The Hub does not know your token, which was used for '{name}': {log_in}."
        elif isinstance(error, RepositoryNotFoundError):
            said = f"There is no {kind} '{name}' on the Hub, or it is private and you have no access: {log_in}."
        elif status == 401:
            said = f"You are not logged in to the Hub: {log_in}."
        elif status == 403:
            said = f"Your token may not do this to '{name}' on the Hub: {reason}"
        elif status == 412:
            said = f"'{name}' was changed on the Hub by someone else meanwhile: run the same command again."
        elif isinstance(error, LocalEntryNotFoundError):
            why = str(error.__cause__ or error).splitlines()[0]
            said = f"'{name}' can't be fetched from the Hub, nor is it in the cache: {why}"
        elif isinstance(error, OSError) and not isinstance(error, (HfHubHTTPError, ConnectionError, TimeoutError)):
            said = f"'{name}' can't be uploaded to or downloaded from the Hub: {reason}"
        elif status is not None:
            said = f"The Hub refused a request for '{name}': {reason}"
        else:
            said = f"The Hub can't be reached, or broke off, for '{name}': {reason}"
        raise UserError(said) from problem


def download(
    name: str,
    files: list[str],
    largest: int,
    *,
    optional: Sequence[str] = (),
    expected: str = "a model of cochlea_sb",
    revision: str | None = None,
    cache: str | Path | None = None,
) -> Path:
    """Return a folder with files of a model on the Hub. The files come from the cache if it is up to date or offline.

    Arguments
    ---------
    name : str, ``user/name`` of the model
    files : list of str, names of the files
    largest : int, maximum size of a file in bytes
    optional : list of str, names of further files, which may be missing
    expected : str, what the files make up, for the message about a missing file
    revision : str, a branch, a tag or a commit; by default ``main``
    cache : str or Path, folder of the cache; by default the cache of huggingface_hub (in ``HF_HOME``)

    Raises
    ------
    UserError
        If the model or a file does not exist, if a file is larger than ``largest``, or if the Hub can't be reached
        and a file is not in the cache.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError  # type: ignore[attr-defined]

    fetch = partial(snapshot_download, name, revision=revision, cache_dir=cache, allow_patterns=[*files, *optional])
    with hub_errors(name, revision=revision):
        present = None  # newest commit on the Hub; None if the Hub can't be reached
        with suppress(HTTPError, OSError):
            facts = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=10)
            present = facts.sha
            sizes = {file.rfilename: file.size or 0 for file in facts.siblings or ()}
            missing = [file for file in files if file not in sizes]
            if missing:
                raise UserError(
                    f"'{name}' holds no {missing[0]} on the Hub ({revision or 'main'}): expected "
                    f"{expected}; if the model is on another branch, give {name}@BRANCH."
                )
            for file in (*files, *optional):
                if sizes.get(file, 0) > largest:
                    size = f"{sizes[file]:,} bytes: expected at most {largest:,}"
                    raise UserError(f"'{name}' holds '{file}' of {size}, so it was not downloaded.")
        with suppress(LocalEntryNotFoundError):
            cached = Path(fetch(local_files_only=True))
            if present in (None, cached.name):
                return cached
        return Path(fetch())
