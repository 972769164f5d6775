"""Things known by a name, registered where they are defined, also from outside the package."""

from collections.abc import Callable
from typing import TypeVar

from asesjax.core.errors import UserError, unknown

T = TypeVar("T")


class Registry(dict[str, T]):
    """Names and what they stand for, in the order of registration.

    >>> colours = Registry("colour")
    >>> @colours.register("red")
    ... def red(): ...
    >>> colours.get("red") is red, list(colours)
    (True, ['red'])
    """

    registrations = 0  # in all registries, so that a file which registers things can be told

    def __init__(self, what: str):
        super().__init__()
        self.what = what

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers under a name; raises UserError if it is taken."""

        def add(thing: T) -> T:
            there = self.setdefault(name, thing)
            if there is not thing and _place(there) != _place(thing):
                raise UserError(
                    f"{self.what} {name!r} is registered twice: by {_place(there)} and by "
                    f"{_place(thing)}; give the second another name"
                )
            self[name] = thing  # a module that is loaded again brings its own
            Registry.registrations += 1
            return thing

        return add

    def get(self, name: str) -> T:  # type: ignore[override]  # has no default: raises
        """Return what is registered under a name. Raises UserError if nothing is."""
        if name not in self:
            raise unknown(self.what, name, self)
        return self[name]


def _place(thing: object) -> str:
    module = getattr(thing, "__module__", type(thing).__module__)
    return f"{module}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"
