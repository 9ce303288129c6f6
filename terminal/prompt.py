"""The prompt of evaluate_combo.py --interactive: IDs join the references or are scored, one line after the other."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from common.messages import UsageError, UserError, go_on, note, show
from evaluation.evaluator import Evaluator, tally
from evaluation.records import Combination, Decisions
from terminal.tables import fixed_line

Draw = Callable[[Combination, Decisions, Sequence[str]], None]
# Options of what is scored or written without a prompt.
WITHOUT = (
    "classifier",
    "reject",
    "val_npz",
    "unknown_npz",
    "threshold",
    "learning_curve",
    "reference_ids",
    "query_ids",
    "check",
    "similarity",
    "predictions",
    "results",
    "baseline",
)
COMMANDS = ("ref", "query", "list", "remove", "plot", "help", "q")
HELP = """ID ...             each ID joins the references and is scored as query against all of them
ref ID ...         the IDs join the references
query ID ...       score these query sets against the references, one by one, then fused
list               what there is, and what is merged
remove ID ...      take IDs out of the references
plot [METHOD ...]  draw the references and the queries that were scored last, by pca, tsne or umap
help               this text
q                  end"""


@dataclass(frozen=True)
class State:
    """The IDs merged as references, and those that were scored last as queries."""

    merged: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()


def check_alone(values: Mapping[str, object]) -> None:
    """Raise UsageError for an option, among the values of all, that the prompt cannot follow."""
    given = [name for name in WITHOUT if values[name]]
    if given:
        raise UsageError(f"--{given[0]} and --interactive do not go together; leave one away")


def interact(evaluator: Evaluator, draw: Draw, methods: Sequence[str], default: Sequence[str]) -> None:
    """Read commands from the terminal until q or the end of the input.

    `draw` draws a combination by some of the `methods`; by the `default` ones where the command names none. Ctrl-C stops a
    command; at an empty prompt it ends.
    """
    show("Type IDs to merge and score them; or ref, query, list, remove, plot, help, q")
    sys.stdout.flush()
    read = _reader([*COMMANDS, *methods, *dict.fromkeys([*evaluator.coded.references, *evaluator.coded.queries])])
    state = State()
    while (words := read()) is not None and words[:1] not in (["q"], ["quit"], ["exit"]):
        try:
            state, lines = _follow(evaluator, state, words)
            for line in lines:
                print(line, flush=True)
            if words[:1] == ["plot"] and (shown := _shown(evaluator, state)):
                draw(shown, evaluator.decide(shown), _methods(words[1:], methods) or default)
        except UserError as error:  # a mistake at the prompt must not end the session
            print(error)
        except KeyboardInterrupt:
            go_on()
            note("stopped; q ends")
        sys.stdout.flush()


def _methods(words: Sequence[str], known: Sequence[str]) -> list[str]:
    if unknown := [word for word in words if word not in known]:
        raise UserError(f"there is no plot {unknown[0]}; there are: {', '.join(known)}")
    return list(dict.fromkeys(words))


def _reader(words: Sequence[str]) -> Callable[[], list[str] | None]:
    """Return the function that reads a line as words, None at its end: with history and completion on a terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):

        def plainly() -> list[str] | None:
            sys.stderr.write("ids> ")
            sys.stderr.flush()
            line = sys.stdin.readline()
            return line.replace(",", " ").split() if line else None

        return plainly
    import readline

    def complete(text: str, number: int) -> str | None:
        matches = [word for word in words if word.startswith(text)]
        return f"{matches[number]} " if number < len(matches) else None

    readline.set_completer_delims(" ,")
    readline.set_completer(complete)
    readline.parse_and_bind("bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete")

    def edited() -> list[str] | None:
        try:
            return input("ids> ").replace(",", " ").split()
        except EOFError:
            print()
        except KeyboardInterrupt:
            print()
            go_on()
        return None

    return edited


def _follow(evaluator: Evaluator, state: State, words: Sequence[str]) -> tuple[State, Iterator[str] | list[str]]:
    """Return the state after one line, and the lines to print."""
    references, queries = evaluator.coded.references, evaluator.coded.queries
    command, ids = (words[0], list(dict.fromkeys(words[1:]))) if words else ("", [])
    if command == "help":
        return state, HELP.splitlines()
    if command == "list":
        merged = ", ".join(state.merged) or "none yet"
        return state, [f"references: {', '.join(references)}; queries: {', '.join(queries)}; merged: {merged}"]
    if command == "remove":
        missing = [
            f"{name} is not among the merged: {', '.join(state.merged)}" for name in ids if name not in state.merged
        ]
        state = State(tuple(name for name in state.merged if name not in ids), state.asked)
        return state, [*missing, f"merged: {', '.join(state.merged) or 'none'}"]
    if command == "ref":
        unknown = _unknown(ids, references, "reference")
        state = _with(state, [name for name in ids if name in references])
        return state, [*unknown, f"merged: {', '.join(state.merged) or 'none'}"]
    if command == "query":
        return _query(evaluator, state, ids)
    if command == "plot":
        return state, [] if _shown(evaluator, state) else ["nothing to draw: add IDs first"]
    return _add(evaluator, state, list(dict.fromkeys(words)))


def _unknown(ids: Sequence[str], known: Iterable[str], side: str) -> list[str]:
    return [f"no {side} set {name}; there are: {', '.join(known)}" for name in ids if name not in known]


def _with(state: State, ids: Sequence[str]) -> State:
    return State(tuple(dict.fromkeys([*state.merged, *ids])), state.asked)


def _query(evaluator: Evaluator, state: State, ids: Sequence[str]) -> tuple[State, Iterator[str] | list[str]]:
    unknown = _unknown(ids, evaluator.coded.queries, "query")
    known = tuple(name for name in ids if name in evaluator.coded.queries)
    if not state.merged:
        return state, [*unknown, "no references yet: name some with ref ID ..."]
    if not known:
        return state, unknown or ["name query sets: query ID ..."]
    asked = [(name,) for name in known] + ([known] if len(known) > 1 and evaluator.rule.fusion != "stack" else [])
    lines = (_score(evaluator, Combination(state.merged, query_ids)) for query_ids in asked)
    return State(state.merged, known), itertools.chain(unknown, lines)


def _add(evaluator: Evaluator, state: State, ids: Sequence[str]) -> tuple[State, list[str]]:
    lines = []
    for name in ids:
        if name not in evaluator.coded.references:
            there = ", ".join(evaluator.coded.references)
            lines.append(f"{name} is no reference set, there are: {there}; and no command, help lists them")
        elif name in state.merged:
            lines.append(f"{name} is already among the references; query {name} scores it")
        elif name not in evaluator.coded.queries:
            state = _with(state, [name])
            lines.append(f"{name} joined the references; there is no query set {name} to score")
        else:
            state = State(_with(state, [name]).merged, (name,))
            lines.append(_score(evaluator, Combination(state.merged, (name,))))
    return state, lines


def _score(evaluator: Evaluator, combination: Combination) -> str:
    decisions = evaluator.decide(combination)
    return fixed_line(combination, tally(evaluator.coded, decisions, combination.reference_ids).accuracy)


def _shown(evaluator: Evaluator, state: State) -> Combination | None:
    """Return what a plot shows: the references, and the queries scored last, or those of the same IDs."""
    query_ids = state.asked or tuple(name for name in state.merged if name in evaluator.coded.queries)
    return Combination(state.merged, query_ids) if state.merged and query_ids else None
