"""The library inflect, which knows English plurals, imported in a tenth of its time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import inflect


@lru_cache(maxsize=2)
def engine(classical: bool = False) -> inflect.engine:
    """inflect's engine, with modern plurals ("octopuses") or classical ones ("octopodes")."""
    with unchecked():
        import inflect  # where no noun is matched it is not needed

    made = inflect.engine()
    made.classical(all=classical)
    return made


@contextmanager
def unchecked() -> Iterator[None]:
    """Inside, what is imported gets no type checks by typeguard, which would compile each of inflect's functions anew
    for them, for seconds."""
    import typeguard

    def as_it_is(target: Any = None, **_: Any) -> Any:
        return (lambda decorated: decorated) if target is None else target

    own = typeguard.typechecked
    typeguard.typechecked = as_it_is
    try:
        yield
    finally:
        typeguard.typechecked = own
