"""Where jobs are done: a Dask cluster, a local one by default.

The problem: a campaign may be larger than one machine. Each job is a process of its own wherever it
runs, so all a scheduler's worker needs is threads that wait for processes; the jobs, pure functions
of their descriptions, may go anywhere. Dask's package is optional: without it, local campaigns run
on plain threads, by the same interface (`concurrent.futures.Executor`).

Invariant: after `close` nothing that a local pool started is left.

Read next: `campaign.py`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

from cpu_proc.stress import job
from protocol.errors import UserError

CONNECT = "10s"  # to reach a scheduler
EXTRA = "pip install 'coldboot[stress]'"


class Pool:
    """An executor and its width: how many jobs are done at once."""

    def __init__(self, jobs: int | None, scheduler: str | None = None) -> None:
        """`scheduler`: the address of one, else a local cluster. Raises UserError."""
        self.width = jobs or os.cpu_count() or 1
        self._cleanup = contextlib.ExitStack()
        self.local = scheduler is None
        job.allow()
        self.where = "threads"
        self._executor: Executor
        if importlib.util.find_spec("distributed") is not None:
            self._executor = self._dask(jobs, scheduler)
        elif scheduler is not None:
            raise UserError(f"stress: --scheduler {scheduler}: Dask is not installed: {EXTRA}")
        else:
            self._executor = ThreadPoolExecutor(self.width)

    def _dask(self, jobs: int | None, scheduler: str | None) -> Executor:
        import logging

        from distributed import Client, LocalCluster

        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        if scheduler is None:
            cluster = self._cleanup.enter_context(
                LocalCluster(
                    n_workers=1,
                    threads_per_worker=self.width,
                    processes=False,
                    dashboard_address="127.0.0.1:0",
                    memory_limit=0,
                )
            )
            client = self._cleanup.enter_context(Client(cluster))
            self.where = "a local Dask cluster"
        else:
            try:
                client = self._cleanup.enter_context(Client(scheduler, timeout=CONNECT))
            except (OSError, ValueError, TimeoutError) as error:
                raise UserError(
                    f"stress: --scheduler {scheduler}: not reached ({error})"
                ) from error
            threads = sum(client.nthreads().values())
            if not threads:
                self.close()
                raise UserError(f"stress: --scheduler {scheduler}: it has no workers")
            self.width = jobs or threads
            self.where = scheduler
        executor: Executor = client.get_executor(pure=False, retries=0)
        return executor

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Have a function called somewhere."""
        return self._executor.submit(function, *arguments)

    def close(self, *, abandon: bool = False) -> None:
        """End it. `abandon`: what is under way too."""
        if abandon and self.local:
            job.abandon()
        with contextlib.suppress(Exception):
            self._executor.shutdown(wait=not abandon, cancel_futures=True)
        self._cleanup.close()
