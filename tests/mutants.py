"""How many small faults the tests find: a seeded sample of mutants of a module, each run against the tests that are to know it.

  python tests/mutants.py --n 40
  python tests/mutants.py --n 10 common/files.py

A mutant changes one operator, comparison, constant or condition. It is killed where a test fails or takes five times as long as
before. Survivors are listed with their line: read them, as some are no faults.
"""

from __future__ import annotations

import argparse
import ast
import copy
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = {  # module: the tests that are to find its faults
    "common/knn.py": ["tests/common/test_knn.py"],
    "uncertainty/intervals.py": ["tests/uncertainty"],
    "uncertainty/comparisons.py": ["tests/uncertainty"],
    "evaluation/metrics.py": ["tests/evaluation/test_metrics.py"],
    "evaluation/fusion.py": ["tests/evaluation/test_fusion.py"],
    "annotations/coco.py": ["tests/annotations"],
    "common/files.py": ["tests/safety/test_safe_outputs.py", "tests/safety/test_safe_tables.py"],
}
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
    """Yield the nodes that can be changed, and what is changed in them; types, docstrings and messages are left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom, ast.arg)):
            continue
        if isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in SWAPS:
            yield node, "operator"
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
            yield node, "comparison"
        elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int)):
            yield node, "constant"
        elif isinstance(node, (ast.If, ast.IfExp)):
            yield node, "condition"
        returns = getattr(node, "returns", None)
        yield from ((site, what) for site, what in sites(node) if site is not returns)


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
    return f"line {getattr(node, 'lineno', '?')}: {before[:60]} -> {after[:60]}"


def mutants(source: str, n: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yield n mutants of a module, or all there are, in an order drawn by the seed: (source, change in words)."""
    tree = ast.parse(source)
    places = list(range(len(list(sites(tree)))))
    random.Random(seed).shuffle(places)
    for place in places[:n]:
        mutant = copy.deepcopy(tree)
        said = change(*list(sites(mutant))[place])
        yield ast.unparse(mutant) + "\n", said


def run_tests(folder: Path, tests: list[str], seconds: float | None) -> bool:
    """Return whether the tests pass in time."""
    words = ["-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", "-m", "not slow", *tests]
    try:
        done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def score(module: str, n: int, seed: int) -> tuple[int, int]:
    """Print the survivors of a module and return how many of how many mutants were killed."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "tree")
        left_out = shutil.ignore_patterns(".git", ".venv", ".*cache", "__pycache__", "demo")
        shutil.copytree(ROOT, folder, ignore=left_out, symlinks=True)
        source = (folder / module).read_text(encoding="utf-8")
        started = time.monotonic()
        if not run_tests(folder, TESTS[module], None):
            raise SystemExit(f"{module}: its tests fail without any change")
        seconds = 5 * (time.monotonic() - started) + 10
        killed = total = 0
        for mutant, said in mutants(source, n, seed):
            (folder / module).write_text(mutant, encoding="utf-8")
            total += 1
            if run_tests(folder, TESTS[module], seconds):
                print(f"  {module} survives {said}", flush=True)
            else:
                killed += 1
        return killed, total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="modules of the table (default: all)")
    parser.add_argument("--n", type=int, default=30, help="mutants of each module")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    results = {module: score(module, args.n, args.seed) for module in args.modules or TESTS}
    for module, (killed, total) in results.items():
        print(f"{module}: {killed} of {total} mutants killed, {killed / max(1, total):.0%}")
    killed, total = map(sum, zip(*results.values(), strict=True))
    print(f"all: {killed} of {total} mutants killed, {killed / max(1, total):.0%}")


if __name__ == "__main__":
    main()
