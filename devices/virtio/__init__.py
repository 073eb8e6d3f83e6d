"""Virtio devices: a transport (`mmio`), its queues (`queue`), and what stands behind them.

One `VirtioMmio` is one slot on the board with one `Backend` in it (`blk`, `rng`), or an empty slot.
Begin with `mmio.py`; `rng.py` is the smallest backend.
"""
