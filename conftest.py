"""Settings for every test, the notebooks' included."""

import os

os.environ["TQDM_DISABLE"] = "1"  # the kernels inherit it: no progress bars where nobody watches
