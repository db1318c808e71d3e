"""The house rule: imports point down only, light floors stay light, and `--help` loads nothing heavy."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "ray", "sky", "transformers", "trl", "peft", "datasets", "wandb", "boto3", "pandas", "matplotlib"}

# Module or package -> floor, as in docs/structure.md; the longest matching prefix counts.
FLOORS = {
    "launcher": 1,
    "launcher.errors": 1,
    "launcher.units": 1,
    "launcher.models": 1,
    "launcher.modelfiles": 1,
    "launcher.architecture": 1,
    "launcher.faults": 1,
    "launcher.yamlfile": 1,
    "launcher.jobparts": 1,
    "launcher.job": 1,
    "launcher.presets": 1,
    "launcher.schedule": 1,
    "launcher.linefile": 1,
    "launcher.addresses": 1,
    "launcher.data": 2,
    "launcher.cost": 2,
    "launcher.rundir": 2,
    "launcher.settings": 2,
    "launcher.evaluate": 3,
    "launcher.tinybase": 3,
    "launcher.train": 3,
    "launcher.cloud": 3,
    "launcher.node": 3,
    "launcher.sandbox": 3,
    "launcher.run": 4,
    "launcher.check": 4,
    "launcher.runs": 4,
    "launcher.offers": 4,
    "launcher.notices": 4,
    "launcher.doctor": 4,
    "launcher.prediction": 4,
    "launcher.tokens": 4,
    "launcher.planning": 4,
    "launcher.reconcile": 4,
    "launcher.teardown": 4,
    "launcher.watch": 4,
    "launcher.spend": 4,
    "launcher.status": 4,
    "launcher.plan": 4,
    "launcher.launching": 4,
    "launcher.seeds": 4,
    "launcher.report": 4,
    "launcher.cli": 5,
    "launcher.__main__": 5,
    "ray_jobs": 5,
}
# Pairs of one floor that may not import each other, in this direction.
NOT_SIDEWAYS = {
    ("launcher.data", "launcher.cost"),
    ("launcher.cost", "launcher.data"),
    ("launcher.evaluate", "launcher.train"),
}


def modules() -> Iterator[tuple[str, Path]]:
    for package in ("launcher", "ray_jobs"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def place(module: str) -> str:
    """The entry of FLOORS a module belongs to."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in FLOORS and (prefix != "launcher" or module == "launcher"):
            return prefix
    raise AssertionError(f"{module} stands on no floor: add it to docs/structure.md and to this test")


def imported(tree: ast.AST, anywhere: bool) -> Iterator[str]:
    """Names of imported modules; only those at module level unless `anywhere`."""
    nodes = ast.walk(tree) if anywhere else _module_level(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _module_level(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from _module_level(node)


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=[name for name, _ in modules()])
def test_imports_point_down(module: str, path: Path) -> None:
    here = place(module)
    known = {name for name, _ in modules()}
    for name in imported(ast.parse(path.read_text(encoding="utf-8")), anywhere=True):
        if name not in known:
            continue
        there = place(name)
        assert FLOORS[there] <= FLOORS[here], f"{module} (floor {FLOORS[here]}) imports {name} (floor {FLOORS[there]})"
        assert (here, there) not in NOT_SIDEWAYS, f"{module} imports its neighbour {name}"


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=[name for name, _ in modules()])
def test_light_floors_import_nothing_heavy(module: str, path: Path) -> None:
    here = place(module)
    if FLOORS[here] == 3 or here == "ray_jobs":
        return
    names = {name.split(".")[0] for name in imported(ast.parse(path.read_text(encoding="utf-8")), anywhere=False)}
    assert not names & HEAVY, f"{module} imports {names & HEAVY} at its top"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["show", "jobs/veran-tools.yaml"],
        ["runs"],
        ["offers"],
        ["offers", "--offline"],
        ["settings"],
        ["plan", "jobs/veran-tools.yaml", "--offline"],
        ["plan", "--seeds"],
        ["fit", "jobs/veran-tools.yaml"],
        ["speed", "--cases", "tests/data/cost/throughput.jsonl"],
    ],
)
def test_light_commands_load_nothing_heavy(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # `offers` renews price catalogs there
    program = (
        "import sys; from launcher.cli.app import run; code = run(sys.argv[1:]); "
        f"print('LOADED', sorted({HEAVY!r} & set(sys.modules))); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "LOADED []" in done.stdout


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = f"import sys, launcher; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_sky_and_jobs_are_data() -> None:
    assert not list((ROOT / "sky").rglob("*.py"))
    assert not list((ROOT / "jobs").rglob("*.py"))
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"][
        "find"
    ]
    assert packages["include"] == ["launcher*", "ray_jobs*"]


def test_no_committed_file_names_this_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    texts = [
        p for p in listed if p and Path(p.decode()).suffix in {".py", ".md", ".yaml", ".toml", ".sh", ".lock", ".json"}
    ]
    for name in texts:
        text = (ROOT / name.decode()).read_text(encoding="utf-8")
        found = re.search(r"(?<![\w.])/(?:home/\w+|root|opt/(?:wheels|pypi)|work)/", text)
        assert found is None, f"{name.decode()} holds a path of one machine: {found}"
