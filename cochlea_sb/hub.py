"""Folders to and from the Hugging Face Hub, by huggingface_hub; whatever goes wrong on the way is one sentence.

What is in a folder is the business of others: `models` reads one, `publishing` makes one. Tokens are huggingface_hub's
alone: from ``hf auth login`` or the environment variable ``HF_TOKEN``.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from cochlea_sb import __version__
from cochlea_sb.errors import UserError

CARD = "README.md"
STAMP = "\n<!-- Written by cochlea_sb, and by nobody since: {} -->\n"


def stamped(card: str) -> str:
    """A card with a last line by which it is known, unless somebody edits it, as written by a program.

    Example
    -------
    >>> is_stamped(stamped("# Rain")), is_stamped(stamped("# Rain").replace("Rain", "Hail"))
    (True, False)
    """
    return card + STAMP.format(hashlib.sha256(card.encode()).hexdigest()[:16])


def is_stamped(card: str) -> bool:
    """Whether a card is as `stamped` made it."""
    return card == stamped(card[: -len(stamped(""))])


@contextmanager
def hub_errors(name: str, kind: str = "model", revision: str | None = None) -> Iterator[None]:
    """Turn what huggingface_hub raises in the block into a `UserError` of one sentence."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is httpx's, whichever it uses
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
        # A file that broke off comes as a RuntimeError which says less than what caused it.
        error = problem.__cause__ or problem if isinstance(problem, RuntimeError) else problem
        if type(error) in (ValueError, UserError):
            raise UserError(" ".join(str(error).split())) from problem
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        log_in = "log in with `hf auth login`, or set HF_TOKEN"
        if isinstance(error, HFValidationError):
            said = f"'{name}' is no name on the Hub: {reason}"
        elif isinstance(error, GatedRepoError):
            said = f"The Hub gives '{name}' only to whom its owner has admitted: ask for access on its page."
        elif isinstance(error, RevisionNotFoundError):
            said = f"'{name}' has no revision '{revision}' on the Hub: give a branch, a tag or a commit of it."
        elif status == 401 and get_token() is not None and not isinstance(error, RepositoryNotFoundError):
            said = f"The Hub does not know your token, asked for '{name}': {log_in}."
        elif isinstance(error, RepositoryNotFoundError):
            said = f"There is no {kind} '{name}' on the Hub, or it is private and not open to you: {log_in}."
        elif status == 401:
            said = f"You are not logged in to the Hub: {log_in}."
        elif status == 403:
            said = f"Your token may not do this to '{name}' on the Hub: {reason}"
        elif status == 412:
            said = f"'{name}' was changed on the Hub by someone else meanwhile: run this again."
        elif isinstance(error, LocalEntryNotFoundError):
            why = str(error.__cause__ or error).splitlines()[0]
            said = f"'{name}' can't be fetched from the Hub, nor is it in the cache: {why}"
        elif isinstance(error, OSError) and not isinstance(error, (HfHubHTTPError, ConnectionError, TimeoutError)):
            said = f"'{name}' can't go to or come from the Hub: {reason}"
        elif status is not None:
            said = f"The Hub refused what was asked of '{name}': {reason}"
        else:
            said = f"The Hub can't be reached, or broke off, for '{name}': {reason}"
        raise UserError(said) from problem


def download(
    name: str, files: list[str], largest: int, *, revision: str | None = None, cache: str | Path | None = None
) -> Path:
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
    UserError
        If there is no such model, one of its files is larger, or it can't be reached and was never fetched.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError  # type: ignore[attr-defined]

    fetch = partial(snapshot_download, name, revision=revision, cache_dir=cache, allow_patterns=files)
    with hub_errors(name, revision=revision):
        present = None  # commit on the Hub, where that can be asked
        with suppress(HTTPError, OSError):
            facts = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=10)
            present = facts.sha
            sizes = {file.rfilename: file.size or 0 for file in facts.siblings or ()}
            missing = [file for file in files if file not in sizes]
            if missing:
                raise UserError(
                    f"'{name}' holds no {missing[0]} on the Hub ({revision or 'main'}): expected a model of "
                    f"cochlea_sb; is it on another branch ({name}@BRANCH)?"
                )
            for file in files:
                if sizes[file] > largest:
                    size = f"{sizes[file]:,} bytes: expected at most {largest:,}"
                    raise UserError(f"'{name}' holds '{file}' of {size}, so it was not fetched.")
        with suppress(LocalEntryNotFoundError):
            cached = Path(fetch(local_files_only=True))
            if present in (None, cached.name):
                return cached
        return Path(fetch())


def upload(
    folder: str | Path,
    name: str,
    *,
    repo_type: str = "model",
    private: bool = False,
    revision: str | None = None,
    card: str | None = None,
    replaces: tuple[str, ...] = (),
) -> str:
    """Put a folder's files into a repository on the Hub, in one commit: whoever looks sees the old state or the new.

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
    UserError
        If there is another card, the name is not ``user/name``, the repository is public and was to be private; or the
        Hub can't be reached, does not know your token, or refuses.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    if name.count("/") != 1:
        raise UserError(f"The name is '{name}': expected user/name, such as ada/everyday-sounds.")
    api = HfApi(library_name="cochlea_sb", library_version=__version__)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(Path(folder).rglob("*")) if path.is_file()}
    with hub_errors(name, repo_type, revision):
        try:
            if private and not api.repo_info(name, repo_type=repo_type).private:
                raise UserError(f"'{name}' is there already and is public: make it private on its page first.")
        except RepositoryNotFoundError:
            pass
        api.create_repo(name, repo_type=repo_type, private=private or None, exist_ok=True)
        if revision is not None:
            api.create_branch(name, repo_type=repo_type, branch=revision, exist_ok=True)
        head = api.repo_info(name, repo_type=repo_type, revision=revision).sha
        there = api.list_repo_files(name, repo_type=repo_type, revision=head)
        if CARD in files and CARD in there and card != "replace":
            theirs = api.hf_hub_download(name, CARD, repo_type=repo_type, revision=head)
            other, own = (Path(one).read_text("utf-8", "replace") for one in (theirs, files[CARD]))
            if card is None and other != own and not is_stamped(other):
                raise UserError(
                    f"'{name}' has another card on the Hub, which was left as it is, and nothing was uploaded: add "
                    "--card replace to replace it, or --card keep to upload all else."
                )
            licence = re.search("^license: (.*)$", other, re.MULTILINE)
            if card is None and licence and not re.search("^license: ", own, re.MULTILINE):
                raise UserError(
                    f"The card of '{name}' on the Hub says {licence[0]}, and the new one names no licence; nothing was "
                    f"uploaded: add --license {licence[1]}, or --card replace."
                )
            if card == "keep":
                del files[CARD]
        patterns = () if card == "keep" else replaces  # a card that stays may speak of them
        old = [path for path in there if path not in files and any(fnmatch(path, pattern) for pattern in patterns)]
        added = [CommitOperationAdd(path, str(file)) for path, file in files.items()]
        commit = api.create_commit(
            name,
            [*added, *(CommitOperationDelete(path) for path in old)],
            commit_message=f"Upload by cochlea_sb {__version__}",
            repo_type=repo_type,
            revision=revision,
            parent_commit=head,
        )
    return str(commit.commit_url)
