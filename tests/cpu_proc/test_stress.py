"""Scenarios pass on a sound build, in every mode; their files say what they must."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpu_proc.stress import job, scenario
from protocol.errors import UserError

SCENARIOS = scenario.load_all()


@pytest.mark.parametrize("mode", scenario.MODES)
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_guest_sees_no_stale_code(name: str, mode: str):
    result = job.run_job({"scenario": name, "mode": mode, "harts": 1, "patience": 240})

    assert "passed" == result["kind"], result


def test_a_wrong_value_is_stale_and_names_the_report():
    made = SCENARIOS["m01_flash_program"]
    mode = scenario.MODES["tier0"]

    assert "" == made.judge(mode, [1, 2, 3, 4, 5, 6])
    assert "report 2: 1 where 2 was expected" == made.judge(mode, [1, 1, 1, 1, 1, 1])
    assert "report 6 of 6 is missing" == made.judge(mode, [1, 2, 3, 4, 5])
    assert "7 reports where 6 were expected" == made.judge(mode, [1, 2, 3, 4, 5, 6, 7])


def test_a_file_without_a_header_is_refused(tmp_path: Path):
    path = tmp_path / "x.s"
    path.write_text("#: M1 something\nmain: j main\n")
    with pytest.raises(UserError, match="expect"):
        scenario.read(path)
    path.write_text("#: M1 something\n#: expect 1\n#: option teapot\n")
    with pytest.raises(UserError, match="teapot"):
        scenario.read(path)
