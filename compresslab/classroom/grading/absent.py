"""In the sandbox, the library is not there: its names can be imported and written in hints, and not called.

Only what is staged in a folder is found (`sandbox.STAGED`). Whatever an answer asks of the rest says that it
is not available while grading. This file is copied beside `worker.py`, so it imports nothing of the library.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import types
from typing import ClassVar, NoReturn


class _Missing:
    """In the place of something of the library's: answers must be written without it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> "_Missing":
        if name.startswith("__"):
            raise AttributeError(name)
        return _Missing(f"{self._name}.{name}")

    def __or__(self, _other: object) -> "_Missing":
        """In an annotation: `entropy.Table | None`."""
        return self

    __ror__ = __or__

    def __getitem__(self, _key: object) -> "_Missing":
        """In an annotation: `Table[int]`."""
        return self

    def __instancecheck__(self, _thing: object) -> bool:
        """Nothing is of the library's kind."""
        return False

    __subclasscheck__ = __instancecheck__

    def __mro_entries__(self, _bases: tuple) -> tuple:
        """A class that would inherit from it inherits from nothing."""
        return ()

    def __call__(self, *arguments: object, **named: object) -> NoReturn:
        raise RuntimeError(
            f"{self._name} is not available while grading: write the answer yourself"
        )


class _MissingModule(types.ModuleType):
    __path__: ClassVar = []

    def __getattr__(self, name: str) -> _Missing:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Missing(f"{self.__name__}.{name}")


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds compresslab in the staged folder or, what is not there, nowhere: never where it is installed."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def find_spec(
        self, name: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        """A module of the library, staged or missing; None for every other."""
        if name.split(".")[0] != "compresslab":
            return None
        base = os.path.join(self.folder, *name.split("."))
        if os.path.isfile(base + ".py"):
            return importlib.util.spec_from_file_location(name, base + ".py")
        if os.path.isfile(os.path.join(base, "__init__.py")):
            place = os.path.join(base, "__init__.py")
            return importlib.util.spec_from_file_location(
                name, place, submodule_search_locations=[base]
            )
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """A module of which nothing may be called."""
        return _MissingModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing in it."""
