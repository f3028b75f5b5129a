"""Which columns of a list or a table hold the path, the label, the split and the id."""

from __future__ import annotations

from collections.abc import Sequence

from featcache.errors import UsageError, clipped, did_you_mean

# The names that are looked for, in any case, the first of them first.
PATH_NAMES = ("path", "file_name", "filename", "image")
LABEL_NAMES = ("label", "class")


def find_column(
    names: Sequence[str], asked: str | None, usual: Sequence[str], *, option: str, where: str
) -> str | None:
    """Find a column by the name that was asked for, or by the usual ones, in any case.

    Returns:
        Its name as it is there; None if none was asked for and no usual one is there.

    Raises:
        UsageError: If the one that was asked for is not there, or a name fits two.
    """
    wanted = usual if asked is None else (asked,)
    for name in wanted:
        found = [known for known in names if known == name]
        found = found or [known for known in names if known.lower() == name.lower()]
        if len(found) > 1:
            raise UsageError(f"{where} has {len(found)} columns {name!r}. Nothing was extracted.")
        if found:
            return found[0]
    if asked is None:
        return None
    hint = did_you_mean(asked, names, show=repr)
    raise _lacking(names, asked, where, f"{hint} Say which it is with {option}.")


def require_column(
    names: Sequence[str], asked: str | None, usual: Sequence[str], *, option: str, where: str
) -> str:
    """Find a column as `find_column` does.

    Raises:
        UsageError: If none is there.
    """
    found = find_column(names, asked, usual, option=option, where=where)
    if found is None:
        raise _lacking(names, usual[0], where, f" Say which it is with {option}.")
    return found


def _lacking(names: Sequence[str], name: str, where: str, way_out: str) -> UsageError:
    return UsageError(
        f"{where} has no column {name!r}; its columns are {clipped(', '.join(map(repr, names)))}. "
        f"Nothing was extracted.{way_out}"
    )
