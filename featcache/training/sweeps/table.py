"""What a sweep found, and how it is written for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from featcache.config import HeadSpec, SolverSpec
from featcache.core.html_table import html_facts, html_table
from featcache.core.paths import portable
from featcache.evaluation.metrics import Spread
from featcache.store import replace_file

_COLUMNS = ("val_loss", "val_acc", "epochs")


@dataclass(frozen=True)
class SweepSetting:
    """One setting of the grid, over its seeds.

    Attributes:
        head: Shape and regularisation.
        lr: Learning rate; None of another solver than mlp.
        val_loss: Of its heads; None if one broke off.
        val_acc: Of its heads; None if one broke off.
        n_epochs: Epochs, the mean over its heads.
        problem: Why a head broke off; empty if none did.
        runs: Folders of its heads, by seed.
        solver: How its heads were found.
    """

    head: HeadSpec
    lr: float | None
    val_loss: Spread | None
    val_acc: Spread | None
    n_epochs: float
    problem: str
    runs: Sequence[Path]
    solver: SolverSpec = field(default_factory=SolverSpec)


@dataclass(frozen=True)
class SweepResult:
    """What `sweep` found.

    Attributes:
        settings: All of them, the lowest mean val_loss first.
        test_acc: Of the first setting's heads; None if the cache has no split "test".
        test_loss: Of the first setting's heads.
        n_trained: Heads that this call trained; the others were there.
        seconds: Wall time of this call's training, all passes.
        cache: The cache.
        json: The table as a file.
        markdown: The table as a file.
        choices: What was chosen automatically, with the reason.
        remarks: What the figures of the first setting do not say by themselves, as of `train_head`.
    """

    settings: Sequence[SweepSetting]
    test_acc: Spread | None
    test_loss: Spread | None
    n_trained: int
    seconds: float
    cache: Path
    json: Path
    markdown: Path
    choices: dict[str, str]
    remarks: tuple[str, ...]

    def _repr_html_(self) -> str:
        rows = [(name_of(setting), *figures(setting)) for setting in self.settings]
        table = html_table(["setting", *_COLUMNS], rows, caption=self.cache)
        return f"{table}{html_facts({'test_acc': self.test_acc, 'test_loss': self.test_loss})}"


def write_tables(result: SweepResult) -> None:
    """Write what was found into its two files."""
    replace_file(result.json, json.dumps(asdict(result), indent=2, default=portable).encode())
    replace_file(result.markdown, markdown_table(result).encode())


def markdown_table(result: SweepResult) -> str:
    """Write the settings as a table, the best first."""
    lines = [f"| setting | {' | '.join(_COLUMNS)} |", "|---|---|---|---|"]
    for setting in result.settings:
        cells = [name_of(setting), *figures(setting)]
        lines.append("| " + " | ".join(cells) + " |")
    if result.test_acc is not None and result.test_loss is not None:
        lines += [
            "",
            f"The first on the test images: test_acc {result.test_acc}, test_loss "
            f"{result.test_loss}.",
        ]
    return "\n".join(lines) + "\n"


def name_of(setting: SweepSetting) -> str:
    """Write a setting as it is typed."""
    if not setting.solver.is_mlp:
        return _typed_solver(setting.solver)
    spec = setting.head
    words = [f"--reg {spec.reg}", f"--lr {setting.lr:g}"]
    words.append(f"--hidden {','.join(map(str, spec.hidden)) or repr('')}")
    if spec.l1:
        words.append(f"--l1 {spec.l1:g}")
    if spec.weight_decay:
        words.append(f"--weight-decay {spec.weight_decay:g}")
    if spec.dropout:
        words.append(f"--dropout {','.join(f'{p:g}' for p in spec.dropout)}")
    return " ".join(words)


def _typed_solver(spec: SolverSpec) -> str:
    words = [f"--solver {spec.solver}", f"--features {spec.features}"]
    words += [f"--C {C:g}" for C in spec.C or ()] + [f"--k {k}" for k in spec.k or ()]
    return " ".join(words)


def figures(setting: SweepSetting) -> list[str]:
    """Write val_loss, val_acc and epochs for people."""
    if setting.val_loss is None or setting.val_acc is None:
        return [setting.problem, "-", f"{setting.n_epochs:.1f}"]
    return [str(setting.val_loss), str(setting.val_acc), f"{setting.n_epochs:.1f}"]
