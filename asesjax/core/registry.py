"""Things known by a name, registered where they are defined, also from outside the package."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from asesjax.core.errors import UserError, unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """Names and what they stand for, in the order of registration.

    >>> colours = Registry("colour")
    >>> @colours.register("red")
    ... def red(): ...
    >>> colours.get("red") is red, list(colours)
    (True, ['red'])
    """

    registrations = 0  # in all registries, so that a file which registers things can be told

    def __init__(self, what: str):
        self.what = what
        self._found: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers under a name; raises UserError if it is taken."""

        def add(thing: T) -> T:
            there = self._found.setdefault(name, thing)
            if there is not thing and _place(there) != _place(thing):
                raise UserError(
                    f"{self.what} {name!r} is registered twice: by {_place(there)} and by "
                    f"{_place(thing)}; give the second another name"
                )
            self._found[name] = thing  # a module that is loaded again brings its own
            Registry.registrations += 1
            return thing

        return add

    def get(self, name: str) -> T:
        """Return what is registered under a name. Raises UserError if nothing is."""
        if name not in self._found:
            raise unknown(self.what, name, self)
        return self._found[name]

    def __contains__(self, name: object) -> bool:
        return name in self._found

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)


def _place(thing: object) -> str:
    module = getattr(thing, "__module__", type(thing).__module__)
    return f"{module}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"
