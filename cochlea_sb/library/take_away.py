"""Copy sounds of a library into a folder."""

import os
import shutil
from collections.abc import Iterable, Sequence

from cochlea_sb.errors import UserError
from cochlea_sb.files import whole_file


def unique_names(paths: Sequence[str], taken: Iterable[str] = ()) -> list[str]:
    """The file names of paths, made unique: a second ``kick.wav`` becomes ``kick (2).wav``.

    Names that differ only in capital letters count as equal, because many disks don't tell them apart.

    Arguments
    ---------
    paths : list of str
    taken : list of str, names that are not to be used

    Example
    -------
    >>> unique_names(["/a/kick.wav", "/b/Kick.wav", "/c/hat.wav"], taken=["hat.wav"])
    ['kick.wav', 'Kick (2).wav', 'hat (2).wav']
    """
    used, names = {name.casefold() for name in taken}, []
    for path in paths:
        stem, suffix = os.path.splitext(os.path.basename(path))
        name, number = f"{stem}{suffix}", 2
        while name.casefold() in used:
            name, number = f"{stem} ({number}){suffix}", number + 1
        used.add(name.casefold())
        names.append(name)
    return names


def copy_to(folder: str | os.PathLike[str], paths: Sequence[str]) -> list[str]:
    """Copy files into a folder, which is created if it is missing. No file of the folder is replaced.

    Arguments
    ---------
    folder : str or Path
    paths : list of str

    Returns
    -------
    list of str, the paths that are no files, such as sounds of datasets; they are left out

    Raises
    ------
    UserError
        If the folder can't be made or written.
    """
    folder = os.path.expanduser(folder)
    files = [path for path in paths if os.path.isfile(path)]
    try:
        os.makedirs(folder, exist_ok=True)
        for path, name in zip(files, unique_names(files, os.listdir(folder)), strict=True):
            with whole_file(os.path.join(folder, name)) as partial:
                shutil.copyfile(path, partial)
    except OSError as error:
        raise UserError(f"'{folder}' can't be written ({error.strerror}): name another folder.") from error
    return [path for path in paths if path not in set(files)]
