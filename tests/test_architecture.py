"""What the package is built like: which module may know which, and what every public thing owes its reader."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import gpubackprop
from gpubackprop.backend.base import Backend

ROOT = Path(gpubackprop.__file__).parent
FILES = {
    "gpubackprop" + "".join(f".{p}" for p in f.relative_to(ROOT).with_suffix("").parts if p != "__init__"): f
    for f in sorted(ROOT.rglob("*.py"))
}

# Only generated code, which Numba compiles, imports this one.
FOR_NUMBA = "gpubackprop.backend.cpu.compiled.runtime"
MODULES = [name for name in FILES if not name.endswith("__main__") and name != FOR_NUMBA]

# From the ground up: a file may import from its own floor and from those below. The longest matching name decides.
FLOORS = [
    ["errors"],
    [
        "random",
        "precision",
        "backend.arithmetic",
        "files.atomic",
        "files.regular",
        "files.cache",
        "files.lock",
        "files.plain",
        "terminal",
        "layout",
        "sparse",
    ],
    ["backend.base"],
    ["checks", "network.parameters"],
    ["activations", "losses", "initializers", "metrics"],
    ["layers", "optimizers"],
    ["backend"],
    ["distributed"],
    ["network"],
    ["files", "data"],
    ["training"],
    ["proofs", "testing"],
    ["pipeline"],
    ["interop"],
    ["bench"],
    ["", "cli", "__main__"],
]
FLOOR = {f"gpubackprop.{room}".rstrip("."): i for i, rooms in enumerate(FLOORS) for room in rooms}


def floor(module: str) -> int:
    parts = module.split(".")
    return next(FLOOR[name] for i in range(len(parts), 0, -1) if (name := ".".join(parts[:i])) in FLOOR)


def imports(tree: ast.AST) -> Iterator[str]:
    """The modules that a file imports, by their full names: at its top, inside functions, and for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written with their full names"
            base = node.module or ""
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in FILES else base
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant))
        yield from imports(node)


IMPORTS = {name: sorted(set(imports(ast.parse(file.read_text(encoding="utf-8"))))) for name, file in FILES.items()}


def test_the_files_were_found() -> None:
    assert {
        "gpubackprop.network.network",
        "gpubackprop.backend.cuda.cupy_backend",
        "gpubackprop.layers",
    } <= FILES.keys()
    assert "gpubackprop.losses" in IMPORTS["gpubackprop.network.network"]
    assert "gpubackprop.losses" not in IMPORTS["gpubackprop.backend.base"], "there it is for type checkers only"
    assert "gpubackprop.backend.cuda" in IMPORTS["gpubackprop.backend.select"], "inside a function"


def test_arrows_point_down() -> None:
    upward = [
        f"{name} (floor {floor(name)}) imports {other} (floor {floor(other)})"
        for name, others in IMPORTS.items()
        for other in others
        if other.split(".")[0] == "gpubackprop" and other != "gpubackprop"
        if floor(other) > floor(name)
    ]
    assert not upward


def test_no_file_imports_itself_by_way_of_others() -> None:
    # The package's own file loads what is asked for; importing it imports nothing.
    arrows = {name: [o for o in others if o in FILES and o != "gpubackprop"] for name, others in IMPORTS.items()}
    done: set[str] = set()

    def follow(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        circle = next((c for other in arrows[name] if (c := follow(other, [*path, name]))), [])
        done.add(name)
        return circle

    assert not [circle for name in arrows if (circle := follow(name, []))]


def test_what_is_inside_the_network_stays_there() -> None:
    """No file outside network/ reads or writes an underscored attribute of a network or an engine."""
    found = []
    for name, file in FILES.items():
        if name.startswith("gpubackprop.network"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                owner = ast.unparse(node.value).split(".")[-1]
                if owner in ("net", "network", "engine", "batch", "steps", "workspace", "parameters"):
                    found.append(f"{name}: {ast.unparse(node)}")
    assert not found


def test_a_class_has_a_name_of_its_own() -> None:
    names = [
        node.name
        for file in FILES.values()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    # The layer and the function that it applies: users know both, as gb.Activation and gb.activations.Activation.
    # Result: of a benchmark, and a structure of cuBLASLt's, which its documentation calls so.
    assert {name for name in names if names.count(name) > 1} == {"Activation", "Result"}


def test_inner_files_take_nothing_but_the_version_from_the_package_itself() -> None:
    taken = [
        (name, alias.name)
        for name, file in FILES.items()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == "gpubackprop"
        for alias in node.names
        if f"gpubackprop.{alias.name}" not in FILES
    ]
    assert {what for name, what in taken if floor(name) < FLOOR["gpubackprop"]} <= {"__version__"}


def test_only_the_cuda_folder_knows_cupy() -> None:
    vendors = ("cupy", "cupyx", "cupy_backends", "cuda", "pynvml")
    found = [
        f"{name} imports {other}"
        for name, others in IMPORTS.items()
        for other in others
        if other.split(".")[0] in vendors and not name.startswith("gpubackprop.backend.cuda")
    ]
    assert not found
    assert any("cupy" in others for others in IMPORTS.values())


# What may be loaded: what a bare installation brings along, and the standard library.
_IMPORT_ALL = """
import importlib, sys
import numpy, rich.console, rich.live, rich.progress, rich.table, safetensors.numpy, typer, typer.testing
installed = {name.split(".")[0] for name in sys.modules} | set(sys.stdlib_module_names) | {"rich", "numpy", "gpubackprop"}

class Bare:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in installed:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Bare())
import gpubackprop, gpubackprop.errors
assert gpubackprop.get_backend("auto").name == "cpu"
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except gpubackprop.errors.MissingExtraError:
        # Its classes derive from another library's.
        assert name == "gpubackprop.interop.estimators", name
gpubackprop.mlp([2, 3, 1]).predict([[0.0, 1.0]])
"""


def test_every_module_imports_with_the_hard_dependencies_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _IMPORT_ALL, *MODULES],
        capture_output=True,
        text=True,
        cwd=ROOT.parent,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_importing_the_package_loads_no_optional_library() -> None:
    optional = "cupy torch sklearn pyarrow matplotlib numba scipy pandas jax mpi4py"
    script = (
        f"import sys, gpubackprop; gpubackprop.Trainer; print(*[n for n in '{optional}'.split() if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT.parent, check=True)
    assert done.stdout.split() == []


def test_the_cuda_backend_is_imported_in_half_a_second() -> None:
    """Beside CuPy, where that is installed; and nothing of it takes NVIDIA's own bindings along."""
    script = """if True:
        import importlib.util, sys, time
        import numpy
        begin = time.process_time()
        if importlib.util.find_spec("cupy"):
            import cupy
        import gpubackprop.backend.cuda.cuda_backend
        print(time.process_time() - begin, *(n for n in ("nvmath", "cuda.bindings") if n in sys.modules))
    """
    times = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT.parent, check=True
        )
        seconds, *bindings = done.stdout.split()
        assert not bindings
        times.append(float(seconds))
    assert min(times) < 0.5


# -- what is public ------------------------------------------------------------------------------------------------------------


def modules() -> list[ModuleType]:
    return [importlib.import_module(name) for name in MODULES]


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The public classes, functions and methods that a module defines, by their full names."""
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(thing):
            yield f"{module.__name__}.{name}", thing
            for member, value in vars(thing).items():
                if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                    yield f"{module.__name__}.{name}.{member}", getattr(thing, member)
        elif inspect.isfunction(thing):
            yield f"{module.__name__}.{name}", thing


def test_few_signatures_leave_a_type_open() -> None:
    """`Any` alone, as the type of an argument or a result, is for what has no type to name."""
    open_types = []
    for name, file in FILES.items():
        for f in ast.walk(ast.parse(file.read_text())):
            if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef)):
                a = f.args
                every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
                types = [*((v.arg, v.annotation) for v in every), ("the result", f.returns)]
                open_types += [
                    f"{name}.{f.name}: {what}" for what, t in types if isinstance(t, ast.Name) and t.id == "Any"
                ]
    assert len(open_types) <= 60, "\n".join(open_types)


def test_every_public_thing_says_what_it_is() -> None:
    silent = [m.__name__ for m in modules() if not inspect.getdoc(m)]
    silent += [name for m in modules() for name, thing in public(m) if not inspect.getdoc(thing)]
    # An array's attributes mean what NumPy's of the same name mean.
    known = {
        f"gpubackprop.backend.strict.StrictArray.{a}" for a in ("shape", "dtype", "ndim", "size", "nbytes", "itemsize")
    }
    assert not set(silent) - known, "\n".join(sorted(set(silent) - known))


def test_public_names_of_the_package() -> None:
    assert len(set(gpubackprop.__all__)) == len(gpubackprop.__all__)
    for name in gpubackprop.__all__:
        assert getattr(gpubackprop, name).__doc__
    promised = """Network Dense Activation Dropout BatchNorm LayerNorm Trainer mlp save load gradcheck check_parity devices
        get_backend SGD RMSprop Adagrad Adadelta Adam AdamW Adamax NAdam RAdam LARS LAMB"""
    assert set(promised.split()) <= set(gpubackprop.__all__)


# -- one vocabulary --------------------------------------------------------------------------------------------------------------


def backends() -> list[type[Backend]]:
    modules()
    found, queue = [], [Backend]
    while queue:
        for kind in queue.pop().__subclasses__():
            if kind.__module__.startswith("gpubackprop."):
                found.append(kind)
                queue.append(kind)
    return found


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


OPERATIONS = sorted(n for n, f in vars(Backend).items() if inspect.isfunction(f) and not n.startswith("_"))


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_has_one_signature_on_every_device(name: str) -> None:
    wanted = parameters(getattr(Backend, name))
    for kind in backends():
        assert parameters(getattr(kind, name)) == wanted, kind


def test_every_device_has_the_whole_vocabulary() -> None:
    names = {kind.__name__ for kind in backends()}
    assert {"NumpyBackend", "StrictBackend", "CupyBackend"} <= names
    missing = {k.__name__: sorted(k.__abstractmethods__) for k in backends()}
    assert not any(missing.values()), missing
    undescribed = [n for n in OPERATIONS if not getattr(Backend, n).__doc__]
    assert not undescribed
