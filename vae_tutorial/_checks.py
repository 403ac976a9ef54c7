"""Checks of arguments that more than one module makes. It needs no other module of the package."""

import operator


def whole(least: int = 1, **values: int) -> None:
    """Refuse numbers that are not whole, or below the least.

    Raises:
        ValueError: naming the argument.
    """
    for name, value in values.items():
        try:
            good = operator.index(value) >= least
        except TypeError:
            good = False
        if not good:
            raise ValueError(f"{name} must be a whole number, at least {least}, got {value}")
