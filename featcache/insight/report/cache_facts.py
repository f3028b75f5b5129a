"""What a cache says by itself, without a head; computed once, then kept in a file beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from featcache.core.from_file import from_file
from featcache.core.reporting import NoteCallback
from featcache.core.side_files import report_path
from featcache.errors import StorageError
from featcache.evaluation.metrics import Estimate
from featcache.insight.audit.result import AuditResult
from featcache.insight.report.kept_audit import audit_from_json, audit_to_json
from featcache.store import Cache, replace_file, require_sound

_FORMAT = 1


@dataclass(frozen=True)
class SimpleClassifier:
    """A classifier that a head should beat.

    Attributes:
        solver: "majority", "ncm" or "knn".
        setting: What it chose by validation, such as "k 20"; empty if there was nothing to choose.
        acc: Its accuracy.
        low: Lower end of its 95% interval.
        high: Upper end.
    """

    solver: str
    setting: str
    acc: float
    low: float
    high: float

    @property
    def estimate(self) -> Estimate:
        """The accuracy with its interval."""
        return Estimate(self.acc, self.low, self.high)


@dataclass(frozen=True)
class SimpleClassifiers:
    """The simplest classifiers on the features of a cache.

    Attributes:
        split: The split that they were tested on: "test", or "val" where there is no test.
        n_fitted: Images that were fitted.
        n_train: Images that could have been.
        n_test: Images that were tested.
        each: The classifiers.
        draws: Bootstrap samples of their intervals; None if that was not kept.
        seed: What seeded them, and chose the images that were fitted; None likewise.
    """

    split: str
    n_fitted: int
    n_train: int
    n_test: int
    each: tuple[SimpleClassifier, ...]
    draws: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class FeatureMap:
    """Images in the plane of the two directions in which features vary most (PCA).

    Attributes:
        split: The split of the images.
        rows: Their rows.
        points: (x, y) of each.
        shares: Of the variance, for both directions.
        seed: What chose the images; None if that was not kept.
    """

    split: str
    rows: tuple[int, ...]
    points: tuple[tuple[float, float], ...]
    shares: tuple[float, float]
    seed: int | None = None


@dataclass(frozen=True)
class NearestImage:
    """The training image that is nearest to an image, by the cosine of their features.

    Attributes:
        split: Its split.
        row: Its row there.
        cosine: -1 to 1.
    """

    split: str
    row: int
    cosine: float


@dataclass(eq=False)
class CacheFacts:
    """What is known of a cache by itself; what is not known is computed when it is asked for.

    Attributes:
        cache: The cache.
        simple: The simplest classifiers; None if they are not known yet.
        map: The map; None likewise.
        audit: What an audit found; None if there was none.
        is_sound: Whether the cache was verified in this process.
        nearest: By which rows trained, then by "split:row": the nearest of the training images.
    """

    cache: Cache
    simple: SimpleClassifiers | None = None
    map: FeatureMap | None = None
    audit: AuditResult | None = None
    nearest: dict[str, dict[str, NearestImage]] = field(default_factory=dict)
    is_sound: bool = False
    _is_changed: bool = False

    @classmethod
    def of(cls, cache: Cache) -> CacheFacts:
        """Read what is kept beside a cache; what is of another cache, or damaged, is as if gone."""
        facts = cls(cache)
        try:
            said = json.loads(report_path(cache.path).read_bytes())
            if (said["format"], said["fingerprint"]) != (_FORMAT, cache.fingerprint):
                return facts
            simple, drawn = said["simple"], said["map"]
            facts.simple = None if simple is None else _simple(simple)
            facts.map = None if drawn is None else _map(drawn, cache)
            audited = said["audit"]
            facts.audit = None if audited is None else audit_from_json(audited)
            facts.nearest = {
                str(key): {str(name): _nearest(one, cache) for name, one in of_key.items()}
                for key, of_key in said["nearest"].items()
            }
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return cls(cache)
        return facts

    def about_to_compute(self) -> None:
        """Verify the cache, once, before its features are read.

        Raises:
            CorruptError: If it is damaged.
        """
        self._is_changed = True
        if not self.is_sound:
            require_sound(self.cache)
            self.is_sound = True

    def keep(self, on_note: NoteCallback) -> None:
        """Write what was computed; where that is not possible, it is computed again next time."""
        if not self._is_changed:
            return
        content = {
            "format": _FORMAT,
            "fingerprint": self.cache.fingerprint,
            "simple": None if self.simple is None else asdict(self.simple),
            "map": None if self.map is None else asdict(self.map),
            "audit": None if self.audit is None else audit_to_json(self.audit),
            "nearest": {
                key: {name: asdict(one) for name, one in of_key.items()}
                for key, of_key in self.nearest.items()
            },
        }
        path = report_path(self.cache.path)
        try:
            replace_file(path, (json.dumps(content, allow_nan=False) + "\n").encode())
        except StorageError as err:
            on_note(f"what was computed of {self.cache.path.name} is not kept for next time: {err}")
        self._is_changed = False


def _simple(said: Mapping[str, Any]) -> SimpleClassifiers:
    each = tuple(from_file(SimpleClassifier, one) for one in said["each"])
    return from_file(SimpleClassifiers, said, each=each)


def _map(said: Mapping[str, Any], cache: Cache) -> FeatureMap:
    rows = tuple(map(int, said["rows"]))
    points = tuple((float(x), float(y)) for x, y in said["points"])
    first, second = map(float, said["shares"])
    _require_rows(rows, cache, said["split"])
    if len(rows) != len(points):
        raise ValueError("a point for each row")
    return from_file(FeatureMap, said, rows=rows, points=points, shares=(first, second))


def _nearest(said: Mapping[str, Any], cache: Cache) -> NearestImage:
    found = from_file(NearestImage, said)
    _require_rows([found.row], cache, found.split)
    return found


def _require_rows(rows: Sequence[int], cache: Cache, split: str) -> None:
    if any(not 0 <= row < len(cache[split]) for row in rows):
        raise ValueError("a row that the cache does not have")
