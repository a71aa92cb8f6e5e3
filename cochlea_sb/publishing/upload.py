"""Upload a folder to the Hugging Face Hub in one commit, and add a checksum to cards, to notice later edits.

`cochlea_sb.publishing.export` makes the folder.
"""

import hashlib
import re
from fnmatch import fnmatch
from pathlib import Path

from cochlea_sb import __version__
from cochlea_sb.errors import UserError
from cochlea_sb.hub import hub_errors

CARD = "README.md"
OF_THE_HUB = "Check out the configuration reference at https://huggingface.co/docs/hub/spaces-config-reference"
STAMP = "\n<!-- Written by cochlea_sb, and by nobody since: {} -->\n"


def stamped(card: str) -> str:
    """Add a last line with a checksum, which shows whether somebody has edited the card since.

    Example
    -------
    >>> is_stamped(stamped("# Rain")), is_stamped(stamped("# Rain").replace("Rain", "Hail"))
    (True, False)
    """
    return card + STAMP.format(hashlib.sha256(card.encode()).hexdigest()[:16])


def is_stamped(card: str) -> bool:
    """Tell whether a card has the checksum that `stamped` added, so nobody has edited it."""
    return card == stamped(card[: -len(stamped(""))])


def is_of_the_hub(card: str) -> bool:
    r"""Tell whether a card is the one that the Hub writes into a new Space.

    Example
    -------
    >>> is_of_the_hub(f"---\ntitle: Rain\nsdk: docker\n---\n\n{OF_THE_HUB}\n"), is_of_the_hub(f"# Rain\n\n{OF_THE_HUB}")
    (True, False)
    """
    return re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL).strip() == OF_THE_HUB


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
    """Upload the files of a folder to a repository on the Hub in one commit: either all of them appear, or none.

    Files that the Hub already has are not sent again. To continue after an interruption, call it again.

    Arguments
    ---------
    folder : str or Path
    name : str
        ``user/name`` of the repository, which is created if it does not exist.
    repo_type : str
        ``model``, ``dataset`` or ``space`` (which runs a ``Dockerfile``).
    private : bool
        Create a private repository. An existing public one is refused.
    revision : str, optional
        Branch of the commit, ``main`` by default. It is created if it does not exist.
    card : str, optional
        ``replace`` or ``keep``: what to do if the Hub holds a card (``README.md``) that somebody has edited. By
        default, the upload is then refused.
    replaces : tuple of str
        Patterns of files on the Hub to delete if the folder does not hold them.

    Returns
    -------
    str
        Web address of the commit.

    Raises
    ------
    UserError
        If the card on the Hub was edited; if the name is not ``user/name``; if ``private`` is True and the repository
        is public; or if the Hub can't be reached, does not know your token, or refuses the upload.
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
        sdk = "docker" if repo_type == "space" else None
        api.create_repo(name, repo_type=repo_type, private=private or None, exist_ok=True, space_sdk=sdk)
        if revision is not None:
            api.create_branch(name, repo_type=repo_type, branch=revision, exist_ok=True)
        head = api.repo_info(name, repo_type=repo_type, revision=revision).sha
        there = api.list_repo_files(name, repo_type=repo_type, revision=head)
        if CARD in files and CARD in there and card != "replace":
            theirs = api.hf_hub_download(name, CARD, repo_type=repo_type, revision=head)
            other, own = (Path(one).read_text("utf-8", "replace") for one in (theirs, files[CARD]))
            if card is None and other != own and not is_stamped(other) and not is_of_the_hub(other):
                raise UserError(
                    f"'{name}' has another card on the Hub, so nothing was uploaded: add --card replace to "
                    "replace that card, or --card keep to upload all but the card."
                )
            licence = re.search("^license: (.*)$", other, re.MULTILINE)
            if card is None and licence and not re.search("^license: ", own, re.MULTILINE):
                raise UserError(
                    f"The card of '{name}' on the Hub says {licence[0]}, and the new one names no licence; nothing was "
                    f"uploaded: add --license {licence[1]}, or --card replace."
                )
            if card == "keep":
                del files[CARD]
        patterns = () if card == "keep" else replaces  # a kept card may show the old files
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
