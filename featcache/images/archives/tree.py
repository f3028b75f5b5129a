"""The folders in an archive, by the names of its files."""

from __future__ import annotations

from dataclasses import dataclass

from featcache.images.image_names import bytewise, is_image_name
from featcache.images.layout import is_split_name
from featcache.images.tree import FoundFiles, Tree


@dataclass(frozen=True)
class ArchiveTree(Tree):
    """Folders of which only the paths of files are known.

    Attributes:
        title: The archive or archives, as the user named them.
        names: Paths of files.
        wrapper: The folder that all of them lie in, with a slash behind it; empty if none.
    """

    title: str
    names: tuple[str, ...]
    wrapper: str = ""

    @classmethod
    def of(cls, title: str, names: tuple[str, ...]) -> ArchiveTree:
        """Begin below the folder that only wraps all others, as most archives have one.

        A folder that is called like a split, or that images lie in, wraps nothing.
        """
        wrapper = ""
        while True:
            rests = [name.removeprefix(wrapper) for name in names]
            tops = {rest.partition("/")[0] for rest in rests if "/" in rest}
            if len(tops) != 1 or is_split_name(top := min(tops)):
                break
            if any(is_image_name(rest) and rest.count("/") <= 1 for rest in rests):
                break
            wrapper = f"{wrapper}{top}/"
            names = tuple(name for name in names if name.startswith(wrapper))
        return cls(title, tuple(name.removeprefix(wrapper) for name in names), wrapper)

    def place(self, folder: str = ".") -> str:
        """Write where a folder of it lies, for messages."""
        inside = self.wrapper + ("" if folder == "." else folder)
        return repr(f"{self.title}/{inside}".rstrip("/"))

    def way_to(self, folder: str) -> str:
        """Say how to take one folder of it alone."""
        return f"Unpack it, and take folder:PATH with the path of {self.wrapper + folder!r}"

    def top_folders(self) -> list[str]:
        """List the folders at the root, sorted by the bytes of their names."""
        return sorted({n.partition("/")[0] for n in self.names if "/" in n}, key=bytewise)

    def n_top_images(self) -> int:
        """Count the images at the root."""
        return sum("/" not in name and is_image_name(name) for name in self.names)

    def walk(self, split_folder: str) -> FoundFiles:
        """Collect the files below one folder at the root, or below the root (".")."""
        start = "" if split_folder == "." else f"{split_folder}/"
        found = FoundFiles()
        for name in sorted((n for n in self.names if n.startswith(start)), key=bytewise):
            top, slash, _ = name.removeprefix(start).partition("/")
            found.add(name, top if slash else None)
        return found
