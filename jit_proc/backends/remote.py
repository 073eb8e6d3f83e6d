"""The `remote` backend: another translator, on another host, does the jobs.

The broker hands jobs of this backend out itself (`agent.py`), for many must be under way at once
and a worker does one at a time. So what stands here is what can be asked for, and what is wrong
with it.

Read next: `jit_proc/agent.py`, docs/remote.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from jit_proc.backends import Option
from jit_proc.job import Job, Region, Untranslatable


class Remote:
    """Jobs go to `host`:`port`."""

    name = "remote"
    summary = "another host's translator, by TCP and keys (coldboot keys)"
    options = (
        Option("host", "HOST", "[A-Za-z0-9.:-]+", "name or address of the other host"),
        Option("port", "PORT", "[0-9]{1,5}", "where its translator listens"),
        Option("keys", "FOLDER", "/.+", "this side's keys (default: the user's)"),
        Option("peer", "NAME", "[A-Za-z0-9_.-]+", "which authorized key is the other host's"),
        Option("use", "BACKEND", "[a-z][a-z0-9_-]*", "the backend it is to use (default llvm)"),
        Option("else", "BACKEND", "llvm|reference", "used here while it cannot be reached"),
    )

    def complaint(self, settings: Mapping[str, str]) -> str:
        """What is wrong with these settings taken together; empty if nothing is."""
        from pathlib import Path

        from protocol import keys
        from protocol.errors import UserError

        for needed in ("host", "port"):
            if needed not in settings:
                return f"{needed}= is missing: remote,host=HOST,port=PORT"
        if not 0 < int(settings["port"]) < 65536:
            return f"port {settings['port']} is not possible: 1 to 65535"
        try:
            own = keys.load(Path(settings.get("keys") or keys.default_folder()))
            if "else" not in settings:  # it may be removed for a while, and that stands in for it
                own.of(settings.get("peer", ""))
        except UserError as error:
            return error.text
        return ""

    def translate(self, job: Job, settings: Mapping[str, str]) -> Region:
        """Refuse: only a translator's broker forwards jobs, whole ones."""
        raise Untranslatable("unsupported", "remote is no part of another backend")


REMOTE = Remote()
