"""What `help()` shows of the public names: every argument, what comes back, what is raised.

README.md, docs/python.md or docs/encoders.md uses each of them.
"""

import inspect
import re
from pathlib import Path

import pytest

import cochlea_sb
from cochlea_sb.library.query import Query
from cochlea_sb.library.results import Added, Match

PUBLIC = {name: getattr(cochlea_sb, name) for name in cochlea_sb.__all__}
CLASSES = {name: one for name, one in PUBLIC.items() if inspect.isclass(one)}
ROOT = Path(__file__).parent.parent
PAGES = "".join((ROOT / page).read_text() for page in ("README.md", "docs/python.md", "docs/encoders.md"))


def members(kind):
    """Public methods and properties of a class that this package defines, by name."""
    own = [base for base in kind.__mro__ if base.__module__.startswith("cochlea_sb.")]
    names = sorted({name for base in own for name in vars(base) if not name.startswith("_")})
    found = {name: getattr(kind, name) for name in names}
    return {name: one for name, one in found.items() if callable(one) or isinstance(one, property)}


MEMBERS = [
    pytest.param(member, id=f"{name}.{key}") for name, kind in CLASSES.items() for key, member in members(kind).items()
]
MEMBERS += [pytest.param(one, id=name) for name, one in PUBLIC.items() if inspect.isfunction(one)]


def sections(docstring):
    """The text of each section by its heading; '' is what comes before them."""
    texts = re.split(r"^(\w+)\n-+$", inspect.cleandoc(docstring), flags=re.MULTILINE)
    return {"": texts[0], **dict(zip(texts[1::2], texts[2::2], strict=True))}


def entries(section):
    """Names that a section tells of, from lines such as ``a, b : float`` or ``**kwargs``."""
    heads = [line.split(" :")[0] for line in section.splitlines() if re.match(r"\S", line)]
    return {name.strip().lstrip("*") for head in heads for name in head.split(",")}


def missing(member):
    """What a method or property does not tell of itself."""
    if not member.__doc__:
        return ["a docstring"]
    told, function = sections(member.__doc__), member
    if isinstance(member, property):
        function = member.fget
        wanted = [] if re.match(r"[\w.]+( of \w+)?( \[.*\], \w+)?: ", told[""]) else ["the type, before a colon"]
    else:
        signature = inspect.signature(member)
        wanted = sorted(set(signature.parameters) - {"self", "cls"} - entries(told.get("Arguments", "")))
        if signature.return_annotation not in (None, "None") and not told.get("Returns", "").strip():
            wanted.append("Returns")
    raised = set(re.findall(r"\braise ([A-Z]\w+)\(", inspect.getsource(function)))
    return wanted + sorted(raised - entries(told.get("Raises", "")))


def test_the_public_names():
    encoders = ["AudioEncoder", "CallableEncoder", "Encoder", "load_encoder"]
    assert sorted(PUBLIC) == sorted([*encoders, "AudioError", "RandomProjectionIndex", "SoundLibrary", "Text"])
    assert len(MEMBERS) > 30


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_has_an_example(name):
    assert ">>> " in sections(vars(CLASSES[name])["__doc__"]).get("Example", "")


@pytest.mark.parametrize("member", MEMBERS)
def test_a_member_tells_what_it_takes_gives_and_raises(member):
    assert missing(member) == []


@pytest.mark.parametrize("kind", [Added, Match, Query])
def test_what_a_library_returns_tells_its_fields(kind):
    assert set(kind._fields) <= entries(inspect.cleandoc(kind.__doc__))


@pytest.mark.parametrize("name", PUBLIC)
def test_the_readme_or_the_page_on_python_shows_it(name):
    assert any(re.search(rf"\b{name}\b", block) for block in re.findall(r"```python\n(.*?)```", PAGES, re.DOTALL))
