"""`--config FILE.yaml`: options of a script from its section of the file; the command line wins."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from common.cli import UsageError, UserError, os_error


def applied(parser: argparse.ArgumentParser, argv: list[str]) -> list[str]:
    """Return `argv` with the options of --config that the command line does not give itself."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    path = first.parse_known_args(argv)[0].config
    if path is None:
        return argv
    section = Path(parser.prog).stem
    options = _read(path, section)
    parsers = [parser]
    for action in parser._actions:  # a sub-command's options belong to its own parser
        if isinstance(action, argparse._SubParsersAction):
            parsers += [action.choices[word] for word in argv if word in action.choices][:1]
            elsewhere = {name for sub in action.choices.values() for name in _by_name(sub)}
            options = {
                key: value for key, value in options.items() if key in _by_name(*parsers) or key not in elsewhere
            }
    known = _by_name(*parsers)
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


def _by_name(*parsers: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    names = {
        option.lstrip("-"): action
        for parser in parsers
        for action in parser._actions
        for option in action.option_strings
    }
    return {name: action for name, action in names.items() if name not in ("h", "help", "config")}


def _read(path: Path, section: str) -> dict[str, Any]:
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
