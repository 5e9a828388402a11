"""The user's choices, wherever they are kept at the moment."""

from __future__ import annotations

from typing import Any

from .parameters import Parameters


class Chosen:
    """Stands for the parameter node of the scene, which another scene replaces, or for defaults while there is none.

    Reading and setting a choice goes to :meth:`use`'s last argument.
    """

    def __init__(self) -> None:
        object.__setattr__(self, "_kept", Parameters())

    def use(self, parameters: Any) -> None:
        """Keep the choices elsewhere from now on; None for defaults."""
        object.__setattr__(self, "_kept", Parameters() if parameters is None else parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kept, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._kept, name, value)
