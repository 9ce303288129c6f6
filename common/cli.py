"""Conventions shared by all scripts: options, `--config`, exit codes, errors as one sentence.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 bad data, 2 bad usage, 130 interrupted, 129 and 143 after
SIGHUP and SIGTERM.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import difflib
import errno
import gc
import itertools
import os
import re
import stat
import sys
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from common import messages
from common.messages import UsageError, UserError, os_error, set_quiet, set_verbose, shorten

ROOT = Path(__file__).resolve().parents[1]
LARGEST_SEED = 2**32 - 1  # numpy's
MAX_PIXELS = 200_000_000  # of an image that is decoded: 600 MB as RGB
# What libraries say where memory is short: torch, the loader of shared objects, OpenCV, C++, threads, OpenBLAS.
_MEMORY = (
    *("allocate memory", "out of memory", "failed to map segment", "insufficient memory", "bad_alloc"),
    *("can't start new thread", "not enough memory", "failed to allocate", "unable to allocate"),
)
MOST_CONFIG = 1 << 20  # bytes of a --config file


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


class _Parser(argparse.ArgumentParser):
    """Says in one sentence what is wrong with a command line, without the usage of every option before it."""

    def error(self, message: str) -> NoReturn:
        if message.startswith(unknown := "unrecognized arguments: "):
            message = (
                f"{message.removeprefix(unknown)} belongs to no option, or is half of a path whose spaces lack quotes"
            )
        self.exit(2, f"{self.prog}: error: {message}; {self.prog} --help lists the options\n")


def make_parser(doc: str | None, script: str) -> argparse.ArgumentParser:
    """Return a parser that shows the docstring of `script`, a path, as help and knows --config and --quiet."""
    parser = _Parser(prog=Path(script).name, description=doc, formatter_class=_HelpFormatter, allow_abbrev=False)
    parser.add_argument(
        "--config", metavar="FILE.yaml", type=Path, help="options from the script's section of a YAML file"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars and notes on stderr")
    parser.add_argument("--verbose", action="store_true", help="more on stderr of what is done and why")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and stop")
    return parser


def version() -> str:
    """Return the version that pyproject.toml states, or what was installed."""
    if not (ROOT / "pyproject.toml").is_file():
        from importlib import metadata

        return metadata.version("padding-study")
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else "unknown"


class _Version(argparse.Action):
    """Prints the version, read only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(f"{parser.prog} {version()}")
        parser.exit()


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Add --seed, the one way to change what is random."""
    parser.add_argument("--seed", type=whole(0, LARGEST_SEED), default=0, metavar="N", help="seed of everything random")


def add_max_pixels(parser: argparse.ArgumentParser) -> None:
    """Add --max_pixels, above which an image is not decoded."""
    text = "skip images with more pixels, undecoded"
    parser.add_argument("--max_pixels", metavar="N", type=whole(1), default=MAX_PIXELS, help=text)


def add_arrays(parser: argparse._ActionsContainer) -> None:
    """Add the options that name the arrays in files of other tools; see `reading`."""
    add = parser.add_argument
    add("--labels_key", metavar="NAME", help="the array or column of the labels, in files of other tools")
    add("--paths_key", metavar="NAME", help="the array or column of the image paths, in files of other tools")
    add("--ids_key", metavar="NAME", help="the array or column of the crop IDs, in files of other tools")
    text = "labels of files that hold none, such as .npy: one a line, or .npy; told apart by their length, or by name"
    add("--labels", nargs="+", default=[], metavar="[NPY=]FILE", help=text)


# Options by which every script reads embedding sets, as common.embeddings.load takes them.
READING = ("key", "labels_key", "paths_key", "ids_key", "labels", "company_name", "drop_invalid")


def reading(args: argparse.Namespace) -> dict[str, Any]:
    """Return the keyword arguments of `common.embeddings.load` that the options say."""
    return {name: getattr(args, name) for name in READING if hasattr(args, name)}


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add --cluster, by which a script does the same work on several machines."""
    parser.add_argument(
        "--cluster", metavar="ADDRESS", help="work on a Ray cluster: auto, host:port, or local (default: without Ray)"
    )


def add_engine(parser: argparse._ActionsContainer, known: str) -> None:
    """Add --engine, named as in engines/program.py, which loads torch; `known` says whose engine auto takes."""
    text = (
        f"what computes the model; auto: that of {known}; else the fastest that is installed and gives torch's vectors"
    )
    parser.add_argument("--engine", choices=("auto", "torch", "onnxruntime", "openvino"), default="auto", help=text)


def add_spreadsheet_safe(parser: argparse._ActionsContainer, what: str) -> None:
    """Add --spreadsheet_safe, which holds for the tables `what`; see common.table_files."""
    text = f"apostrophe before texts that begin with = + - @ in {what}, so that no spreadsheet runs them"
    parser.add_argument("--spreadsheet_safe", action="store_true", help=text)


def add_verify(parser: argparse._ActionsContainer, done: str) -> None:
    """Add --verify; `done` says what was done with the images."""
    text = f"fail where images have other contents than those that were {done}, also of equal name, size and time"
    parser.add_argument("--verify", action="store_true", help=text)


def cores() -> int:
    """Return how many processor cores this process may use; in a container these may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """Return an argparse type: an integer from `low` to `high`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number") from None
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(
                f"{text[:40]} is not {f'{low} or more' if high is None else f'from {low} to {high}'}"
            )
        return value

    return parse


def number(low: float, high: float = float("inf")) -> Callable[[str], float]:
    """Return an argparse type: a finite number from `low` to `high`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number") from None
        if not low <= value <= high or value in (float("inf"), float("-inf")):
            raise argparse.ArgumentTypeError(
                f"{text[:40]} is not {f'{low:g} or more' if high == float('inf') else f'from {low:g} to {high:g}'}"
            )
        return value

    return parse


class Output:
    """An argparse type: a file that the script writes. Its name has one of `endings`, where some are given.

    `writes` are the endings of what is really written, where that is not the file of this name.
    """

    def __init__(self, *endings: str, writes: Sequence[str] = ("",)) -> None:
        self.endings, self.writes = endings, writes

    def __call__(self, text: str) -> Path:
        path = Path(text)
        if not path.name or "\0" in text:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is no name of a file")
        is_device = text.startswith("/dev/") or (path.exists() and not path.is_file() and not path.is_dir())
        if self.endings and path.suffix.lower() not in self.endings and not is_device:
            known = " or ".join(ending for ending in self.endings if ending)
            raise argparse.ArgumentTypeError(f"{text[:40]}: end the name in {known}")
        return path

    def files(self, path: Path) -> list[Path]:
        """Return the files that are written for this name."""
        return [path.with_suffix(ending) if ending else path for ending in self.writes]


PICTURE = Output("", ".png", ".svg", writes=(".png", ".svg"))


def _check_pipes(args: argparse.Namespace, outputs: Container[str] = ()) -> None:
    """Raise UsageError where an option but `outputs` names a pipe, which would be waited for without end, or a device, which may
    give bytes without end. A shell's `<(command)` is none of these: its name is a link.
    """
    values = {option: value if isinstance(value, (list, tuple)) else [value] for option, value in vars(args).items()}
    texts = [(option, str(item)) for option, items in values.items() if option not in outputs for item in items]
    for option, name in [*texts, *((option, text.partition("=")[2]) for option, text in texts)]:
        with contextlib.suppress(OSError, ValueError):  # no such file, or a text that can be no name
            if stat.S_ISFIFO(os.lstat(name).st_mode):
                raise UsageError(f"{name} ({option}) is a pipe; write its content to a file and name that")
            if stat.S_ISCHR(os.stat(name).st_mode) and os.path.realpath(name) != os.devnull:
                raise UsageError(f"{name} ({option}) is a device; name a file")


def _check_outputs(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Raise UsageError where a file that this command writes is one that it reads, or one that it writes for another option."""
    read: dict[tuple[int, int], str] = {}
    written: dict[str, str] = {}
    actions = list(_actions(parser, args))
    for action in actions:
        if not isinstance(action.type, Output):
            value = getattr(args, action.dest, None)
            for name in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(name, (str, Path)) and (found := _identity(str(name))):
                    read.setdefault(found, action.option_strings[-1])
    for action in actions:
        path = getattr(args, action.dest, None)
        if not isinstance(action.type, Output) or path is None:
            continue
        option = action.option_strings[0]
        for file in action.type.files(Path(path)):
            if (other := read.get(_identity(str(file)) or (0, 0))) is not None:
                raise UsageError(f"{option} {file} is what {other} reads; name another file")
            name = os.path.realpath(file)
            if (other := written.setdefault(name, option)) != option or action.type.files(Path(path)).count(file) > 1:
                raise UsageError(f"{option} {path}: {file} is written for {other} already; name another file")


def _actions(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from _actions(action.choices[getattr(args, action.dest)], args)
        elif action.option_strings:
            yield action


def _identity(name: str) -> tuple[int, int] | None:
    """Return device and inode of the regular file `name`, or of the path in `ID=path`; None where there is none."""
    for path in (name, name.partition("=")[2]):
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            continue
        if os.path.isfile(path):
            return status.st_dev, status.st_ino
    return None


def main(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], None], argv: Sequence[str] | None) -> int:
    """Parse `argv`, run the script and return its exit code; a user's mistake becomes one sentence on stderr.

    Without `argv` this process is the script's own: its streams and signals are taken care of.
    """
    if argv is not None or sys.stdout not in (None, sys.__stdout__):
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # a file name that is no text must not end a run
        return _attempt(parser, run, sys.argv[1:] if argv is None else argv)
    messages.catch_signals()
    with messages.patient_streams() as wrong:
        code = _attempt(parser, run, sys.argv[1:])
    messages.ignore_signals()
    atexit.register(gc.freeze)  # the interpreter's last collection over torch's objects would take two seconds
    return _fail(parser, wrong[0], 1) if wrong and code == 0 else code


def _attempt(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], None], argv: Sequence[str]) -> int:
    if "_ARGCOMPLETE" in os.environ:  # the shell asks for the options that begin as what is typed
        import argcomplete

        argcomplete.autocomplete(parser)
    try:
        check_names(parser, argv)
        args = parser.parse_args(with_config(parser, list(argv)))
        set_quiet(args.quiet)
        set_verbose(args.verbose)
        _check_pipes(args, {action.dest for action in _actions(parser, args) if isinstance(action.type, Output)})
        _check_outputs(parser, args)
        run(args)
        sys.stdout.flush()
    except SystemExit as end:  # argparse has printed help or its error
        return end.code if isinstance(end.code, int) else 2
    except KeyboardInterrupt:
        return _interrupted(parser)
    except Exception as error:
        if messages.stopped_by():  # a library made another error of the interruption
            return _interrupted(parser)
        if (sentence := _sentence(error)) is None:
            raise
        return _fail(parser, sentence, error.exit_code if isinstance(error, UserError) else 1)
    return 0


def check_names(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Raise UsageError for an option that there is not, with the one that was meant; argparse would name others first."""
    known = {
        name for each in _chosen_parsers(parser, argv) for action in each._actions for name in action.option_strings
    }
    for word in itertools.takewhile(lambda word: word != "--", argv):
        name = word.partition("=")[0]
        if name.startswith("--") and name not in known:
            near = difflib.get_close_matches(name, known, 1)
            meant = f"did you mean {near[0]}?" if near else f"{parser.prog} --help lists the options"
            raise UsageError(f"there is no option {name}; {meant}")


def _chosen_parsers(parser: argparse.ArgumentParser, argv: Sequence[str]) -> list[argparse.ArgumentParser]:
    """Return the parser, and that of the sub-command which is named."""
    parsers = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            parsers += [action.choices[word] for word in argv if word in action.choices][:1]
    return parsers


def _interrupted(parser: argparse.ArgumentParser) -> int:
    sys.stderr.write(f"{parser.prog}: interrupted; run the same command again to go on\n")
    return messages.exit_code()


def _sentence(error: Exception) -> str | None:
    """Return what a user is told of an error, None for one that is a fault of this suite."""
    if isinstance(error, UserError):
        return str(error)
    if _is_of_memory(error):
        return "not enough memory; choose a smaller --batch_size or fewer rows"
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"the package {error.name} is not installed here; {_remedy(error.name)}"
    if isinstance(error, ImportError):
        return f"the package {error.name or ''} cannot be loaded: {shorten(error)}; {_remedy(error.name)}".replace(
            "  ", " "
        )
    if isinstance(error, OSError):
        return os_error(error)
    return None


def _is_of_memory(error: BaseException | None) -> bool:
    """Return whether this error, or one behind it, says that no memory is left: each library has its own way."""
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            return True
        text = str(error).lower()
        if any(words in text for words in _MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False


def _before_main(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Say in one sentence what ends a script while it is importing: Ctrl-C, a missing package, too little memory."""
    sentence = _sentence(error) if isinstance(error, Exception) else None
    if issubclass(kind, KeyboardInterrupt):
        sentence = "interrupted; run the same command again to go on"
    if sentence is None or sys.stderr is None:
        sys.__excepthook__(kind, error, trace)
    else:
        sys.stderr.write(f"{Path(sys.argv[0]).name}: {sentence}\n")


if (
    Path(getattr(sys.modules["__main__"], "__file__", None) or "/").resolve().parent == ROOT
):  # one of this suite's scripts
    sys.excepthook = _before_main


def _remedy(package: str | None) -> str:
    """Return how to install a package: by the requirements file beside the scripts that names it, or by its name."""
    imported_as = {"cv2": "opencv", "sklearn": "scikit-learn", "PIL": "pillow", "yaml": "pyyaml", "umap": "umap-learn"}
    name = imported_as.get(package or "", package or "").split(".")[0].replace("_", "-")
    for file in ("requirements.txt", "requirements-extra.txt"):
        if name and (ROOT / file).is_file() and name in (ROOT / file).read_text(encoding="utf-8"):
            return f"activate its environment (source .venv/bin/activate), or run pip install -r {ROOT / file}"
    return f"run pip install {name}"


def _fail(parser: argparse.ArgumentParser, message: str, code: int) -> int:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()  # in one log with stdout, the error comes after what was printed before it
    sys.stderr.write(f"{parser.prog}: error: {message}\n")
    return code


def with_config(parser: argparse.ArgumentParser, argv: list[str]) -> list[str]:
    """Return `argv` with the options of --config that the command line does not give itself."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    path = first.parse_known_args(argv)[0].config
    if path is None:
        return argv
    _check_pipes(argparse.Namespace(config=path))
    section = Path(parser.prog).stem
    options = _read_config(path, section)
    parsers = _chosen_parsers(parser, argv)
    for action in parser._actions:  # a sub-command's options belong to its own parser
        if isinstance(action, argparse._SubParsersAction):
            elsewhere = {name for sub in action.choices.values() for name in _options_by_name(sub)}
            options = {
                key: value
                for key, value in options.items()
                if key in _options_by_name(*parsers) or key not in elsewhere
            }
    known = _options_by_name(*parsers)
    extra: list[str] = []
    for key, value in options.items():
        if key not in known:
            raise UsageError(f"{path}: section {section} has no option {key!r}; it knows {', '.join(sorted(known))}")
        action = known[key]
        if any(word.split("=")[0] in action.option_strings for word in argv) or value is None:
            continue
        flag = action.option_strings[0]
        if action.nargs == 0:
            if not isinstance(value, bool):
                raise UsageError(f"{path}: {section}.{key} is a switch; write true or false, not {value!r}")
            extra += [flag] if value else []
        elif isinstance(value, list):
            extra += [flag, *(str(item) for item in value)] if value else []
        elif isinstance(value, dict):
            extra += [flag, *(f"{name}={item}" for name, item in value.items())]
        else:
            extra += [f"{flag}={value}"]
    return argv + extra


def _options_by_name(*parsers: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    names = {
        option.lstrip("-"): action
        for parser in parsers
        for action in parser._actions
        for option in action.option_strings
    }
    return {name: action for name, action in names.items() if name not in ("h", "help", "config", "version")}


def _read_config(path: Path, section: str) -> dict[str, Any]:
    """Return the options of a section: their names, and for each a scalar, a list of scalars or a mapping of scalars."""
    import yaml

    try:
        with open(path, "rb") as file:
            text = file.read(MOST_CONFIG + 1)
        if len(text) > MOST_CONFIG:
            raise UserError(f"{path} is larger than a file of options can be; check --config")
        content = yaml.safe_load(text.decode("utf-8-sig"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; check --config") from None
    except OSError as error:
        raise UserError(os_error(error)) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or a date that there is not
        raise UserError(f"{path} is not valid YAML: {shorten(error)}") from None
    options = content.get(section) if isinstance(content, dict) else content
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise UserError(f"{path}: write the options as `{section}:` followed by `name: value` lines")
    for name, value in options.items():
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]:
            if isinstance(item, (dict, list, set, bytes)) or "\0" in str(item):
                raise UserError(f"{path}: {section}.{name} is no value, list or mapping of values; see --help")
    return {str(key): value for key, value in options.items()}
