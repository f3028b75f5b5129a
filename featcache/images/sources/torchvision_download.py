"""Open a torchvision dataset from disk, or download it in silence; say what is missing."""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from featcache.core.network import silence_limit_s
from featcache.core.process_wide import WhileAnyInside
from featcache.errors import DatasetError

# What torchvision's readers and urllib raise on absent, damaged or unreachable files.
_FAILURES = (
    OSError,
    RuntimeError,
    EOFError,
    http.client.HTTPException,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


def open_or_download(
    class_name: str,
    arguments: Mapping[str, object],
    *,
    root: str,
    dataset: str,
    files: Sequence[str | None],
) -> Any:
    """Construct torchvision.datasets.`class_name` on `root`; download only if files are absent.

    torchvision verifies checksums itself. Nothing is printed.

    Args:
        class_name: The class in torchvision.datasets.
        arguments: Its arguments beside `root` and `download`.
        root: Absolute path of the data folder.
        dataset: The name that the user gave, for messages.
        files: What should be in `root`; the first is the archive, or None.

    Raises:
        DatasetError: If it cannot be opened and cannot be downloaded.
    """
    from torchvision import datasets

    source_class = getattr(datasets, class_name)
    try:
        return source_class(root, **arguments, download=False)
    except ImportError as err:
        raise _needs_package(dataset, err) from err
    except _FAILURES:
        damaged = _damaged_files(source_class, Path(root))
    try:
        with _DOWNLOADING():
            return source_class(root, **arguments, download=True)
    except ImportError as err:
        raise _needs_package(dataset, err) from err
    except _FAILURES as err:
        raise DatasetError(_unavailable(dataset, source_class, root, files, damaged, err)) from err


def _unavailable(
    dataset: str,
    source_class: Any,
    root: str,
    files: Sequence[str | None],
    damaged: Sequence[str],
    err: BaseException,
) -> str:
    cause = " ".join(str(err).split())[:200] or type(err).__name__
    archive, *unpacked = files
    wanted = " and ".join(f"{file!r}" for file in unpacked)
    wanted += f" (or the archive {archive!r})" if archive else ""
    url = getattr(source_class, "url", None)
    if damaged:
        what = (
            f"is damaged or incomplete in {root!r}: wrong checksum of {', '.join(damaged)}. "
            f"Downloading it again failed ({cause}). Delete what is damaged"
        )
    else:
        what = f"is not in {root!r} and could not be downloaded ({cause}). Expected {wanted} there"
    fetch = f", or fetch {url}," if isinstance(url, str) else ""
    return (
        f"Dataset {dataset!r} {what}. On a machine with a network run the same command{fetch} and "
        f"copy {repr(archive) if archive else wanted} into {root!r} here. "
        "Then run the same command again."
    )


def _damaged_files(source_class: Any, root: Path) -> list[str]:
    """List the files that are there but have another MD5 than torchvision knows for them."""
    from torchvision.datasets.utils import check_integrity

    known = _known_checksums(source_class)
    return [
        repr(file)
        for file, md5 in known.items()
        if (root / file).is_file() and not check_integrity(root / file, md5)
    ]


def _known_checksums(source_class: Any) -> dict[str, str]:
    """Gather MD5 by path below the root, from the attributes that torchvision's classes share."""
    known: dict[str, str] = {}
    folder = getattr(source_class, "base_folder", "")
    for table in ("train_list", "test_list"):
        known |= {f"{folder}/{file}": md5 for file, md5 in getattr(source_class, table, ())}
    if isinstance(meta := getattr(source_class, "meta", None), dict):
        known[f"{folder}/{meta['filename']}"] = meta["md5"]
    split_list = getattr(source_class, "split_list", {})
    known |= {file: md5 for _, file, md5 in split_list.values()}
    archive_md5 = getattr(source_class, "tgz_md5", None) or getattr(source_class, "md5", None)
    if isinstance(archive_md5, str) and hasattr(source_class, "filename"):
        known[source_class.filename] = archive_md5
    return known


def _needs_package(dataset: str, err: ImportError) -> DatasetError:
    return DatasetError(
        f"Dataset {dataset!r} needs the package {err.name!r} to read its files, which is not "
        f"installed here. Install it with: pip install {err.name}"
    )


@contextlib.contextmanager
def _silence_and_timeout() -> Iterator[None]:
    """Hide torchvision's prints and its progress bar, and give up on a server that is silent.

    torchvision itself has no setting for either.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(silence_limit_s())
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


_DOWNLOADING = WhileAnyInside(_silence_and_timeout)
