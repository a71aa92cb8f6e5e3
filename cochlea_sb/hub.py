"""Folders to and from the Hugging Face Hub, by huggingface_hub; whatever goes wrong on the way is one sentence.

What is in a folder is the business of others: `models` reads one, `publishing` makes one. Tokens are huggingface_hub's
alone: from ``hf auth login`` or the environment variable ``HF_TOKEN``.
"""

import hashlib
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path

from cochlea_sb import __version__

CARD = "README.md"
STAMP = "\n<!-- Written by cochlea_sb, and by nobody since: {} -->\n"


def stamped(card):
    """A card with a last line by which it is known, unless somebody edits it, as written by a program.

    Example
    -------
    >>> is_stamped(stamped("# Rain")), is_stamped(stamped("# Rain").replace("Rain", "Hail"))
    (True, False)
    """
    return card + STAMP.format(hashlib.sha256(card.encode()).hexdigest()[:16])


def is_stamped(card):
    """Whether a card is as `stamped` made it."""
    return card == stamped(card[: -len(stamped(""))])


@contextmanager
def hub_errors(name, revision=None):
    """Turn what huggingface_hub raises in the block into a ``ValueError`` of one sentence."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except (HTTPError, OSError, ValueError, RuntimeError) as problem:
        # A file that broke off comes as a RuntimeError which says less than what caused it.
        error = problem.__cause__ or problem if isinstance(problem, RuntimeError) else problem
        if type(error) is ValueError:
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        log_in = "log in with `hf auth login`, or set HF_TOKEN"
        if isinstance(error, GatedRepoError):
            said = f"The Hub gives '{name}' only to whom its owner has admitted: ask for access on its page."
        elif isinstance(error, RevisionNotFoundError):
            said = f"'{name}' has no revision '{revision}' on the Hub: give a branch, a tag or a commit of it."
        elif status == 401 and get_token() is not None and not isinstance(error, RepositoryNotFoundError):
            said = f"The Hub does not know your token, asked for '{name}': {log_in}."
        elif isinstance(error, RepositoryNotFoundError):
            said = f"There is no '{name}' on the Hub, or it is private and not open to you: {log_in}."
        elif status == 401:
            said = f"You are not logged in to the Hub: {log_in}."
        elif status == 403:
            said = f"Your token may not do this to '{name}' on the Hub: {reason}"
        elif status == 412:
            said = f"'{name}' was changed on the Hub by someone else meanwhile: run this again."
        elif isinstance(error, LocalEntryNotFoundError):
            said = f"'{name}' can't be fetched from the Hub, nor is it in the cache: {reason}"
        else:
            said = f"The Hub can't be reached, or broke off, for '{name}': {reason}"
        raise ValueError(said) from problem


def download(name, files, largest, *, revision=None, cache=None):
    """Fetch files of a model, or find them in the cache; without a network, what was fetched before.

    Arguments
    ---------
    name : str
        ``user/name``.
    files : list of str
        Their names.
    largest : int
        Bytes that a file may have.
    revision : str, optional
        A branch, a tag or a commit.
    cache : str or Path, optional
        Folder; by default the Hub's own (``HF_HOME``).

    Returns
    -------
    Path
        A folder with the files, which may be links into the cache.

    Raises
    ------
    ValueError
        If there is no such model, one of its files is larger, or it can't be reached and was never fetched.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

    options = {"revision": revision, "cache_dir": cache, "allow_patterns": files}
    options |= {"library_name": "cochlea_sb", "library_version": __version__}
    with hub_errors(name, revision):
        present = None  # commit on the Hub, where that can be asked
        with suppress(HTTPError, OSError):
            facts = HfApi().model_info(name, revision=revision, files_metadata=True)
            present = facts.sha
            for file in facts.siblings or ():
                if file.rfilename in files and (file.size or 0) > largest:
                    size = f"{file.size:,} bytes: expected at most {largest:,}"
                    raise ValueError(f"'{name}' holds '{file.rfilename}' of {size}, so it was not fetched.")
        with suppress(LocalEntryNotFoundError):
            cached = Path(snapshot_download(name, local_files_only=True, **options))
            if present in (None, cached.name):
                return cached
        return Path(snapshot_download(name, **options))


def upload(folder, name, *, repo_type="model", private=False, revision=None, card=None, replaces=()):
    """Make a folder the state of a repository on the Hub, in one commit: whoever looks sees the old state or the new.

    Files that are there already are not sent again, so that an upload that broke off goes on where it was.

    Arguments
    ---------
    folder : str or Path
    name : str
        ``user/name``; made if it is not there.
    repo_type : str
        ``model`` or ``dataset``.
    private : bool
        Make it a private one.
    revision : str, optional
        Branch to commit to; made if it is not there. By default ``main``.
    card : str, optional
        What becomes of another card (``README.md``) that is there: ``replace`` or ``keep``; by default all is refused,
        unless it is `stamped`.
    replaces : tuple of str
        Patterns of files that are deleted there, where the folder does not hold them.

    Returns
    -------
    str
        Address of the commit.

    Raises
    ------
    ValueError
        If there is another card, the name is not ``user/name``, the repository is public and was to be private; or the
        Hub can't be reached, does not know your token, or refuses.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    if name.count("/") != 1:
        raise ValueError(f"The name is '{name}': expected user/name, such as ada/everyday-sounds.")
    api = HfApi(library_name="cochlea_sb", library_version=__version__)
    folder, repo = Path(folder), {"repo_id": name, "repo_type": repo_type}
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    with hub_errors(name, revision):
        try:
            if private and not api.repo_info(**repo).private:
                raise ValueError(f"'{name}' is there already and is public: make it private on its page first.")
        except RepositoryNotFoundError:
            pass
        api.create_repo(**repo, private=private or None, exist_ok=True)
        if revision is not None:
            api.create_branch(**repo, branch=revision, exist_ok=True)
        head = api.repo_info(**repo, revision=revision)
        there = [file.rfilename for file in head.siblings or ()]
        if CARD in files and CARD in there and card != "replace":
            file = api.hf_hub_download(**repo, filename=CARD, revision=head.sha)
            other, own = (Path(one).read_bytes().decode("utf-8", "replace") for one in (file, files[CARD]))
            if card is None and other != own and not is_stamped(other):
                raise ValueError(
                    f"'{name}' has another card on the Hub, which was left as it is, and nothing was uploaded: add "
                    "--card replace to replace it, or --card keep to upload all else."
                )
            if card == "keep":
                del files[CARD]
        old = [path for path in there if path not in files and any(fnmatch(path, pattern) for pattern in replaces)]
        operations = [CommitOperationAdd(path, str(file)) for path, file in files.items()]
        operations += [CommitOperationDelete(path) for path in old]
        message = f"Upload by cochlea_sb {__version__}"
        return api.create_commit(
            **repo, operations=operations, commit_message=message, revision=revision, parent_commit=head.sha
        ).commit_url
