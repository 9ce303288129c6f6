"""The import rules of the project, and that every --help is quick and complete."""

from __future__ import annotations

import argparse
import ast
import copy
import graphlib
import re
import subprocess
import sys

import pytest

# What each room may import, beside itself. A new capability gets a room and one line here and in docs/code.md.
ROOMS = {
    "common": set(),
    "imaging": {"common"},
    "annotations": {"common", "imaging"},
    "boxes": {"common", "annotations", "imaging"},
    "cropping": {"common", "annotations", "imaging", "boxes"},
    "backbones": {"common"},
    "uncertainty": set(),
    "evaluation": {"common", "uncertainty", "classifiers"},
    "classifiers": {"common", "uncertainty"},
    "plots": {"common", "imaging"},
    "export": {"common", "imaging"},
    "engines": {"common"},
    "embedding": {"common", "backbones", "engines", "imaging"},
    "combinations": {"common", "evaluation", "uncertainty", "classifiers"},
    "conclusions": {"common", "evaluation", "uncertainty", "classifiers", "combinations"},
    "unknowns": {"common", "evaluation", "uncertainty", "classifiers"},
    "soundness": {"common", "imaging", "evaluation", "uncertainty"},
    "report": {"common", "evaluation", "uncertainty", "combinations", "conclusions", "imaging", "soundness"},
    "terminal": {
        *("common", "evaluation", "uncertainty", "classifiers", "combinations", "conclusions"),
        *("soundness", "plots"),
    },
    "retrieval": {"common", "evaluation", "uncertainty", "imaging"},
    "indexes": {"common", "retrieval"},
    "training": {"common", "backbones", "evaluation", "uncertainty", "imaging"},
    "viewer": {"common", "plots", "embedding", "imaging"},
    "ray_cluster": {"common", "annotations", "boxes", "cropping", "embedding", "imaging"},
}
CROWDED = {"common": 14, "annotations": 21}  # modules in a room, at most; 8 where nothing is said
PURE = (
    *("common/knn.py", "common/knn_blocks.py", "combinations/search.py", "plots/projection.py"),
    *("evaluation/codes.py", "evaluation/evaluator.py", "evaluation/fusion.py", "evaluation/metrics.py"),
    *("evaluation/per_query.py", "evaluation/records.py", "evaluation/learning.py", "evaluation/references.py"),
    *("boxes/cutouts.py", "boxes/readings.py", "boxes/resizing.py"),
    "training/calibration.py",
    *("classifiers/choice.py", "classifiers/confidence.py", "classifiers/linear.py", "classifiers/neighbours.py"),
    *("classifiers/recipes.py", "unknowns/scores.py", "unknowns/threshold.py", "unknowns/open_set.py"),
    *("soundness/label_errors.py", "soundness/left_out.py", "soundness/alike_classes.py"),
    *("uncertainty/intervals.py", "uncertainty/comparisons.py", "uncertainty/winner.py", "uncertainty/references.py"),
    *("uncertainty/scores.py", "uncertainty/datasets.py", "uncertainty/power.py", "uncertainty/sign_flips.py"),
)  # touch no disk, print nothing
HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "pandas",
    "cv2",
    "sklearn",
    "matplotlib",
    "seaborn",
    "umap",
    "pyarrow",
    "ray",
)
MADE_OF_TORCH = ("backbones", "embedding", "engines", "training/network.py")  # may import torch at the top
# Under what name an imported module is required, or the package that brings it.
REQUIRED_AS = {
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "threadpoolctl": "scikit-learn",
    "yaml": "pyyaml",
    "umap": "umap-learn",
    "numba": "umap-learn",
    "faiss": "faiss-cpu",
    "flask": "dash",
    "werkzeug": "dash",
    "plotly": "dash",
    "grpc": "pymilvus",
    "huggingface_hub": "transformers",
}
FORBIDDEN_CALLS = {"print", "open", "eval", "exec", "input"}


def scripts(root):
    return sorted(path for path in root.glob("*.py"))


def imports(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def modules(root, room=None):
    """Every module of the rooms, or of one, by its dotted name."""
    paths = [path for name in ([room] if room else ROOMS) for path in sorted((root / name).rglob("[a-z]*.py"))]
    return {".".join(path.relative_to(root).with_suffix("").parts): path for path in paths}


def names_in(path) -> set[str]:
    return imports(ast.parse(path.read_text(encoding="utf-8")))


def test_the_scripts_stand_at_the_top_and_never_import_each_other(root):
    names = {path.stem for path in scripts(root)}
    assert {"crop", "extract_embedding", "evaluate_combo", "greedy_combo_eval", "npz_to_parquet"} <= names
    for path in scripts(root):
        assert not {name.split(".")[0] for name in names_in(path)} & names, path


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_below_it_and_no_script(root, room):
    for path in modules(root, room).values():
        found = {name.split(".")[0] for name in names_in(path)}
        assert found & ROOMS.keys() <= ROOMS[room] | {room}, path
        assert not found & {script.stem for script in scripts(root)} - {room}, path


def test_every_package_is_a_room_and_no_room_is_crowded(root):
    assert {path.parent.name for path in root.glob("*/__init__.py")} == set(ROOMS)
    assert not any(path.read_text() for path in root.glob("*/__init__.py"))
    for room in ROOMS:
        assert len(list((root / room).glob("[a-z]*.py"))) <= CROWDED.get(room, 8), room


def module_graph(root) -> dict[str, set[str]]:
    known = modules(root)
    return {name: (names_in(path) & known.keys()) - {name} for name, path in known.items()}


def test_no_two_modules_import_each_other(root):
    graphlib.TopologicalSorter(module_graph(root)).prepare()  # raises CycleError, which names the circle


def test_what_stands_in_common_is_shared_by_three_rooms_or_scripts(root):
    """Used by three or more rooms or scripts; through another module of common/ counts."""
    users: dict[str, set[str]] = {name: set() for name in modules(root, "common")}
    above = {path.stem: names_in(path) for path in scripts(root)}
    for name, path in modules(root).items():
        if not name.startswith("common."):
            above.setdefault(name.split(".")[0], set()).update(names_in(path))
    graph = module_graph(root)

    def mark(module: str, user: str) -> None:
        if user not in users[module]:
            users[module].add(user)
            for below in graph[module]:
                mark(below, user)

    for user, found in above.items():
        for module in found & users.keys():
            mark(module, user)
    assert {module: sorted(by) for module, by in users.items() if len(by) < 3} == {}


def nesting(node: ast.AST, depth: int = 0) -> int:
    """How deep blocks stand within each other."""
    blocks = (ast.If, ast.For, ast.While, ast.With, ast.Try)
    below = [nesting(child, depth + isinstance(child, blocks)) for child in ast.iter_child_nodes(node)]
    return max([depth, *below])


def test_functions_fit_a_screen_and_scripts_stay_short(root):
    """At most 60 lines a function (parsers apart), 4 blocks within each other, 150 lines a class, 200 a script."""
    too_large = []
    for path in [
        *modules(root).values(),
        *scripts(root),
        *root.glob("benchmarks/*.py"),
        *root.glob("examples/**/*.py"),
    ]:
        text = path.read_text(encoding="utf-8")
        where = path.relative_to(root)
        if path.parent == root and len(text.splitlines()) > 200:
            too_large.append(f"{where}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            lines = getattr(node, "end_lineno", 0) - getattr(node, "lineno", 0) + 1
            if isinstance(node, ast.ClassDef) and lines > 150:
                too_large.append(f"{where}: class {node.name} has {lines} lines")
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                if lines > 60 and "parser" not in node.name:
                    too_large.append(f"{where}: {node.name} has {lines} lines")
                # An elif is an if within an else for the parser, not for the reader.
                if nesting(unchained(node)) > 4:
                    too_large.append(f"{where}: {node.name} is nested {nesting(unchained(node))} deep")
    assert not too_large


class Unchained(ast.NodeTransformer):
    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        if len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If):
            return [ast.If(node.test, node.body, []), node.orelse[0]]  # type: ignore[return-value]
        return node


def unchained(node: ast.AST) -> ast.AST:
    return Unchained().visit(copy.deepcopy(node))


def test_no_function_of_a_room_takes_the_command_line(root):
    """`args` stays in the scripts' run(); a room takes plain values."""
    for path in [*modules(root).values(), *scripts(root)]:
        if path == root / "common" / "cli.py":  # which makes the command line
            continue
        runs = {"run", "main"} | (
            {"build", "query", "evaluate", "info", "delete"} if path.name == "search.py" else set()
        )
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name not in runs:
                kinds = [ast.unparse(arg.annotation) for arg in node.args.args if arg.annotation]
                assert "argparse.Namespace" not in kinds, f"{path.relative_to(root)}: {node.name} takes args"


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_touch_no_disk_and_print_nothing(root, module):
    tree = ast.parse((root / module).read_text())
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not calls & FORBIDDEN_CALLS
    assert not {"common.files", "common.npz", "tqdm", "pathlib", "sys"} & imports(tree)


def test_importing_runs_nothing_and_loads_nothing_heavy(root):
    names = [name for name, path in modules(root).items() if not str(path.relative_to(root)).startswith(MADE_OF_TORCH)]
    names += [path.stem for path in scripts(root)]
    code = f"import sys\nfor m in {names!r}: __import__(m)\nprint(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
    assert done.stderr.strip() == ""


def test_ray_is_known_in_its_room_only(root):
    knowing = {name for name, path in modules(root).items() if "ray" in names_in(path)}
    assert knowing == {"ray_cluster.connection", "ray_cluster.replicas", "ray_cluster.tasks"}
    assert not [path for path in scripts(root) if "ray" in names_in(path)]


def test_every_package_that_is_imported_is_required(root):
    """A fresh machine has what the requirements name, and nothing that was once installed by hand."""
    text = "".join((root / f"requirements{part}.txt").read_text() for part in ("", "-extra", "-dev"))
    required = {re.split(r"[\s<>=!;\[]", line)[0].lower().replace("_", "-") for line in text.splitlines() if line}
    folders = [root / name for name in (*ROOMS, "tests", "benchmarks", "examples")]
    paths = [*scripts(root), *(path for folder in folders for path in folder.rglob("*.py"))]
    own = {path.stem for path in paths} | {*ROOMS, "shelf"}
    elsewhere = {"milvus", "my_encoder"}  # in the server's own environment; a module that a test writes
    for path in paths:
        found = {name.split(".")[0] for name in imports(ast.parse(path.read_text()))}
        for name in found - own - elsewhere - set(sys.stdlib_module_names):
            assert REQUIRED_AS.get(name, name.lower().replace("_", "-")) in required, f"{path.name} imports {name}"


def test_every_option_has_help_and_the_docstring_has_commands(root):
    sys.path.insert(0, str(root))
    for path in scripts(root):
        parser = __import__(path.stem).build_parser()
        assert f"python {path.name}" in parser.description, path.name
        assert not parser.allow_abbrev
        for action in parser._actions:
            assert action.help, f"{path.name} {action.option_strings} has no help"


@pytest.mark.parametrize("words", [["--help"], ["--no_such_option"]])
def test_help_and_usage_errors_load_no_numpy_from_any_folder(root, tmp_path, words):
    for path in scripts(root):
        code = (
            f"import sys; sys.path.insert(0, {str(root)!r}); import {path.stem} as script; code = script.main({words!r})\n"
            f"print(*sorted({{'numpy', *{HEAVY!r}}} & set(sys.modules)), file=sys.stderr); sys.exit(code)"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == (0 if words == ["--help"] else 2), done.stderr
        assert path.name in done.stdout + done.stderr
        assert done.stderr.splitlines()[-1] == "", path.name


def offered(parser, option: str) -> set[str]:
    """The choices of an option; those of a sub-command where only that has it."""
    subs = [
        sub
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for sub in action.choices.values()
    ]
    actions = [action for each in (parser, *subs) for action in each._actions if option in action.option_strings]
    return set(actions[0].choices)


def test_parsers_offer_what_there_is():
    """Choices that a parser writes out, because the module that has them is heavy."""
    import classify
    import extract_embedding
    import search
    import view
    from backbones import preprocess
    from embedding.arithmetic import COMPILE_FROM
    from engines.program import ENGINES
    from retrieval import retrieve, tables

    extract = extract_embedding.build_parser()
    assert offered(extract, "--pooling") == set(preprocess.POOLINGS)
    for script in (extract_embedding, classify, search, view):
        assert offered(script.build_parser(), "--engine") == {"auto", *ENGINES}
    assert offered(extract, "--resize_mode") == set(preprocess.RESIZE_MODES)
    assert f"from {COMPILE_FROM:,} images" in extract.format_help()
    assert offered(search.build_parser(), "--rerank") == retrieve.RERANKINGS.keys()
    assert offered(search.build_parser(), "--format") == tables.RESULT_FORMATS.keys()


def test_nothing_unpickles_or_evaluates(root):
    for path in [*scripts(root), *modules(root).values(), *(root / "examples").glob("*.py")]:
        text = path.read_text()
        for word in ("allow_pickle=True", "weights_only=False", "shell=True", "pickle.load"):
            assert word not in text, f"{path.name}: {word}"
