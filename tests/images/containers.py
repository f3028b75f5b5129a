"""One set of images in every container that can be read: a folder, lists, archives, a table."""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

Files = Mapping[str, bytes]
"""The bytes of each image by its path, `<split>/<class>/<name>`, in the order of the rows."""


def files_below(folder: Path) -> dict[str, bytes]:
    """Read all files below a folder, in the order in which they become rows."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    return dict(sorted(found.items(), key=lambda item: os.fsencode(item[0])))


def in_folder(files: Files, folder: Path) -> str:
    for name, content in files.items():
        (folder / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "pets" / name).write_bytes(content)
    return f"folder:{folder}/pets"


def in_list(files: Files, folder: Path) -> str:
    in_folder(files, folder)
    with (folder / "pets.csv").open("w", newline="", encoding="utf-8-sig") as file:
        rows = csv.writer(file, delimiter=";")
        rows.writerow(["id", "path", "label", "split"])
        for name in files:
            split, label, _ = name.split("/")
            rows.writerow([name, f"pets/{name}", label, split])
    return f"list:{folder}/pets.csv"


def in_json_lines(files: Files, folder: Path) -> str:
    in_folder(files, folder)
    with (folder / "pets.jsonl").open("w", encoding="utf-8") as file:
        for name in files:
            split, label, _ = name.split("/")
            row = {"id": name, "path": f"pets/{name}", "label": label, "split": split}
            file.write(json.dumps(row) + "\r\n")
    return f"list:{folder}/pets.jsonl"


def in_zip(files: Files, folder: Path) -> str:
    with zipfile.ZipFile(folder / "pets.zip", "w") as archive:
        for i, name in enumerate(reversed(files)):
            method = zipfile.ZIP_DEFLATED if i % 2 else zipfile.ZIP_STORED
            archive.writestr(f"pets/{name}", files[name], method)
    return f"zip:{folder}/pets.zip"


def in_tar(files: Files, folder: Path) -> str:
    with tarfile.open(folder / "pets.tar", "w") as archive:
        for name in reversed(files):
            add(archive, f"./{name}", files[name])
    return f"tar:{folder}/pets.tar"


def in_web_dataset(files: Files, folder: Path) -> str:
    for split in ("train", "test"):
        names = [name for name in files if name.startswith(split)]
        half = len(names) // 2
        for i, part in enumerate((names[:half], names[half:])):
            with tarfile.open(folder / f"pets-{split}-{i:03d}.tar", "w") as archive:
                for name in part:
                    add(archive, name, files[name])
                    label = json.dumps({"label": name.split("/")[1]}).encode()
                    add(archive, f"{name.rpartition('.')[0]}.json", label)
    return f"tar:{folder}/pets-{{train,test}}-*.tar"


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file to a tar archive."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def in_parquet(files: Files, folder: Path) -> str:
    import pyarrow as pa
    from pyarrow import parquet

    for split in ("train", "test"):
        names = [name for name in files if name.startswith(split)]
        images = [{"bytes": files[name], "path": name} for name in names]
        labels = [name.split("/")[1] for name in names]
        table = pa.table({"image": images, "label": labels})
        path = folder / f"{split}-00000-of-00001.parquet"
        parquet.write_table(table, path, row_group_size=4, write_page_checksum=True)
    return f"parquet:{folder}/*.parquet"


def zipped(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            add(archive, name, content)
    return path


CONTAINERS: dict[str, Callable[[Files, Path], str]] = {
    "folder": in_folder,
    "list": in_list,
    "json lines": in_json_lines,
    "zip": in_zip,
    "tar": in_tar,
    "WebDataset": in_web_dataset,
    "Parquet": in_parquet,
}
"""Writes a set into a folder, and gives the name of the dataset."""
