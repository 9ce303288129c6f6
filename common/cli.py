"""What every script does alike: options, `--config`, errors as one sentence, exit codes, progress, tables.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 bad data, 2 bad usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import atexit
import errno
import gc
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
_quiet = False


class UserError(Exception):
    """The data cannot be used. The message is one sentence that names the file and the remedy; exit code 1."""

    exit_code = 1


class UsageError(UserError):
    """The options contradict each other or the data; exit code 2, as argparse's own errors."""

    exit_code = 2


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the docstring's line breaks and shows every default."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        shown = action.default is not None and action.default is not argparse.SUPPRESS and action.default is not False
        if not shown or action.nargs == 0 or "%(default)" in text or "default:" in text:
            return text
        if isinstance(action.default, (list, tuple)):
            return f"{text} (default: {' '.join(str(value) for value in action.default) or 'none'})"
        return f"{text} (default: %(default)s)"


def make_parser(doc: str | None, script: str) -> argparse.ArgumentParser:
    """Return a parser that shows the docstring of `script`, a path, as help and knows --config and --quiet."""
    parser = argparse.ArgumentParser(
        prog=Path(script).name, description=doc, formatter_class=_HelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--config", metavar="FILE.yaml", type=Path, help="options from the script's section of a YAML file"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars and notes on stderr")
    return parser


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Add --seed, the one way to change what is random."""
    parser.add_argument("--seed", type=whole(0), default=0, metavar="N", help="seed of everything random")


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add --cluster, by which a script does the same work on several machines."""
    parser.add_argument(
        "--cluster", metavar="ADDRESS", help="work on a Ray cluster: auto, host:port, or local (default: without Ray)"
    )


def add_evaluation_options(parser: argparse.ArgumentParser) -> None:
    """Add what evaluate_combo.py and greedy_combo_eval.py share: which sets, how neighbours vote, what is left out."""
    sets = parser.add_argument_group("embedding sets")
    spec: dict[str, Any] = {"nargs": "+", "required": True, "metavar": "[ID=]NPZ"}
    sets.add_argument(
        "--train_npz", **spec, help="references: files, folders or globs; those of another split are left out"
    )
    sets.add_argument(
        "--test_npz", **spec, help="queries: files, folders or globs; those of another split are left out"
    )
    sets.add_argument("--reference_split", default="train", metavar="SPLIT", help="split that references keep")
    sets.add_argument("--query_split", default="test", metavar="SPLIT", help="split that queries keep")
    sets.add_argument("--key", help="name of the array or of the pickled dict inside a foreign .npz")
    sets.add_argument("--company_name", metavar="NAME", help="title of the output, and the key inside older files")
    sets.add_argument("--drop_invalid", action="store_true", help="leave out zero and non-finite vectors, counted")
    scoring = parser.add_argument_group("scoring")
    scoring.add_argument(
        "--fusion", choices=("stack", "vote", "mean", "concat"), default="stack", help="how sets are merged"
    )
    scoring.add_argument("--k", type=whole(1), default=1, help="neighbours that vote")
    scoring.add_argument(
        "--vote_weights", choices=("uniform", "similarity"), default="uniform", help="weights of their votes"
    )
    scoring.add_argument(
        "--label_level", type=whole(0), metavar="L", help="label level that is scored (default: the deepest)"
    )
    leave = scoring.add_mutually_exclusive_group()
    leave.add_argument("--exclude_self", action="store_true", help="a crop is not its own neighbour, at any ID")
    leave.add_argument(
        "--exclude_same_sample", action="store_true", help="crops of the query's own source image are no neighbours"
    )


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """Return an argparse type: an integer from `low` to `high`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(
                f"{value} is not {f'{low} or more' if high is None else f'from {low} to {high}'}"
            )
        return value

    return parse


def number(low: float, high: float = float("inf")) -> Callable[[str], float]:
    """Return an argparse type: a finite number from `low` to `high`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not low <= value <= high or value in (float("inf"), float("-inf")):
            raise argparse.ArgumentTypeError(
                f"{text} is not {f'{low:g} or more' if high == float('inf') else f'from {low:g} to {high:g}'}"
            )
        return value

    return parse


def main(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], None], argv: Sequence[str] | None) -> int:
    """Parse `argv`, run the script and return its exit code; a user's mistake becomes one sentence on stderr."""
    global _quiet
    from common import config  # which needs this module's errors

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file name that is no text must not end a run
    try:
        args = parser.parse_args(config.applied(parser, list(sys.argv[1:] if argv is None else argv)))
    except SystemExit as end:  # argparse has printed help or its error
        return end.code if isinstance(end.code, int) else 2
    except UserError as error:
        return _fail(parser, str(error), error.exit_code)
    _quiet = args.quiet
    if argv is None:
        atexit.register(gc.freeze)  # the interpreter's last collection over torch's objects would take two seconds
    try:
        run(args)
        sys.stdout.flush()
    except UserError as error:
        return _fail(parser, str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail(parser, "interrupted; run the same command again to go on", 130)
    except BrokenPipeError:  # the reader, such as `head`, has gone: not an error of this side
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except ModuleNotFoundError as error:
        return _fail(parser, f"the package {error.name} is not installed here; {_remedy(error.name)}", 1)
    except MemoryError:
        return _fail(parser, "not enough memory; choose a smaller --batch_size or fewer rows", 1)
    except OSError as error:
        return _fail(parser, os_error(error), 1)
    return 0


def _remedy(package: str | None) -> str:
    """Return how to install a package: by the requirements file beside the scripts that names it, or by its name."""
    root = Path(__file__).resolve().parents[1]
    imported_as = {"cv2": "opencv", "sklearn": "scikit-learn", "PIL": "pillow", "yaml": "pyyaml", "umap": "umap-learn"}
    name = imported_as.get(package or "", package or "").split(".")[0].replace("_", "-")
    for file in ("requirements.txt", "requirements-extra.txt"):
        if name and name in (root / file).read_text(encoding="utf-8"):
            return f"activate its environment (source .venv/bin/activate), or run pip install -r {root / file}"
    return f"run pip install {name}"


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
    }
    return f"{where}: {remedies.get(error.errno or 0, error.strerror or str(error))}"


def _fail(parser: argparse.ArgumentParser, message: str, code: int) -> int:
    sys.stderr.write(f"{parser.prog}: {'' if code == 130 else 'error: '}{message}\n")
    return code


def progress(items: Iterable[T] | None = None, *, total: int | None = None, desc: str = "", unit: str = "it") -> Any:
    """Return a tqdm bar on stderr around `items`; silent with --quiet or where stderr is no terminal."""
    from tqdm import tqdm

    return tqdm(
        items, total=total, desc=desc, unit=unit, file=sys.stderr, dynamic_ncols=True, disable=True if _quiet else None
    )


def note(message: str) -> None:
    """Say something about the run on stderr, unless --quiet."""
    if not _quiet:
        sys.stderr.write(message + "\n")


def warn(message: str) -> None:
    """Say on stderr what the user must know even with --quiet."""
    sys.stderr.write(f"warning: {message}\n")


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return an aligned text table; columns of numbers are right-aligned."""
    lines = [list(map(str, header)), *(list(map(str, row)) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    right = [all(_is_number(line[column]) for line in lines[1:]) for column in range(len(header))]
    cells = [[c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)] for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in cells)


def _is_number(text: str) -> bool:
    try:
        float(text.rstrip("%").replace(",", "") or "0")
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


def batches(n: int, size: int) -> Iterator[slice]:
    """Yield slices that cover range(n) in steps of `size`."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def one_line(value: object) -> str:
    """Return `value` as a field of a TSV: tabs, line ends and backslashes are escaped."""
    return str(value).replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
