"""Logging: cheap when silent, one line an event, and never in the program's way."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

from protocol import logs
from protocol.errors import UserError


@pytest.fixture(autouse=True)
def _default_again():
    yield
    logs.configure()


def test_nothing_is_imported_before_an_event_is_written():
    program = (
        "import sys\n"
        "from protocol.logs import get_logger, configure\n"
        "configure(level='warning')\n"
        "log = get_logger('plic').bind(hart=0)\n"
        "log.info('interrupt_raised', source=10)\n"
        "assert 'structlog' not in sys.modules\n"
        "log.warning('interrupt_dropped', source=10)\n"
        "assert 'structlog' in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=240, check=True
    )
    assert done.stdout == ""
    assert done.stderr.endswith("warning plic: interrupt_dropped hart=0 source=10\n")


def test_an_event_is_one_line_whatever_its_fields():
    out = io.StringIO()
    logs.configure(level="debug", file=out)
    logs.get_logger("hart").debug(
        "trap_taken", pc=0x80000000, text="a b\nc", ms=1.23456, key=b"\1\2"
    )
    assert out.getvalue().count("\n") == 1
    assert out.getvalue().endswith(
        "debug hart: trap_taken pc=0x80000000 text='a b\\nc' ms=1.235 key=0102\n"
    )


def test_json_lines_hold_level_logger_time_and_fields():
    out = io.StringIO()
    logs.configure(json=True, level="info", file=out)
    log = logs.get_logger("retirement", session=5)
    log.debug("page_retired")
    log.error("deadline_passed", epoch=7, key=b"\1")
    (line,) = out.getvalue().splitlines()
    found = json.loads(line)
    assert found.pop("timestamp").endswith("Z")
    assert found == {
        "event": "deadline_passed",
        "level": "error",
        "logger": "retirement",
        "session": 5,
        "epoch": 7,
        "key": "01",
    }


def test_loggers_made_before_follow_a_change_of_level():
    out = io.StringIO()
    log = logs.get_logger("x")
    logs.configure(level="off", file=out)
    log.error("unseen")
    assert not log.enabled("error")
    logs.configure(level="info", file=out)
    assert log.enabled("info")
    log.info("seen")
    assert out.getvalue().endswith("info x: seen\n")


def test_a_log_that_cannot_be_written_disturbs_nobody():
    out = io.StringIO()
    logs.configure(file=out)
    out.close()
    logs.get_logger("x").error("lost")


def test_a_file_is_appended_to_and_a_bad_one_is_a_users_error(tmp_path):
    path = tmp_path / "log"
    path.write_text("before\n")
    logs.configure(file=path)
    logs.get_logger("x").error("after")
    assert path.read_text().startswith("before\n")
    assert path.read_text().endswith("error x: after\n")
    with pytest.raises(UserError, match="cannot be opened"):
        logs.configure(file=str(tmp_path / "no" / "log"))
    with pytest.raises(UserError, match="log level 'loud' is unknown"):
        logs.configure(level="loud")


def test_a_users_error_is_one_line():
    assert UserError("two\n  lines").text == str(UserError("two lines")) == "two lines"
