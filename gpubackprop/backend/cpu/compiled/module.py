"""Generated source as a module, and the machine code that Numba makes of it, kept from one process to the next.

Numba's own cache believes whatever lies in its folder; a flipped bit there is wrong weights. So the machine code goes through
`gpubackprop.files.cache`, which knows who wrote it and that it is whole.
"""

from __future__ import annotations

import os
import pickle
import platform
import sys
from collections.abc import Callable
from threading import RLock
from types import ModuleType
from typing import TYPE_CHECKING, Any

from gpubackprop import __version__
from gpubackprop.files import cache

if TYPE_CHECKING:
    from numba.core.base import BaseContext
    from numba.core.caching import NullCache
    from numba.core.codegen import Codegen
    from numba.core.compiler import CompileResult
    from numba.core.typing.templates import Signature

ONE_AT_A_TIME = RLock()
"""Held while Numba is imported or compiles. A fork waits for it: the new process would have the locks of Numba and of Python's
imports as they are, without the thread that would release them."""

if hasattr(os, "register_at_fork"):
    release = ONE_AT_A_TIME.release
    os.register_at_fork(before=ONE_AT_A_TIME.acquire, after_in_parent=release, after_in_child=release)


def function(source: str) -> Callable[..., None]:
    """The function `run` of the module with this source, which is compiled when it is first called."""
    run = load(source).run

    def call(*arguments: object) -> None:
        if run.overloads:
            run(*arguments)
        else:
            with ONE_AT_A_TIME:
                run(*arguments)

    return call


def load(source: str) -> ModuleType:
    """The module with this source. Its function `run`, if Numba compiles it, has its machine code in the cache."""
    # A thread must not find the module of another before it is whole.
    with ONE_AT_A_TIME:
        return _load(source)


def _load(source: str) -> ModuleType:
    name = f"gpubackprop_{cache.digest(source)}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    sys.modules[name] = module
    try:
        exec(compile(source, f"<{name}>", "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    run: Any = getattr(module, "run", None)
    if hasattr(run, "_cache"):
        run._cache = _machine_code(_prefix(source))
    return module


def _prefix(source: str) -> str:
    return f"step-{cache.digest(source)}-"


def _machine_code(prefix: str) -> NullCache:
    """A cache as a Numba dispatcher has one, for one function whose entries' names begin with `prefix`."""
    import llvmlite
    import numba
    from numba.core.caching import NullCache
    from numba.core.compiler import CompileResult
    from numba.core.serialize import dumps

    versions = __version__, numba.__version__, llvmlite.__version__, platform.python_version()

    class CodeFiles(NullCache):  # type: ignore[misc]
        def name(self, signature: Signature, target: Codegen) -> str:
            return f"{prefix}{cache.digest(*versions, signature, target.magic_tuple())}.code"

        def load_overload(self, sig: Signature, target_context: BaseContext) -> CompileResult | None:
            target_context.refresh()
            content = cache.load(self.name(sig, target_context.codegen()))
            # The digest and the owner of the file were checked: this process, or one like it, pickled it.
            return None if content is None else CompileResult._rebuild(target_context, *pickle.loads(content))

        def save_overload(self, sig: Signature, data: CompileResult) -> None:
            if not data.library.has_dynamic_globals:
                cache.store(self.name(sig, data.codegen), dumps(data._reduce()))

    return CodeFiles()
