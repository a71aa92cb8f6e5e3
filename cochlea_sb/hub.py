"""Models on the Hugging Face Hub: fetched once, then from the cache."""

import os
from pathlib import Path

from cochlea_sb.models import WEIGHTS, YAML


def names_on_hub(name):
    """Whether a string looks like ``user/name``, and not like a path of something missing.

    Example
    -------
    >>> names_on_hub("user/name"), names_on_hub("./name"), names_on_hub("~/sounds")
    (True, False, False)
    """
    owner, slash, rest = str(name).partition("/")
    return bool(slash and rest) and "/" not in rest and owner not in ("", ".", "..", "~") and not os.path.exists(owner)


def fetch_model(name, revision=None, folder=None):
    """Fetch a model's two files, or find them in the cache; without a network, what was fetched before.

    Arguments
    ---------
    name : str
        ``user/name``.
    revision : str, optional
    folder : str or Path, optional
        Of the cache; by default the Hub's own (``HF_HOME``).

    Returns
    -------
    folder : Path
        With the files of that revision.
    root : Path
        In which the cache keeps what these may be links to.

    Raises
    ------
    ValueError
        If there is no such model, or it can't be reached and was never fetched.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        found = Path(snapshot_download(name, revision=revision, cache_dir=folder, allow_patterns=[YAML, WEIGHTS]))
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"There is no model '{name}' on the Hub, or it is private and you are not logged in (hf auth login)."
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"The model '{name}' can't be fetched from the Hub, nor is it in the cache: {reason}"
        ) from error
    return found, found.parent.parent
