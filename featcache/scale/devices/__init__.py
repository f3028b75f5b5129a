"""One cache on several devices of one machine: torch's elastic agent as a library.

`extract_on_devices` is the verb. The `leader` holds the lock, makes the file ready and listens to
its ledger; core/workers starts the workers, and starts them again when one dies; a `worker`
claims blocks from a counter and computes them, as `work` describes. The ledger alone decides
which blocks are done.
"""
