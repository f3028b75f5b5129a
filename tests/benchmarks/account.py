"""The whole notebook by measured rates and counted passes, against real runs of its systems.

    python -m tests.benchmarks.account BENCH.json --extracted FILE ... --reproduced FILE ...

BENCH.json is `bench`'s, taken on the same machine: its account in fp32 has the notebook's hours. A
reproduced file is what `featcache reproduce` left as JSON. An extracted file is what `featcache
extract --json` printed, one for each call: a run that was stopped and resumed may have several,
which are added. A call that was stopped prints no JSON. The rows that it computed count at the rate
of the others, and the page says so. A cache that `reproduce` made in one go needs none. Only
systems count that ran on the notebook's own data, backbone and size; the others stand by `bench`'s
rates, apart.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featcache.core.backbone_names import PIXELS
from featcache.training.notebook_systems import SYSTEMS

Json = Mapping[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bench", type=Path)
    parser.add_argument("--extracted", type=Path, nargs="+", default=[])
    parser.add_argument("--reproduced", type=Path, nargs="+", default=[])
    options = parser.parse_args()
    bench = json.loads(options.bench.read_text())
    extracted = [json.loads(path.read_text()) for path in options.extracted]
    reproduced = [json.loads(path.read_text()) for path in options.reproduced]
    print(page(bench["account"]["fp32"]["parts"], extracted, reproduced))


def page(parts: Json, extracted: Sequence[Json], reproduced: Sequence[Json]) -> str:
    """Write the table of systems and extractions, with the sums of what ran.

    Args:
        parts: The account's; `notebook_s` and `featcache_s` of each system and extraction.
        extracted: Results of `extract`.
        reproduced: Reports of `reproduce`; of a system in several the last counts.
    """
    ran = {
        told["name"]: told
        for report in reproduced
        for told in report["systems"]
        if told["published_acc"] is not None  # the notebook's own data, backbone and size
    }
    if not ran:
        raise SystemExit("No --reproduced file has a system on the notebook's own data.")
    lines = ["| part | notebook, hours | featcache, hours | heads | hours of all heads |"]
    lines.append("|---|---|---|---|---|")
    notebook_s, one_s, all_s = 0.0, 0.0, 0.0
    made = {told["backbone"]: told["extract_s"] for told in ran.values()}
    extractions, remarks = extraction_s(extracted, made)
    for name, seconds in extractions.items():
        lines.append(f"| extraction, {name} | | {seconds / 3600:.3f} | | {seconds / 3600:.3f} |")
        one_s, all_s = one_s + seconds, all_s + seconds
    for name, told in ran.items():
        theirs_s, n_heads = parts[name]["notebook_s"], len(told["runs"])
        hours = (theirs_s / 3600, told["train_s"] / 3600, n_heads * told["train_s"] / 3600)
        lines.append(f"| {name} | {hours[0]:.2f} | {hours[1]:.3f} | {n_heads} | {hours[2]:.3f} |")
        notebook_s, one_s = notebook_s + theirs_s, one_s + told["train_s"]
        all_s += n_heads * told["train_s"]
    lines.append(
        f"| all that ran | {notebook_s / 3600:.1f} | {one_s / 3600:.2f}: "
        f"**{notebook_s / one_s:.1f} times less** | | {all_s / 3600:.2f} |"
    )
    rest = [system for system in SYSTEMS if system.name not in ran]
    if rest:
        notebook_s += sum(parts[system.name]["notebook_s"] for system in rest)
        one_s += sum(parts[system.name]["featcache_s"] for system in rest)
        for name in {system.backbone for system in rest} - made.keys() - {PIXELS}:
            one_s += parts[f"extraction, {name}"]["featcache_s"]
        lines += [
            "",
            f"Not run: {', '.join(system.name for system in rest)}. With them by rates: "
            f"{notebook_s / 3600:.1f} hours against {one_s / 3600:.2f}, "
            f"{notebook_s / one_s:.1f} times less.",
        ]
    return "\n".join([*lines, *remarks]) + "\n"


def extraction_s(
    extracted: Sequence[Json], made: Mapping[str, float | None]
) -> tuple[dict[str, float], list[str]]:
    """Add the seconds of the calls that made each cache, and say which rows no call tells of.

    Args:
        extracted: Results of `extract`.
        made: The backbones of the caches, with the seconds that `reproduce` knows, if it does.

    Returns:
        The seconds of each backbone, and a remark for each whose rows were not all told.
    """
    remarks: list[str] = []
    by_path: dict[str, list[Json]] = defaultdict(list)
    for call in extracted:
        by_path[call["path"]].append(call)
    seconds = dict(made)
    for path, calls in by_path.items():
        n_computed, n_rows = sum(call["n_rows_computed"] for call in calls), calls[-1]["n_rows"]
        if not 0 < n_computed <= n_rows:
            raise SystemExit(f"{path}: the calls computed {n_computed} of {n_rows} rows.")
        name = Path(path).stem.rpartition("-")[0]
        if name not in made:
            continue
        seconds[name] = sum(call["seconds"] for call in calls) * n_rows / n_computed
        if n_computed < n_rows:
            remarks += [
                "",
                f"{n_rows - n_computed} of {n_rows} rows of {name} are of calls that were stopped. "
                f"They count at the rate of the other {n_computed}.",
            ]
    known = {name: each for name, each in seconds.items() if each is not None}
    if unknown := sorted(seconds.keys() - known.keys()):
        raise SystemExit(f"No --extracted file is of {', '.join(unknown)}.")
    return known, remarks


if __name__ == "__main__":
    main()
