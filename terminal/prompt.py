"""The prompt of evaluate_combo.py --interactive: IDs join the references one by one and are scored."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

from common.messages import UserError
from evaluation.evaluator import Evaluator, tally
from evaluation.records import Combination, Decisions
from terminal.tables import fixed_line

Draw = Callable[[Combination, Decisions, Sequence[str]], None]


def interact(evaluator: Evaluator, draw: Draw, methods: Sequence[str], default: Sequence[str]) -> None:
    """Read commands from the terminal until q or the end of the input.

    `draw` draws a combination by some of the `methods`; by the `default` ones where the command names none.
    """
    print("Type IDs to add them as references; or: list, remove ID…, plot [pca|tsne|umap], q", flush=True)
    merged: list[str] = []
    while True:
        sys.stderr.write("ids> ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        words = line.replace(",", " ").split()
        if not line or words[:1] in (["q"], ["quit"], ["exit"]):
            return
        try:
            for text in _answers(evaluator, merged, words):
                print(text)
            if words[:1] == ["plot"] and (combination := _shown(evaluator, merged)):
                chosen = [word for word in words[1:] if word in methods]
                draw(combination, evaluator.decide(combination), chosen or default)
        except UserError as error:  # a mistake at the prompt must not end the session
            print(error)
        sys.stdout.flush()


def _shown(evaluator: Evaluator, merged: Sequence[str]) -> Combination | None:
    """Return what a plot shows: the references so far, and as queries the sets of the same IDs."""
    query_ids = tuple(word for word in merged if word in evaluator.coded.queries)
    return Combination(tuple(merged), query_ids) if query_ids else None


def _answers(evaluator: Evaluator, merged: list[str], words: Sequence[str]) -> Iterator[str]:
    """Do what one line asks and yield the lines to print. `merged`, the IDs of the references so far, grows and shrinks."""
    references, queries = evaluator.coded.references, evaluator.coded.queries
    command, rest = (words[0], words[1:]) if words else ("", [])
    if command == "list":
        yield f"references: {', '.join(references)}; queries: {', '.join(queries)}; merged: {merged}"
    elif command == "remove":
        for word in rest:
            if word in merged:
                merged.remove(word)
            else:
                yield f"{word} is not among the merged: {merged}"
        yield f"merged: {merged}"
    elif command == "plot":
        if not _shown(evaluator, merged):
            yield "nothing to draw: add IDs first"
    else:
        for word in dict.fromkeys(words):
            known = word in references
            yield (
                _add(evaluator, merged, word)
                if known
                else f"no reference set {word}; there are: {', '.join(references)}"
            )


def _add(evaluator: Evaluator, merged: list[str], word: str) -> str:
    if word in merged:
        return f"{word} is already among the references"
    merged.append(word)
    if word not in evaluator.coded.queries:
        return f"{word} joined the references; there is no query set {word} to score"
    combination = Combination(tuple(merged), (word,))
    return fixed_line(
        combination, tally(evaluator.coded, evaluator.decide(combination), combination.reference_ids).accuracy
    )
