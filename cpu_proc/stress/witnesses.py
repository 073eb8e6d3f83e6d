"""Which scenario finds which mistake, in which mode: what the suite shows on each commit.

The problem: a switch that no scenario notices, or a scenario that notices nothing, would look like
soundness. So for each class one trial is named here that must end in a wrong value with the switch
on; `scenarios/` with no switch on must pass in every mode.

Read next: docs/stale-code.md (all scenarios of a class, and where each switch stands).
"""

from __future__ import annotations

from typing import NamedTuple


class Witness(NamedTuple):
    """A trial by which a mistake is found. `attempts`: for races, after so many at the latest."""

    scenario: str
    mode: str = "tier0"
    harts: int = 1
    attempts: int = 1


WITNESSES = {
    "M1": Witness("m01_flash_program"),
    "M2": Witness("m02_reset_copies"),
    "M3": Witness("m03_disk_read"),
    "M4": Witness("m04_snapshot"),
    "M5": Witness("m05_host_write"),
    "M6": Witness("m06_store_forms"),
    "M7": Witness("m07_two_addresses"),
    "M8": Witness("m08_page_table_runs"),
    "M9": Witness("m09_flash_mode"),
    "M10": Witness("m10_permissions"),
    "M11": Witness("m11_tail_patched"),
    "M12": Witness("m12_dma_length"),
    "M13": Witness("m13_virtual_physical"),
    "M14": Witness("m14_above_4g"),
    "M15": Witness("m15_jump_cache", "regions"),
    "M16": Witness("m16_chained_jump", "regions"),
    "M17": Witness("m17_link_again", "regions", 2, attempts=3),
    "M18": Witness("m18_return_stack", "regions"),
    "M19": Witness("m19_one_tier", "regions"),
    "M20": Witness("m20_illegal_then_valid", "regions"),
    "M21": Witness("m21_patched_twice", "regions"),
    "M22": Witness("m22_recycled_space", "mixed", 1, 10),
    "M23": Witness("m23_fp_state", "regions"),
    "M24": Witness("m24_mode_change"),
    "M25": Witness("m25_hashes", "regions"),
    "M26": Witness("m26_same_place", "regions"),
    "M27": Witness("m27_read_before_tracked", "mixed", 2, attempts=20),
    "M28": Witness("m28_remote_hart", "regions", 2, attempts=3),
    "M29": Witness("m29_spinning_hart", "regions", 2, attempts=3),
    "M30": Witness("m30_window", "regions", 2, attempts=10),
    "M31": Witness("m31_patched_while_made", "mixed", 1, 10),
    "M32": Witness("m32_two_at_once", "regions", 2, attempts=10),
    "M33": Witness("m33_parked_inside", "regions", 2, attempts=3),
    "M34": Witness("m34_stopped_hart", "regions", 2, attempts=3),
    "M35": Witness("m35_patched_round", "mixed", 1, 10),
    "M36": Witness("m36_behind_fence", "regions"),
    "M37": Witness("m37_reset_pending", "regions", 2, attempts=10),
    "M38": Witness("m38_own_block", "regions"),
    "M39": Witness("m39_counted_once", "regions"),
    "M40": Witness("m40_link_order", "regions", 2, attempts=10),
    "M41": Witness("m41_killed_translator", "mixed", 1, 10),
    "M42": Witness("m42_forgotten_while_made", "mixed", attempts=10),
    "M43": Witness("m43_alike", "regions"),
    "M44": Witness("m44_new_code", "mixed"),
    "M45": Witness("m45_counted_time", "regions"),
    "M46": Witness("m46_backend_swap", "regions"),
    "M47": Witness("m47_patched_while_made", "mixed", 1, 10),
    "M48": Witness("m48_long_dma"),
}
