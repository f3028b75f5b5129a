"""Systems of one report are held against each other seed by seed."""

from __future__ import annotations

import json
from pathlib import Path

from tests.benchmarks import paired

FIGURES = {
    "vgg16": [(0.80, 0.70), (0.82, 0.66), (0.81, 0.68)],
    "vgg16-dropout": [(0.77, 1.00), (0.78, 0.98), (0.76, 1.02)],
}


def test_differences_are_of_heads_with_the_same_seed(tmp_path: Path) -> None:
    systems = []
    for name, figures in FIGURES.items():
        runs = []
        # The second system's runs stand in another order: a seed is read, not counted.
        for seed, (acc, loss) in sorted(enumerate(figures), reverse=name == "vgg16-dropout"):
            folder = tmp_path / f"{name}-{seed}"
            folder.mkdir()
            run = {"seed": seed, "test_acc": acc, "test_loss": loss, "n_epochs": 5, "seconds": 1.0}
            (folder / "result.json").write_text(json.dumps(run))
            runs.append(str(folder))
        systems.append({"name": name, "backbone": "vgg16", "runs": runs})
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"systems": systems}))

    file = paired.read(tmp_path / "out.json", [report, report])

    lines = paired.page(file).splitlines()
    assert len(file.results) == 6
    assert lines[2] == (
        "| vgg16 | test_acc | 0.8100 ± 0.0100 (3) | 0.8000 to 0.8200 | 0.7603 to 0.8597 "
        "| 0.8031 | yes |"
    )
    # By hand: differences -0.03, -0.04, -0.05; t(2, 0.975) = 4.3027, 4.3027 * 0.01 / sqrt(3).
    assert lines[-2] == (
        "| vgg16-dropout minus vgg16 | test_acc | -0.0400 | -0.0648 to -0.0152 "
        "| -0.0500 to -0.0300 | 3 |"
    )
    assert all("/" not in str(row["system"]) for row in file.results)
