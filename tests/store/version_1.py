"""A cache as the first format would have it."""

from dataclasses import replace
from pathlib import Path

from featcache.core.side_files import finished_path, is_partial
from featcache.store import CacheWriter, SplitRows, read_state
from featcache.store.hdf5_file import plan_of
from featcache.store.reader import open_readonly
from featcache.store.split import CacheSplit, OpenedFile


def as_version_1(path: Path) -> Path:
    """Put a file of version 1 in a cache's place, complete or partial, with the same rows."""
    state, file = read_state(path), OpenedFile(path, open_readonly)
    manifest = state.manifest
    splits = {n: CacheSplit(n, s.n_rows, file, s.columns) for n, s in manifest.splits.items()}
    plan = plan_of(manifest)
    old_plan = replace(
        plan,
        version=1,
        reference=None,
        splits={n: replace(s, has_image_sha256=False) for n, s in plan.splits.items()},
    )
    rows = {name: SplitRows(split.labels, split.ids) for name, split in splits.items()}
    path.unlink()  # it stays open
    with CacheWriter.create(finished_path(path), old_plan, rows) as writer:
        done = [b for b in manifest.blocks() if b.slot in state.slots]
        for block, there in zip(writer.pending(), manifest.blocks(), strict=True):
            if there in done:
                split = splits[block.split]
                reasons = {split.ids.index(i) - block.start: r for i, r in split.failures.items()}
                writer.write_block(
                    block,
                    split.read(block.start, block.stop),
                    split.valid[block.start : block.stop],
                    {row: r for row, r in reasons.items() if 0 <= row < block.stop - block.start},
                )
        writer.commit()
        if not is_partial(path):
            writer.finish()
    return path
