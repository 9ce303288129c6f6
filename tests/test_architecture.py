"""The import rules of the project, and that every --help is quick and complete."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest

PURE = (
    "coarse",
    "knn",
    "metrics",
    "statistics",
    "fusion",
    "combinations",
    "projection",
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
LAYERS = (
    "embedder",
    "folding",
    "hugging_face",
    "network",
    "precision",
    "programs",
    "zoo",
)  # made of torch, imported by models.load alone
# Under what name an imported module is required, or the package that brings it.
REQUIRED_AS = {
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "threadpoolctl": "scikit-learn",
    "yaml": "pyyaml",
    "umap": "umap-learn",
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


def test_scripts_never_import_each_other_and_common_imports_no_script(root):
    names = {path.stem for path in scripts(root)}
    assert {"crop", "extract_embedding", "evaluate_combo", "greedy_combo_eval", "npz_to_parquet"} <= names
    for path in [*scripts(root), *(root / "common").glob("*.py")]:
        found = {name.split(".")[0] for name in imports(ast.parse(path.read_text()))} & names
        assert not found, f"{path.name} imports the script {found}"


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_touch_no_disk_and_print_nothing(root, module):
    tree = ast.parse((root / "common" / f"{module}.py").read_text())
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not calls & FORBIDDEN_CALLS
    assert not {"common.files", "common.npz", "tqdm", "pathlib", "sys"} & imports(tree)


def test_importing_runs_nothing_and_loads_nothing_heavy(root):
    modules = [
        f"common.{path.stem}" for path in (root / "common").glob("*.py") if path.stem not in ("__init__", *LAYERS)
    ]
    modules += [path.stem for path in scripts(root)]
    code = f"import sys\nfor m in {modules!r}: __import__(m)\nprint(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
    assert done.stderr.strip() == ""


def test_two_modules_know_ray(root):
    knowing = {
        path.stem
        for path in [*scripts(root), *(root / "common").glob("*.py")]
        if "ray" in imports(ast.parse(path.read_text()))
    }
    assert knowing == {"cluster", "replicas"}


def test_every_package_that_is_imported_is_required(root):
    """A fresh machine has what the requirements name, and nothing that was once installed by hand."""
    text = "".join((root / f"requirements{part}.txt").read_text() for part in ("", "-extra", "-dev"))
    required = {re.split(r"[\s<>=!;\[]", line)[0].lower().replace("_", "-") for line in text.splitlines() if line}
    folders = [root / name for name in ("common", "tests", "benchmarks", "examples")]
    paths = [*scripts(root), *(path for folder in folders for path in folder.rglob("*.py"))]
    own = {path.stem for path in paths} | {"common", "shelf"}
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


def test_help_works_from_any_folder(root, script, tmp_path):
    for path in scripts(root):
        done = script(path.name, "--help", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert path.name in done.stdout


def test_nothing_unpickles_or_evaluates(root):
    for path in [*scripts(root), *(root / "common").glob("*.py"), *(root / "examples").glob("*.py")]:
        text = path.read_text()
        for word in ("allow_pickle=True", "weights_only=False", "shell=True", "pickle.load"):
            assert word not in text, f"{path.name}: {word}"
