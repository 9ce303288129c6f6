"""What a run says and how it ends: errors of one sentence, notes, progress bars, text tables, stdout and stderr, signals."""

from __future__ import annotations

import atexit
import contextlib
import errno
import io
import os
import shutil
import signal
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")
WIDTH = 100  # columns of a line of text where no terminal says how many it has
_quiet = _verbose = False
_shown = False  # whether this run has shown a part of its result
_told: set[str] = set()  # what warn_once has said in this run
STOPS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]  # Windows has no SIGHUP
ONE_WISH = 1.0  # seconds in which further signals mean the same: `timeout` and terminals that close send several
_stopped_by: list[tuple[int, float]] = []  # signals that have asked this run to end, and when


class Unusable(Exception):
    """An object that gives no crop; the message is the short reason for skipped.csv."""


class ImageError(Unusable):
    """An image file that cannot be used; the message is the short reason for skipped.csv."""


class UserError(Exception):
    """The data cannot be used. The message is one sentence that names the file and the remedy; exit code 1."""

    exit_code = 1


class UsageError(UserError):
    """The options contradict each other or the data; exit code 2, as argparse's own errors."""

    exit_code = 2


def os_error(error: OSError) -> str:
    """Return one sentence for an error of the file system, with the file and the remedy."""
    where = str(error.filename or error.filename2 or "the output folder")
    remedies = {
        errno.ENOSPC: "no space is left on its disk; free some and run the same command again",
        errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
        errno.EACCES: "permission denied; change its permissions or name another path",
        errno.EPERM: "not permitted; change its permissions or name another path",
        errno.EROFS: "its file system is read-only; name another path",
        errno.ENOENT: "no such file or folder; check the path",
        errno.EISDIR: "is a folder; name a file",
        errno.ENOTDIR: "a part of this path is a file, not a folder; check the path",
        errno.EEXIST: "exists already; name another path",
        errno.ENAMETOOLONG: "the path is too long; choose shorter names",
        errno.EMFILE: "too many open files; raise `ulimit -n`",
        errno.ELOOP: "its links lead round in a circle; name another path",
        errno.EPIPE: "its reader has gone; open it again, or name a file",
        errno.ENXIO: "nothing is behind this device; name another path",
        errno.EIO: "its disk cannot be read or written; look at the disk, or name another path",
    }
    return f"{where}: {remedies.get(error.errno or 0, error.strerror or str(error))}"


def set_quiet(quiet: bool) -> None:
    """Begin a run: silence notes and progress bars, or let them be heard again; warnings are always printed."""
    global _quiet, _shown
    _quiet, _shown = quiet, False
    _told.clear()


def set_verbose(verbose: bool) -> None:
    """Let details be printed, or not."""
    global _verbose
    _verbose = verbose


def progress(items: Iterable[T] | None = None, *, total: int | None = None, desc: str = "", unit: str = "it") -> Any:
    """Return a tqdm bar on stderr around `items`, gone at its end; silent with --quiet or where stderr is no terminal."""
    from tqdm import tqdm

    disable = True if _quiet else None
    return tqdm(
        items, total=total, desc=desc, unit=unit, file=sys.stderr, dynamic_ncols=True, leave=False, disable=disable
    )


def show(text: str) -> None:
    """Print a part of the result; an empty line sets it apart from what was shown before it in this run."""
    global _shown
    print(f"\n{text}" if _shown else text)
    _shown = True


def note(message: str) -> None:
    """Say something about the run on stderr, unless --quiet."""
    if not _quiet:
        sys.stderr.write(message + "\n")


def detail(message: str) -> None:
    """Say on stderr, with --verbose only, what was chosen, found or skipped, and why."""
    if _verbose:
        sys.stderr.write(message + "\n")


def warn(message: str) -> None:
    """Say on stderr what the user must know even with --quiet."""
    sys.stderr.write(f"warning: {message}\n")


def warn_once(key: str, message: str) -> None:
    """Warn of the first of many alike in a run; `key` says what is alike."""
    if key not in _told:
        _told.add(key)
        warn(message)


def note_once(key: str, message: str) -> None:
    """Note the first of many alike in a run, as `warn_once` warns of it."""
    if key not in _told:
        _told.add(key)
        note(message)


def columns() -> int | None:
    """Return how many columns the terminal has that stdout goes to, or COLUMNS says; None where neither tells, as in a pipe."""
    return shutil.get_terminal_size((0, 0)).columns or None


def wrap(text: str, hang: int = 0, *, width: int | None = None) -> str:
    """Return a text whose lines are broken at blanks, to `width` columns (default: the terminal's, else WIDTH).

    What goes on in a new line is indented by `hang`. A word that is wider than a line, such as a path, stays whole.
    """
    width = width or columns() or WIDTH
    wrapper = textwrap.TextWrapper(
        width, subsequent_indent=" " * hang, break_long_words=False, break_on_hyphens=False, replace_whitespace=False
    )
    return "\n".join(wrapper.fill(line) for line in text.split("\n"))


def table(
    header: Sequence[str], rows: Iterable[Sequence[object]], *, names: Sequence[str] = (), fold: bool = True
) -> str:
    """Return an aligned text table; columns of numbers are right-aligned, but for those of `names`, as IDs are.

    On a terminal that is too narrow, `fold` makes several tables of it, each with the first column; in a pipe it stays one.
    """
    lines = [list(map(str, header)), *(list(map(str, row)) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    right = [
        name not in names and all(_is_number(line[column]) for line in lines[1:]) for column, name in enumerate(header)
    ]
    cells = [[c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)] for line in lines]
    parts = _fitting(widths, columns() if fold else None)
    return "\n\n".join("\n".join("  ".join(line[at] for at in part).rstrip() for line in cells) for part in parts)


def _fitting(widths: Sequence[int], width: int | None) -> list[list[int]]:
    """Return the columns of each part of a table of these widths: the first column, and as many others as fit."""
    parts = [[0]]
    for at in range(1, len(widths)):
        if width and len(parts[-1]) > 1 and sum(widths[of] + 2 for of in parts[-1]) + widths[at] > width:
            parts.append([0])
        parts[-1].append(at)
    return parts


def _is_number(text: str) -> bool:
    try:
        float(text.lstrip("<").rstrip("%").replace(",", "") or "0")
    except ValueError:
        return text in ("-", "")
    return True


def count(n: int, noun: str, plural: str | None = None) -> str:
    """Return `1 crop` or `1,204 crops`."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def tally(reasons: Iterable[str]) -> str:
    """Return `2 image missing, 1 empty box`: each reason with its count, the most frequent first."""
    from collections import Counter

    return ", ".join(f"{n:,} {reason}" for reason, n in Counter(reasons).most_common())


def one_line(value: object) -> str:
    """Return `value` as a field of a TSV: tabs, line ends and backslashes are escaped."""
    return str(value).replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def shorten(error: BaseException | None) -> str:
    """Return what an error says in one line of up to 160 characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else text[:159] + "…"


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
def patient_streams() -> Iterator[list[str]]:
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
    # A second interruption, of what ends threads after the first, would leave them running while the interpreter ends.
    if not _stopped_by or time.monotonic() - _stopped_by[-1][1] > ONE_WISH:
        _stopped_by.append((number, time.monotonic()))
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _lost(unraisable: sys.UnraisableHookArgs) -> None:
    """Interrupt again a moment later where the interruption struck in a destructor, in which Python drops exceptions."""
    if unraisable.exc_type is KeyboardInterrupt and hasattr(signal, "setitimer"):  # Windows has none
        signal.setitimer(signal.ITIMER_REAL, 0.01)
    else:
        sys.__unraisablehook__(unraisable)


def stopped_by() -> int:
    """Return the signal that has asked this run to end, 0 where none has."""
    return _stopped_by[0][0] if _stopped_by else 0


def go_on() -> None:
    """Forget Ctrl-C, which has stopped one command of several; raise KeyboardInterrupt where another signal was to end all."""
    if stopped_by() not in (0, signal.SIGINT):
        raise KeyboardInterrupt
    _stopped_by.clear()


def exit_code() -> int:
    """Return the exit code of an interrupted run: 128 and the signal's number, 130 for Ctrl-C."""
    return 128 + (stopped_by() or signal.SIGINT)


def catch_signals() -> None:
    """Let SIGTERM and SIGHUP end a run as Ctrl-C does; a signal that is ignored, as under nohup, stays ignored."""
    for number in STOPS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _stop)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, _interrupt)
    sys.unraisablehook = _lost
    atexit.register(_end_now)  # the first that is registered is called last


def _end_now() -> None:
    """End an interrupted process without the destructors of libraries, which abort where a thread still computes."""
    if _stopped_by:
        os._exit(exit_code())


def ignore_signals() -> None:
    """Let no signal disturb the end of the interpreter: the run is over."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)
    for number in STOPS:
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.SIG_IGN)
