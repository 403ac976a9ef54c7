"""What a module was made with, so that a file can say what it is and build it again.

It needs no other module of the package.
"""

import functools
import inspect
from typing import Any, TypeVar

from torch import nn

ModuleClass = TypeVar("ModuleClass", bound=type[nn.Module])


def keeps_arguments(cls: ModuleClass) -> ModuleClass:
    """Class decorator for modules: every instance remembers, by name, what its constructor was called with.

    Args:
        cls: the class of a module, with a constructor of its own.

    Returns:
        The same class. An instance has ``arguments``, a dictionary with the defaults filled in.

    >>> @keeps_arguments
    ... class Scale(nn.Module):
    ...     def __init__(self, size: int, *, bias: bool = True) -> None:
    ...         super().__init__()
    >>> Scale(3).arguments
    {'size': 3, 'bias': True}
    """
    construct = cls.__init__
    signature = inspect.signature(construct)

    @functools.wraps(construct)
    def remember(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        construct(self, *args, **kwargs)
        if type(self) is cls:  # not where a subclass calls its parent's constructor
            given = signature.bind(self, *args, **kwargs)
            given.apply_defaults()
            arguments = {name: value for name, value in given.arguments.items() if value is not self}
            object.__setattr__(self, "arguments", arguments)  # past nn.Module, which would register what it holds

    cls.__init__ = remember  # type: ignore[method-assign]
    return cls
