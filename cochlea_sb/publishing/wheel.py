"""Write the installed cochlea_sb as a wheel, so that a Space runs exactly the version that made it."""

import base64
import hashlib
import zipfile
from importlib import metadata
from pathlib import Path

import cochlea_sb
from cochlea_sb.errors import UserError

TAG = "py3-none-any"
FACTS = ("METADATA", "entry_points.txt", "top_level.txt", "licenses/LICENSE")  # the others tell where it was installed
WHEEL = f"Wheel-Version: 1.0\nGenerator: cochlea_sb\nRoot-Is-Purelib: true\nTag: {TAG}\n"


def write_wheel(folder: Path) -> str:
    """Write a wheel of this package. The same package gives the same bytes.

    Arguments
    ---------
    folder : Path

    Returns
    -------
    str, name of the file

    Raises
    ------
    UserError
        If the package runs without being installed, so that its requirements are unknown.
    """
    found = metadata.distributions(name="cochlea_sb")  # a checkout also holds an egg-info, without these METADATA
    installed = next((one for one in found if one.read_text("METADATA") is not None), None)
    if installed is None:
        raise UserError("cochlea_sb is not installed, and a Space needs its requirements: pip install -e .")
    package = Path(str(cochlea_sb.__file__)).parent
    inside = {path.relative_to(package): path for path in sorted(package.rglob("*")) if path.is_file()}
    files = {
        f"cochlea_sb/{name.as_posix()}": path.read_bytes()
        for name, path in inside.items()
        if not any(part.startswith((".", "__pycache__")) for part in name.parts)
    }
    own = f"cochlea_sb-{installed.version}.dist-info"
    files |= {f"{own}/{name}": text.encode() for name in FACTS if (text := installed.read_text(name)) is not None}
    files[f"{own}/WHEEL"] = WHEEL.encode()
    record = [f"{name},sha256={digest(content)},{len(content)}" for name, content in files.items()]
    files[f"{own}/RECORD"] = "\n".join([*record, f"{own}/RECORD,,", ""]).encode()
    name = f"cochlea_sb-{installed.version}-{TAG}.whl"
    with zipfile.ZipFile(folder / name, "w") as archive:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path)  # with the date 1980-01-01
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return name


def digest(content: bytes) -> str:
    """SHA-256 in the form that a wheel's RECORD needs."""
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
