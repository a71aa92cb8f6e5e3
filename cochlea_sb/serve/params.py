"""Read the values of a query string; a wrong one raises a UserError that names it."""

import glob
from typing import Any

from starlette.datastructures import QueryParams

from cochlea_sb.errors import UserError

MOST_RESULTS, MOST_EXAMPLES, MOST_MARKS = 200, 20, 1000


def number(values: QueryParams, name: str, default: int, least: int, most: int) -> int:
    text = values.get(name)
    if not text:
        return default
    if not text.isdecimal() or not least <= int(text) <= most:
        raise UserError(f"{name} is '{text[:20]}': expected a whole number from {least} to {most}.")
    return int(text)


def real(text: str, name: str, expected: str = "a number of seconds") -> float:
    try:
        return float(text.replace(",", "."))
    except ValueError as error:
        raise UserError(f"{name} is '{text[:20]}': expected {expected}.") from error


def page_of(values: QueryParams) -> tuple[int, int]:
    """``k`` and ``skip``."""
    return number(values, "k", 24, 1, MOST_RESULTS), number(values, "skip", 0, 0, 10**6)


def filters(values: QueryParams) -> dict[str, Any]:
    """The arguments of `Filter` in a query string."""
    found: dict[str, Any] = {name: values[name] for name in ("words", "label") if values.get(name)}
    if values.get("folder"):
        folder = values["folder"].rstrip("/")
        found["path"] = f"{'' if folder.startswith('/') else '*/'}{glob.escape(folder)}/*"
    return found | {name: real(values[name], name) for name in ("min_seconds", "max_seconds") if values.get(name)}


def variety(values: QueryParams) -> dict[str, Any]:
    """``per_folder`` and ``fold_copies``."""
    found: dict[str, Any] = {"fold_copies": values.get("fold_copies") == "1"}
    if values.get("per_folder"):
        found["per_folder"] = number(values, "per_folder", 1, 1, 10**6)
    return found


def examples(values: QueryParams) -> list[tuple[str, float]]:
    """The examples ``like=ID[,start,end][*weight]``, or ``like=text:WORDS[*weight]``, and their weights."""
    found = [text.partition("*") for text in values.getlist("like")]
    if not 1 <= len(found) <= MOST_EXAMPLES:
        raise UserError(f"The query has {len(found)} examples: expected 1 to {MOST_EXAMPLES}.")
    return [(name, real(weight, "weight", "a number") if times else 1.0) for name, times, weight in found]


def marks(values: QueryParams, name: str) -> list[str]:
    """The sounds that ``yes=ID`` or ``no=ID`` name."""
    found = values.getlist(name)
    if len(found) > MOST_MARKS:
        raise UserError(f"{len(found):,} sounds are marked with {name}: expected at most {MOST_MARKS:,}.")
    return found
