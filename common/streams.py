"""stdout, stderr and the signals of a script: a reader that leaves ends no run, and every end has its exit code."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_stopped_by: list[int] = []  # signals that have asked this run to end


class _Patient(io.FileIO):
    """A stream's file that swallows what nobody takes any more, and remembers why."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                return super().write(data) or 0
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes


@contextlib.contextmanager
def patient() -> Iterator[list[str]]:
    """Let stdout and stderr of this process bear a reader that leaves, and yield a list for what went wrong with stdout.

    A pipe whose reader has gone is no error. A stdout that was closed at the start, or cannot be written as on a full disk, puts
    one sentence into the list when the block ends. A closed stderr is no error.
    """
    closed = sys.stdout is None
    for descriptor in (0, 1, 2):  # else the next file that is opened would become the stream
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    wrong: list[str] = []
    old = sys.stdout, sys.stderr
    files = [_Patient(descriptor, "w", closefd=False) for descriptor in (1, 2)]
    sys.stdout, sys.stderr = (_text(file, stream) for file, stream in zip(files, old, strict=True))
    try:
        yield wrong
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        error = files[0].error
        if closed:
            wrong.append("stdout is closed, so the results that it shows are lost; open it, or send it to a file")
        elif error is not None and error.errno != errno.EPIPE:
            wrong.append(f"stdout cannot be written: {os.strerror(error.errno or 0)}; send it elsewhere, and run again")


def _text(file: _Patient, before: Any) -> io.TextIOWrapper:
    # What a file name's bytes give must not end a run; `backslashreplace` also shows what the terminal's encoding lacks.
    encoding = getattr(before, "encoding", None) or "utf-8"
    buffered = io.BufferedWriter(file)
    by_line = file.fileno() == 2 or file.isatty()
    return io.TextIOWrapper(buffered, encoding, errors="backslashreplace", line_buffering=by_line)


def _stop(number: int, frame: FrameType | None) -> None:
    _stopped_by.append(number)
    raise KeyboardInterrupt


def stopped_by() -> int:
    """Return the signal that has asked this run to end, 0 where none has."""
    return _stopped_by[0] if _stopped_by else 0


def exit_code() -> int:
    """Return the exit code of an interrupted run: 128 and the signal's number, 130 for Ctrl-C."""
    return 128 + (stopped_by() or signal.SIGINT)


def catch_signals() -> None:
    """Let SIGTERM and SIGHUP end a run as Ctrl-C does; a signal that is ignored, as under nohup, stays ignored."""
    for number in STOPS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _stop)


def ignore_signals() -> None:
    """Let no signal disturb the end of the interpreter: the run is over."""
    for number in STOPS:
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.SIG_IGN)


def _quiet_interrupt(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Say one sentence where Ctrl-C comes before main(), while a script is importing."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    elif sys.stderr is not None:
        sys.stderr.write(f"{Path(sys.argv[0]).name}: interrupted; run the same command again to go on\n")


def expect_interrupts() -> None:
    """Show no traceback when one of this suite's scripts is interrupted before main(); elsewhere nothing changes."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if script and Path(script).resolve().parent == Path(__file__).resolve().parents[1]:
        sys.excepthook = _quiet_interrupt
