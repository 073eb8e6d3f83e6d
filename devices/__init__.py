"""The devices of a machine, one file each: registers, state, reset, device-tree node.

They import `protocol` only, and know neither harts nor addresses. Begin with `device.py` (what a
device is), then `test_finisher.py` (the smallest one), then `virtio/` (the largest).
"""
