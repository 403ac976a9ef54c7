"""Settings for every test, the notebooks' and the doctests included."""

import os
import sys
from collections.abc import Iterator

import pytest

os.environ["TQDM_DISABLE"] = "1"  # the kernels inherit it: no progress bars where nobody watches


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    """Close what a test drew: matplotlib warns of more than twenty open figures, and here a warning is an error."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
