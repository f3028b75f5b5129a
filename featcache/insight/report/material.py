"""What the sections of a report are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from featcache.config import EvaluateSpec
from featcache.core.dataset_names import OF_PATHS
from featcache.core.paths import native
from featcache.evaluation.metrics import Estimate
from featcache.insight.report.cache_facts import CacheFacts, SimpleClassifier
from featcache.insight.report.mistakes import Mistake
from featcache.insight.report.systems import ReportedSystem

MOST_DETAILED = 6
"""So many systems have figures of their own; of more, the table tells."""


@dataclass(frozen=True)
class Naming:
    """How files and images are called in a page.

    Attributes:
        paths: Whether paths are told.
    """

    paths: bool

    def path(self, path: Path) -> str:
        """Name a file or folder, with its folders or without."""
        return str(path) if self.paths else path.name

    def dataset(self, name: str) -> str:
        """Name a dataset; of one that is a path, the last part tells no more than that."""
        name = native(name)
        kind = next((kind for kind in OF_PATHS if name.startswith(kind)), None)
        if self.paths or kind is None:
            return name
        return kind + name.removeprefix(kind).rstrip("/").rpartition("/")[2]

    def backbone(self, name: str) -> str:
        """Name a backbone; of one in a local folder, without the folders above that."""
        kind, local, path = name.partition("local-dir:")
        if self.paths or not local:
            return name
        return kind + local + path.rstrip("/").rpartition("/")[2]

    def image(self, split: str, row: int, image_id: str) -> str:
        """Name an image by its id, which may be a path, or by its row."""
        if not self.paths:
            return f"{split}, row {row}"
        return image_id if image_id.startswith(f"{split}/") else f"{split} {image_id}"

    def message(self, text: str, *, instead: str) -> str:
        """Show a message of an error, which may name paths."""
        return text if self.paths else instead


@dataclass(frozen=True, eq=False)
class Material:
    """What the sections of a report are made of.

    Attributes:
        dataset: The dataset of all heads, as typed.
        class_names: Its classes.
        systems: The systems, in the order in which they were given.
        facts: What the caches say by themselves, by fingerprint; of those that are there.
        mistakes: The most confident mistakes of the best system.
        no_pictures: Why there are no pictures of them; empty if there are.
        pictures: Images of the audits as data URIs, by cache, split and row.
        problems: What could not be computed of the caches, and why.
        images_per_s: Rates of extractions that are known, by fingerprint.
        figures: How intervals were drawn.
        naming: How files and images are called.
    """

    dataset: str
    class_names: Sequence[str]
    systems: Sequence[ReportedSystem]
    facts: Mapping[str, CacheFacts]
    mistakes: Sequence[Mistake]
    no_pictures: str
    pictures: Mapping[tuple[str, str, int], str]
    problems: Sequence[str]
    images_per_s: Mapping[str, float]
    figures: EvaluateSpec
    naming: Naming

    @property
    def best(self) -> ReportedSystem | None:
        """The system of the highest accuracy; None if no answer is known."""
        return best_of(self.systems)

    @property
    def detailed(self) -> Sequence[ReportedSystem]:
        """The systems that have figures of their own: all, or those of the highest accuracy."""
        answered = [system for system in self.systems if system.acc is not None]
        if len(answered) <= MOST_DETAILED:
            return answered
        return sorted(answered, key=_acc_of, reverse=True)[:MOST_DETAILED]

    def facts_of(self, system: ReportedSystem) -> CacheFacts | None:
        """Find what the cache of a system says by itself."""
        return self.facts.get(system.head.cache_fingerprint)

    def simple_of(self, system: ReportedSystem) -> Sequence[SimpleClassifier]:
        """List the simplest classifiers on the features of a system, tested on its images."""
        facts = self.facts_of(system)
        if facts is None or facts.simple is None or facts.simple.split != system.split:
            return ()
        return facts.simple.each


def best_of(systems: Sequence[ReportedSystem]) -> ReportedSystem | None:
    """Find the system of the highest accuracy; None if no answer is known."""
    answered = [system for system in systems if system.acc is not None]
    return max(answered, key=_acc_of, default=None)


def _acc_of(system: ReportedSystem) -> float:
    return system.acc.value if system.acc is not None else 0.0


def percent(share: float, digits: int = 1) -> str:
    """Write a share for people: "87.4%"."""
    return f"{100 * share:.{digits}f}%"


def signed(value: float) -> str:
    """Write a difference with its sign: "+0.0036"; what is rounded to nought has none."""
    shown = f"{value:+.4f}"
    return "0.0000" if float(shown) == 0 else shown


def interval(estimate: Estimate) -> str:
    """Write the interval of a figure: "0.8664 to 0.8771"."""
    return f"{estimate.low:.4f} to {estimate.high:.4f}"


SIMPLE = {
    "majority": "largest class",
    "ncm": "class means",
    "knn": "nearest neighbours",
}
"""What the simplest classifiers are called."""
