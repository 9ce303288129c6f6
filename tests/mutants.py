"""How many small faults the tests find: a seeded sample of mutants of each group of modules, run against the group's tests.

  python tests/mutants.py --n 40
  python tests/mutants.py --n 10 files knn

A mutant changes one operator, comparison, constant or condition. It is killed where a test fails or takes five times as long as
before. Survivors are listed with their line: read them, and test them, or say in equivalents.py why they are no faults.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from equivalents import EQUIVALENT

ROOT = Path(__file__).resolve().parents[1]
MEMORY = 16 << 30  # bytes of address space: a mutant that takes ever more ends itself, not the machine
GROUPS = {  # group: its modules; the tests that are to find their faults; and those of them that take long and find none
    "knn": ("common/knn*.py", "tests/common/test_knn.py", "memory or 710 or faiss"),
    "statistics": (
        "uncertainty/*.py combinations/comparison.py combinations/evidence.py",
        "tests/combinations tests/uncertainty",
        "family_wise or chosen_on_the_same or memory",
    ),
    "metrics": (
        "evaluation/metrics.py evaluation/per_query.py evaluation/records.py",
        "tests/evaluation/test_by_hand.py tests/evaluation/test_metrics.py tests/evaluation/test_evaluation.py "
        "tests/evaluation/test_sure_measures.py",
        "scripts",
    ),
    "fusion": (
        "evaluation/fusion.py evaluation/evaluator.py",
        "tests/evaluation/test_by_hand.py tests/evaluation/test_fusion.py tests/evaluation/test_evaluation.py "
        "tests/evaluation/test_codes.py",
        "scripts",
    ),
    "annotations": ("annotations/*.py", "tests/annotations", "any_json or many_examples"),
    "files": (
        "common/files.py common/run_record.py common/table_files.py",
        "tests/common/test_files.py tests/common/test_run_record.py tests/common/test_table_files.py "
        "tests/cropping/test_crop_runs.py tests/safety/test_safe_outputs.py tests/safety/test_safe_tables.py",
        "spreadsheet or journal",
    ),
}
ASSERTIONS = ("strict", "frozen", "eq", "slots")  # of zip and dataclasses: what no sound call breaks
SWAPS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}


def sites(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Yield the nodes that can be changed, and what is changed in them; types, docstrings, messages and seeds are left out."""
    seeds = _seeds(tree)
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom, ast.arg)):
            continue
        if node in seeds or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            continue
        if isinstance(node, ast.keyword) and node.arg in ASSERTIONS:
            continue
        if isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in SWAPS:
            yield node, "operator"
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
            yield node, "comparison"
        elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int)):
            yield node, "constant"
        elif isinstance(node, (ast.If, ast.IfExp)):
            yield node, "condition"
        typed = getattr(node, "returns", None), getattr(node, "annotation", None)
        yield from ((site, what) for site, what in sites(node) if site not in typed)


def _seeds(node: ast.AST) -> list[ast.AST | None]:
    """Return the defaults of arguments named seed: which one it is, is free."""
    if not isinstance(node, ast.arguments):
        return []
    positional = [*node.posonlyargs, *node.args][-len(node.defaults) :] if node.defaults else []
    pairs = [*zip(positional, node.defaults, strict=True), *zip(node.kwonlyargs, node.kw_defaults, strict=True)]
    return [default for argument, default in pairs if argument.arg == "seed"]


def change(node: ast.AST, what: str) -> str:
    """Change the node in place and return the change in words."""
    before = ast.unparse(node.test if isinstance(node, (ast.If, ast.IfExp)) else node)
    if isinstance(node, (ast.BinOp, ast.BoolOp)):
        node.op = SWAPS[type(node.op)]()
    elif isinstance(node, ast.Compare):
        node.ops[0] = SWAPS[type(node.ops[0])]()
    elif isinstance(node, ast.Constant):
        node.value = not node.value if isinstance(node.value, bool) else node.value + 1  # type: ignore[operator]
    elif isinstance(node, (ast.If, ast.IfExp)):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    after = ast.unparse(node.test if isinstance(node, (ast.If, ast.IfExp)) else node)
    return f"{before[:60]} -> {after[:60]}"


@dataclass(frozen=True)
class Mutant:
    """One change of one module: its new source, the line of the change by number and in words, and the change in words."""

    module: str
    source: str
    line: int
    words: str
    change: str

    @property
    def said(self) -> str:
        return f"{self.module}: {self.words}: {self.change}"

    @property
    def is_no_fault(self) -> bool:
        return not EQUIVALENT.keys().isdisjoint((self.said, f"{self.module}: {self.words}: any"))


def mutants(folder: Path, modules: list[str], n: int, seed: int) -> Iterator[Mutant]:
    """Yield n mutants of the modules, or all there are, in an order drawn by the seed."""
    texts = {module: (folder / module).read_text(encoding="utf-8") for module in modules}
    trees = {module: ast.parse(text) for module, text in texts.items()}
    places = [(module, place) for module, tree in trees.items() for place in range(len(list(sites(tree))))]
    random.Random(seed).shuffle(places)
    for module, place in places[:n]:
        mutant = copy.deepcopy(trees[module])
        node, what = list(sites(mutant))[place]
        line = getattr(node, "lineno", 0)
        changed = change(node, what)
        words = texts[module].splitlines()[line - 1].partition("  #")[0].strip()
        yield Mutant(module, ast.unparse(mutant) + "\n", line, words, changed)


def run_tests(folder: Path, tests: list[str], without: str, seconds: float | None) -> bool:
    """Return whether the tests pass in time; what they started ends with them."""
    marks = "not slow and not study and not cluster and not server"
    words = ["-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", "-m", marks, "-k", f"not ({without})"]
    process = subprocess.Popen(
        [sys.executable, *words, *tests],
        cwd=folder,
        env={**os.environ, "STUDY_DATA": os.environ.get("STUDY_DATA", str(ROOT.parent / "shared" / "data"))},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )
    try:
        return process.wait(seconds) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def score(group: str, n: int, seed: int) -> tuple[int, int, int]:
    """Print the survivors of a group and return how many mutants were killed, survived, and are no faults."""
    patterns, tests, without = GROUPS[group]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "tree")
        left_out = shutil.ignore_patterns(".git", ".venv", ".*cache", "__pycache__", "demo", ".coverage*")
        shutil.copytree(ROOT, folder, ignore=left_out, symlinks=True)
        modules = [str(path.relative_to(folder)) for words in patterns.split() for path in sorted(folder.glob(words))]
        started = time.monotonic()
        if not run_tests(folder, tests.split(), without, None):
            raise SystemExit(f"{group}: its tests fail without any change")
        seconds = 5 * (time.monotonic() - started) + 10
        killed = survived = equivalent = 0
        for mutant in mutants(folder, modules, n, seed):
            if mutant.is_no_fault:
                equivalent += 1
                continue
            path = folder / mutant.module
            source = path.read_text(encoding="utf-8")
            path.write_text(mutant.source, encoding="utf-8")
            passed = run_tests(folder, tests.split(), without, seconds)
            path.write_text(source, encoding="utf-8")
            killed, survived = killed + (not passed), survived + passed
            if passed:
                print(f"  line {mutant.line} survives, {mutant.said}", flush=True)
        return killed, survived, equivalent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", help=f"of {', '.join(GROUPS)} (default: all)")
    parser.add_argument("--n", type=int, default=30, help="mutants of each group")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    results = {group: score(group, args.n, args.seed) for group in args.groups or GROUPS}
    total = tuple(map(sum, zip(*results.values(), strict=True)))
    for group, (killed, survived, equivalent) in {**results, "all": total}.items():
        n = killed + survived
        print(f"{group}: {killed} of {n} mutants killed, {killed / max(1, n):.0%}; {equivalent} are no faults")


if __name__ == "__main__":
    main()
