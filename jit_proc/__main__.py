"""`python -m jit_proc`, also `coldboot translator`: start the translator service.

The problem: run for itself, for a service manager, or as the child of one machine, it must say
clearly what is wrong with what it was asked, come up fast, and end when it is told to or when its
machine is gone.

Invariant: a `UserError` is one line and exit status 2; llvmlite is imported by workers alone.

Read next: `service.py`.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

from protocol import logs
from protocol.errors import USER_ERROR_EXIT, UserError

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are UserErrors."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"translator: {message}; see `coldboot translator --help`")


def size(text: str) -> int:
    """Bytes of a size like 65536, 64M or 1G. Raises ArgumentTypeError."""
    match = re.fullmatch(r"([0-9]{1,15})([KMG]?)", text.upper())
    if match is None or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: write 65536, 512K, 64M or 1G")
    return int(match[1]) * _UNITS[match[2]]


def _code_space(text: str) -> int:
    value = size(text)
    if not 64 << 10 <= value <= 1 << 31:
        raise argparse.ArgumentTypeError(f"{text} is out of range: 64K to 2G")
    return value


def _store_size(text: str) -> int:
    value = size(text)
    if not 1 << 20 <= value <= 1 << 40:
        raise argparse.ArgumentTypeError(f"{text} is out of range: 1M to 1024G")
    return value


def _workers(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise argparse.ArgumentTypeError(f"{text!r} workers: 1 to 64 are possible")
    return int(text)


def _machines(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} machines: 1 to 1024 are possible")
    return int(text)


def _queue(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1 << 16:
        raise argparse.ArgumentTypeError(f"a queue of {text!r}: 1 to 65536 are possible")
    return int(text)


def _nice(text: str) -> int:
    if not text.isdecimal() or int(text) > 19:
        raise argparse.ArgumentTypeError(f"niceness {text!r}: 0 to 19 are possible")
    return int(text)


def _folder(text: str) -> Path:
    from protocol.engine_image import folder_named

    return folder_named(text)


def default_workers() -> int:
    """Half the CPUs, from 1 to 4: harts and translators share the machine."""
    return max(1, min(4, len(os.sched_getaffinity(0)) // 2))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="coldboot translator",
        description="Translate guests' code for machines on this host.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--endpoint",
        metavar="ENDPOINT",
        help="where to listen: ipc:///FOLDER/NAME or tcp://127.0.0.1:PORT"
        " (default: the user's runtime folder)",
    )
    parser.add_argument(
        "--listen",
        metavar="tcp://HOST:PORT",
        help="do jobs for translators on other hosts, instead of serving machines on this one",
    )
    parser.add_argument(
        "--keys",
        type=Path,
        metavar="FOLDER",
        help="with --listen: keys of this side and of those that may come (see `coldboot keys`)",
    )
    parser.add_argument(
        "--workers",
        type=_workers,
        default=default_workers(),
        metavar="N",
        help="processes that compile (default %(default)s)",
    )
    parser.add_argument(
        "--code-space",
        type=_code_space,
        default=64 << 20,
        metavar="SIZE",
        help="bytes of code a machine may have at a time (default 64M)",
    )
    parser.add_argument(
        "--machines",
        type=_machines,
        default=64,
        metavar="N",
        help="machines served at a time; further ones are refused, and ask again (default 64)",
    )
    parser.add_argument(
        "--queue",
        type=_queue,
        default=1024,
        metavar="N",
        help="requests of one machine that may wait; further ones are refused (default 1024)",
    )
    parser.add_argument(
        "--build-engine",
        action="store_true",
        help="build the tier-0 engine into the cache if it is missing, print its path, and end",
    )
    parser.add_argument(
        "--backends", action="store_true", help="list the backends with their options, and end"
    )
    parser.add_argument(
        "--nice", type=_nice, default=5, metavar="N", help="workers' niceness (default %(default)s)"
    )
    parser.add_argument(
        "--store",
        choices=("disk", "memory", "off"),
        default="disk",
        help="where translations are kept by what they were made from: on disk too, until the"
        " service ends, or not at all (default %(default)s)",
    )
    parser.add_argument(
        "--store-size",
        type=_store_size,
        default=256 << 20,
        metavar="SIZE",
        help="bytes of translations on disk (default 256M)",
    )
    parser.add_argument(
        "--cache", type=_folder, metavar="FOLDER", help="where engines and translations are kept"
    )
    parser.add_argument(
        "--log-json", action="store_true", help="log JSON objects, one a line, to standard error"
    )
    parser.add_argument(
        "--log-level",
        choices=list(logs.LEVELS),
        help="least level to log (default info; warning with --parent)",
    )
    parser.add_argument(
        "--parent", type=int, metavar="PID", help="end with this process, which started us"
    )
    parser.add_argument("--lifter", metavar="MODULE:FUNCTION", help=argparse.SUPPRESS)
    parser.add_argument("--engine", metavar="MODULE:FUNCTION", help=argparse.SUPPRESS)
    return parser


def run(arguments: list[str] | None = None) -> int:
    """Parse `arguments` and serve. Raises UserError."""
    gc.disable()  # until all is imported: nothing of that is garbage
    asked = _parser().parse_args(arguments)
    if asked.parent is not None:
        from jit_proc.process import die_with_parent

        die_with_parent(asked.parent)
    level = asked.log_level or ("warning" if asked.parent is not None else "info")
    logs.configure(json=asked.log_json, level=level)

    if asked.backends:
        from jit_proc.backends import listing

        print(listing(), end="")
        return 0
    worker = _early_worker(asked)
    from jit_proc.service_options import Options

    chosen = {
        name: value
        for name in (
            "endpoint",
            "workers",
            "code_space",
            "machines",
            "queue",
            "nice",
            "cache",
            "store",
            "store_size",
            "lifter",
            "engine",
        )
        if (value := getattr(asked, name)) is not None
    }
    options = Options(**chosen, worker=worker)
    if asked.build_engine:
        return _build_engine(options)
    if asked.listen is None and asked.keys is not None:
        raise UserError("translator: --keys goes with --listen")
    return _serve(options, asked.listen, asked.keys)


def _early_worker(asked: argparse.Namespace) -> subprocess.Popen[bytes] | None:
    """A worker, while the rest is imported, if one machine waits and nothing can be kept for it.

    It is urgent. Where a store has answers first, starting a worker must not cost the guest time: a
    boot from a filled store on busy processors is over before there is much for one to do.
    """
    if asked.parent is None or asked.build_engine or asked.listen is not None:
        return None
    if asked.store == "disk":
        from protocol.engine_image import cache_folder

        if any((asked.cache or cache_folder()).glob("translations-*.sqlite")):
            return None
    from jit_proc.process import start_worker

    return start_worker(asked.lifter, asked.engine, asked.nice, urgent=True)


def _serve(options: object, listen: str | None, folder: Path | None) -> int:
    from jit_proc.agent_server import JobServer
    from jit_proc.process import tell_service_manager
    from jit_proc.service import Broker
    from jit_proc.service_options import Options
    from protocol import keys

    assert isinstance(options, Options)
    broker: Broker | JobServer
    if listen is not None:
        broker = JobServer(options, listen, keys.load(folder or keys.default_folder()))
    else:
        broker = Broker(options)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: broker.stop(signal.Signals(received).name))
    broker.bell.hear_signals()
    log = logs.get_logger("translator")
    log.info("service_started", endpoint=broker.server.endpoint, workers=options.workers)
    tell_service_manager("READY=1")
    gc.freeze()  # modules and the like stay: no machine waits while they are looked through
    gc.enable()
    try:
        broker.run()
    finally:
        tell_service_manager("STOPPING=1")
        broker.close()
    log.info("service_stopped", pid=os.getpid())
    return 0


def _build_engine(options: object) -> int:
    """Build the engine if it is not in the cache, and print where it is."""
    from jit_proc import outcomes, service_options
    from jit_proc.job import EngineJob
    from jit_proc.store import EngineStore
    from protocol.engine_image import EngineImageError

    assert isinstance(options, service_options.Options)
    key = outcomes.current_engine_key()
    store = EngineStore(options.cache)
    image = store.find(key)
    if image is not None:
        print(image.path)
        return 0
    pool = service_options.make_pool(options)
    pool.start()
    try:
        pool.submit(1, EngineJob())
        results = pool.collect()
        while not results:
            due = pool.deadline()
            wait = 60.0 if due is None else max(0.0, due - time.monotonic())
            select.select(pool.filenos(), [], [], wait)
            results = pool.collect()
        path = outcomes.keep_engine(store, key, results[0].outcome, lasting=True)
    except EngineImageError as error:
        raise UserError(str(error)) from error
    finally:
        pool.close()
        store.close()
    print(path)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point: the exit status; a UserError is one line and status 2."""
    try:
        return run(arguments)
    except UserError as error:
        print(f"coldboot: {error.text}", file=sys.stderr)
        return USER_ERROR_EXIT


if __name__ == "__main__":
    sys.exit(main())
