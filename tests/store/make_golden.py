"""Write golden/v1.h5, the file that every later featcache must read: `python make_golden.py`.

It is written once for each format version, and never again: if today's writer gives other bytes,
the writer changed the format.
"""

import sys
from pathlib import Path

import numpy as np

from featcache.store import (
    CacheWriter,
    FilePlan,
    Identity,
    NumericClass,
    Provenance,
    SplitPlan,
    SplitRows,
    encode_id,
)

GOLDEN = Path(__file__).parent / "golden" / "v1.h5"
TRAIN_IDS = ["ant/0.png", "ant/1.png", "bee/Käfer.png", "bee/3.png", "bee/4.png"]
TEST_IDS = ["0", "1"]
STATISTICS = np.array([0.5, -1.25, 2, 3], "<f4")


def write_golden(path: Path) -> None:
    """Write 2 splits of 5 and 2 rows of 3 features in blocks of 2; row 3 of train is not valid."""
    ids = {"train": TRAIN_IDS, "test": TEST_IDS}
    plan = FilePlan(
        identity=Identity.from_json({"backbone": "toy", "format": 1, "store_dtype": "float32"}),
        numerics=NumericClass.from_json({"device": "cpu", "precision": "fp32"}),
        provenance=Provenance.from_json({"dataset": "golden"}),
        class_names=("ant", "bee"),
        rows_per_block=2,
        splits={
            name: SplitPlan(
                n_rows=len(split_ids),
                feature_shape=(3,),
                feature_dtype="<f4",
                id_nbytes=max(len(encode_id(i)) for i in split_ids),
                has_reasons=True,
            )
            for name, split_ids in ids.items()
        },
        statistics=(("bn.running_mean", (2,)), ("bn.running_var", (2,))),
    )
    rows = {
        "train": SplitRows(np.array([0, 0, 1, 1, 1]), TRAIN_IDS),
        "test": SplitRows(np.array([1, 0]), TEST_IDS),
    }
    features = {n: np.arange(3 * len(i), dtype="<f4").reshape(-1, 3) / 4 for n, i in ids.items()}
    features["train"][3] = 0
    with CacheWriter.create(path, plan, rows) as writer:
        writer.write_statistics(STATISTICS)
        for block in writer.pending():
            numbers = np.arange(block.start, block.stop)
            is_train = block.split == "train"
            valid = (numbers != 3) if is_train else np.ones(len(numbers), np.bool_)
            reasons = {int(i): "image file is truncated" for i in np.flatnonzero(~valid)}
            writer.write_block(
                block, features[block.split][block.start : block.stop], valid, reasons
            )
        writer.commit()
        writer.finish()


if __name__ == "__main__":
    if GOLDEN.exists():
        sys.exit(f"{GOLDEN} is there, and is never written again. Nothing was changed.")
    write_golden(GOLDEN)
