"""Conventions shared by all scripts: options, `--config`, exit codes, errors as one sentence.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 bad data, 2 bad usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common.messages import UsageError, UserError, os_error, set_quiet


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


def cores() -> int:
    """Return how many processor cores this process may use; in a container these may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    # which needs this module's errors

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file name that is no text must not end a run
    try:
        args = parser.parse_args(with_config(parser, list(sys.argv[1:] if argv is None else argv)))
    except SystemExit as end:  # argparse has printed help or its error
        return end.code if isinstance(end.code, int) else 2
    except UserError as error:
        return _fail(parser, str(error), error.exit_code)
    set_quiet(args.quiet)
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


def _fail(parser: argparse.ArgumentParser, message: str, code: int) -> int:
    sys.stderr.write(f"{parser.prog}: {'' if code == 130 else 'error: '}{message}\n")
    return code


def with_config(parser: argparse.ArgumentParser, argv: list[str]) -> list[str]:
    """Return `argv` with the options of --config that the command line does not give itself."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    path = first.parse_known_args(argv)[0].config
    if path is None:
        return argv
    section = Path(parser.prog).stem
    options = _read_config(path, section)
    parsers = [parser]
    for action in parser._actions:  # a sub-command's options belong to its own parser
        if isinstance(action, argparse._SubParsersAction):
            parsers += [action.choices[word] for word in argv if word in action.choices][:1]
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
    return {name: action for name, action in names.items() if name not in ("h", "help", "config")}


def _read_config(path: Path, section: str) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; check --config") from None
    except OSError as error:
        raise UserError(os_error(error)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    options = (content or {}).get(section) if isinstance(content or {}, dict) else content
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise UserError(f"{path}: write the options as `{section}:` followed by `name: value` lines")
    return {str(key): value for key, value in options.items()}
