"""docs/security.md names tests; they are there."""

from __future__ import annotations

import re

from tests.system import runner


def test_every_test_that_is_named_exists():
    text = (runner.REPOSITORY / "docs" / "security.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[a-z_/]+\.py)::(test_[a-z_]+)`", text)
    assert len(named) > 15
    for path, name in named:
        source = (runner.REPOSITORY / path).read_text(encoding="utf-8")
        assert f"\ndef {name}(" in source, f"{path}::{name}"
