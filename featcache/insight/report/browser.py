"""A page as PDF, printed by a browser that is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from featcache.core.replace import replace_file
from featcache.core.starting import starting
from featcache.errors import FeatcacheError, UsageError, clipped

_BROWSERS = (
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
    *("chrome", "brave-browser", "microsoft-edge"),
)
_PATIENCE_S = 120.0
_MARK = b"\n% printed by featcache\n"  # a comment, behind the end


def find_browser() -> str:
    """Find a browser of Chromium's kind, which can print without a window.

    Raises:
        UsageError: If none is installed.
    """
    found = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        raise UsageError(
            "--pdf prints the page with a browser, and none is installed here: "
            f"{', '.join(_BROWSERS)}. Nothing was started. Install one (on Debian: apt install "
            "chromium), or leave --pdf out and print the page from any browser."
        )
    return found


def require_own_pdf(pdf: Path) -> None:
    """Refuse to replace a file that is no print of featcache's.

    Raises:
        UsageError: If something else lies there.
    """
    if not os.path.lexists(pdf):
        return
    if not pdf.is_file() or not pdf.read_bytes().endswith(_MARK):
        raise UsageError(
            f"{pdf} exists, and is no PDF that featcache wrote. Nothing was started. Move it away, "
            f"or give another --out."
        )


def print_page(browser: str, page: Path, pdf: Path) -> Path:
    """Print a page of this machine into a PDF file, and give that.

    Args:
        browser: From `find_browser`.
        page: The page.
        pdf: The file to write.

    Raises:
        FeatcacheError: If the browser fails.
    """
    with tempfile.TemporaryDirectory(prefix="featcache-pdf-") as folder:
        printed = Path(folder) / "page.pdf"
        command = [
            *(browser, "--headless", "--disable-gpu", "--no-first-run"),
            f"--user-data-dir={folder}/profile",
            "--no-pdf-header-footer",
            f"--print-to-pdf={printed}",
            page.absolute().as_uri(),
        ]
        if os.geteuid() == 0:  # Chromium's sandbox refuses root; the page runs no code
            command.insert(1, "--no-sandbox")
        with starting("The browser", kept=f"The page is at {page}."):
            said = _run(command)
        if not printed.exists():
            raise FeatcacheError(
                f"{browser} wrote no PDF: {clipped(said, 300)!r}. The page is at {page}; print it "
                f"from a browser. If {pdf.name} is there, it is of an earlier page."
            )
        replace_file(pdf, printed.read_bytes() + _MARK)
    return pdf


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_PATIENCE_S
        )
    except subprocess.TimeoutExpired:
        return f"it took more than {_PATIENCE_S:.0f} s"
    return done.stderr.strip().rpartition("\n")[2]
