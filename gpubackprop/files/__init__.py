"""Everything that touches a disk in one way: atomic writes, cache folders, checkpoints."""
