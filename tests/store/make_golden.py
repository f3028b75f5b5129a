"""Write golden/v1.h5 and v2.h5, which every later featcache must read: `python make_golden.py`.

A file is written once for each format version, and never again: if today's writer gives other
bytes, the writer changed the format.
"""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt

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

GOLDEN = Path(__file__).parent / "golden"
TRAIN_IDS = ["ant/0.png", "ant/1.png", "bee/Käfer.png", "bee/3.png", "bee/4.png"]
TEST_IDS = ["0", "1"]
STATISTICS = np.array([0.5, -1.25, 2, 3], "<f4")
REFERENCE = np.array([[0.25, 0.5, -2], [1, 0, 8]], "<f4")


def write_golden(path: Path, version: int) -> None:
    """Write 2 splits of 5 and 2 rows of 3 features in blocks of 2; row 3 of train is not valid."""
    is_new = version > 1
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
                has_image_sha256=is_new,
            )
            for name, split_ids in ids.items()
        },
        statistics=(("bn.running_mean", (2,)), ("bn.running_var", (2,))),
        reference=REFERENCE.shape if is_new else None,
        version=version,
    )
    rows = {
        "train": SplitRows(np.array([0, 0, 1, 1, 1]), TRAIN_IDS, _image_sha256(TRAIN_IDS)),
        "test": SplitRows(np.array([1, 0]), TEST_IDS, _image_sha256(TEST_IDS)),
    }
    features = {n: np.arange(3 * len(i), dtype="<f4").reshape(-1, 3) / 4 for n, i in ids.items()}
    features["train"][3] = 0
    with CacheWriter.create(path, plan, rows) as writer:
        writer.write_statistics(STATISTICS)
        if is_new:
            writer.write_reference(REFERENCE)
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


def _image_sha256(ids: Sequence[str]) -> npt.NDArray[np.uint8]:
    """As if an image's bytes were its id; zeros for the one that could not be read."""
    digests = [bytes(32) if i == "bee/3.png" else sha256(i.encode()).digest() for i in ids]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)


if __name__ == "__main__":
    for number in (1, 2):
        if not (GOLDEN / f"v{number}.h5").exists():
            write_golden(GOLDEN / f"v{number}.h5", number)
