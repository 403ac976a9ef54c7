"""Settings for every test, the notebooks' and the doctests included."""

import os
import sys
from collections.abc import Iterator

import pytest

os.environ["TQDM_DISABLE"] = "1"  # the kernels inherit it: no progress bars where nobody watches
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # beside other work, threads that wait in a spin stop each other


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a CUDA device where there is none; where there is one, ``pytest -m cuda`` runs just that."""
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if marked and not __import__("torch").cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    """Close what a test drew: matplotlib warns of more than twenty open figures, and here a warning is an error."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
