"""Pages in a true browser: every section, no error, no request, and readable by everybody.

    make pages              # a report of heads of digits
    python -m tests.browser.check_pages --page report.html --to screenshots

It needs Chromium (on Debian: apt install chromium) and the extra "pages". Screenshots in light, in
dark, as a phone and on paper are written for people to look at.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import featcache
from featcache.insight.report.browser import find_browser

SECTIONS = (
    *("systems", "cost", "curves", "classes", "reliability", "map", "mistakes", "provenance"),
)
MOST_BYTES = 1 << 20
_SIZES = {
    **{"light": (1280, 900), "dark": (1280, 900), "narrow": (1000, 800)},
    **{"phone": (390, 844), "paper": (794, 1123)},
}


@dataclass(frozen=True)
class Finding:
    """What is wrong with a page."""

    view: str
    what: str


def made_report(folder: Path) -> Path:
    """Write the report of three systems on digits, one of them of several seeds."""
    cache = featcache.extract(
        "digits", backbone="pixels", image_size=8, cache_dir=folder / "cache"
    ).path
    place = {"cache_dir": folder / "cache", "runs_dir": folder / "runs"}
    runs = [
        *featcache.train_head(cache, hidden=(64,), max_epochs=10, seeds=3, **place).runs,
        *featcache.train_head(
            cache, hidden=(64,), reg="dropout", dropout=0.3, max_epochs=10, **place
        ).runs,
        *featcache.train_head(cache, solver="knn", **place).runs,
    ]
    return featcache.report([run.path for run in runs], out=folder / "report.html", **place).path


def check(page: Path, to: Path, *, sections: Sequence[str] = SECTIONS) -> list[Finding]:
    """Open a page in each view, and list what is wrong."""
    from playwright.sync_api import sync_playwright

    found = []
    if page.stat().st_size > MOST_BYTES:
        found.append(Finding("file", f"{page.stat().st_size} bytes, more than {MOST_BYTES}"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_browser(), args=["--no-sandbox", "--disable-gpu"]
        )
        for view, (width, height) in _SIZES.items():
            scheme = "dark" if view == "dark" else "light"
            context = browser.new_context(
                viewport={"width": width, "height": height}, color_scheme=scheme
            )
            tab = context.new_page()
            found += [Finding(view, what) for what in _opened(tab, page, view, to, sections)]
            context.close()
        browser.close()
    return found


def _opened(tab: Any, page: Path, view: str, to: Path, sections: Sequence[str]) -> list[str]:
    """Open the page in one view."""
    wrong: list[str] = []
    own = page.resolve().as_uri()
    tab.on("console", lambda said: wrong.append(f"console: {said.text}"))
    tab.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    tab.on("request", lambda asked: wrong.extend(_foreign(asked.url, own)))
    if view == "paper":
        tab.emulate_media(media="print")
    tab.goto(own)
    missing = [name for name in sections if not tab.locator(f"section#{name}").is_visible()]
    wrong += [f"section {name} is not visible" for name in missing]
    wrong += _too_wide(tab, may_scroll=view == "phone")
    wrong += _broken_pictures(tab)
    wrong += _inaccessible(tab)
    tab.screenshot(path=to / f"{page.stem}-{view}.png", full_page=True)
    if view == "paper":
        tab.pdf(path=to / f"{page.stem}.pdf", format="A4")
    return wrong


def _foreign(asked: str, own: str) -> list[str]:
    is_own = asked.partition("#")[0] == own or asked.startswith("data:image/")
    return [] if is_own else [f"request: {asked[:200]}"]


def _too_wide(tab: Any, *, may_scroll: bool) -> list[str]:
    """List what makes the whole page scroll sideways, and tables that do not fit if they must."""
    width, room = tab.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    wrong = [f"the page is {width} px wide, in {room}"] if width > room else []
    cut = tab.evaluate(
        "[...document.querySelectorAll('.scroll')].filter(t => t.scrollWidth > t.clientWidth)"
        ".map(t => t.getAttribute('aria-label'))"
    )
    return wrong if may_scroll else [*wrong, *(f"a table does not fit: {name}" for name in cut)]


def _broken_pictures(tab: Any) -> list[str]:
    n = tab.evaluate("[...document.images].filter(i => !i.complete || !i.naturalWidth).length")
    return [f"{n} pictures are broken"] if n else []


def _inaccessible(tab: Any) -> list[str]:
    """Ask axe-core, with the rules of WCAG 2.2 AA and good practice."""
    from axe_playwright_python.sync_playwright import Axe

    wrong = []
    for violation in Axe().run(tab).response["violations"]:
        places = [str(node["target"]) for node in violation["nodes"]]
        wrong.append(f"axe: {violation['id']}: {violation['help']} ({len(places)}: {places[:3]})")
    return wrong


def main() -> None:
    """Check a page, and tell what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", type=Path, help="a page that is there; else a report is made")
    parser.add_argument("--to", type=Path, required=True, help="folder of the screenshots")
    asked = parser.parse_args()
    asked.to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="featcache-pages-") as folder:
        page = asked.page or made_report(Path(folder))
        found = check(page, asked.to)
        for one in found:
            sys.stdout.write(f"{one.view}: {one.what}\n")
        sys.stdout.write(f"{page.name}: {page.stat().st_size:,} bytes, {len(found)} findings\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
