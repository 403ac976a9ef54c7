"""Sphinx extension: runs the notebooks that changed side by side, before Sphinx reads the pages one after another.

It asks jupyter-cache, as myst-nb does for one notebook, with the settings of `execute:` in _config.yml, and leaves the
outputs where myst-nb looks, which then has nothing to run. Of several at once each computes in one thread, which changes
no printed number (`make portable`); one alone has OMP_NUM_THREADS of them.
"""

import os
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn, JupyterCacheAbstract
from jupyter_cache.executors.utils import single_nb_execution
from myst_nb.core.config import NbParserConfig
from nbclient.exceptions import DeadKernelError
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import SphinxError
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
AT_ONCE = 4  # at most: a notebook takes up to 2.5 GB of memory
QUIET = ["--log-level=ERROR"]  # the kernel warns of its channel, which stays on this machine


class NotebookError(SphinxError):
    """Notebooks that did not run to their end."""

    category = "Notebooks failed"


def execute(path: str, cache: JupyterCacheAbstract, config: NbParserConfig) -> str | None:
    """Run one notebook in its folder and put it into the cache. If it fails, what went wrong, with its traceback."""
    notebook = cache.get_project_notebook(path).nb
    settings = {"timeout": config.execution_timeout, "allow_errors": config.execution_allow_errors}
    try:
        done = single_nb_execution(notebook, cwd=str(Path(path).parent), extra_arguments=QUIET, **settings)
    except DeadKernelError as error:  # for example for want of memory
        return str(error)
    if done.err:
        return str(done.err)
    bundle = CacheBundleIn(notebook, path, data={"execution_seconds": done.time})
    cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
    return None


def execute_stale(app: Sphinx, env: BuildEnvironment, pages: list[str]) -> None:
    """Run the notebooks among the pages that Sphinx is about to read, unless the cache has them.

    Raises:
        NotebookError: with the names and tracebacks of all that failed; the others are in the cache.
    """
    config = env.mystnb_config
    notebooks = [path for path in map(env.doc2path, pages) if path.endswith(".ipynb")]
    if config.execution_mode != "cache" or not notebooks:
        return
    cache = get_cache(config.execution_cache_path)
    for path in notebooks:
        cache.add_nb_to_project(path)
    # The last chapters train networks and take longest: they begin, and the short ones fill the end.
    stale = sorted((record.uri for record in cache.list_unexecuted(filter_uris=notebooks)), reverse=True)
    if not stale:
        return
    at_once = min(len(stale), os.cpu_count() or 1, AT_ONCE)
    if at_once > 1:
        os.environ["OMP_NUM_THREADS"] = "1"  # the kernels inherit it
    LOGGER.info("running notebooks: %d, %d at once", len(stale), at_once)

    def run(path: str) -> tuple[str, str | None, float]:
        start = time.perf_counter()
        return os.path.relpath(path, app.srcdir), execute(path, cache, config), time.perf_counter() - start

    failed = []
    with ThreadPool(at_once) as pool:
        for name, problem, seconds in pool.imap_unordered(run, stale):
            LOGGER.info("%s: %.0f s%s", name, seconds, ", failed" if problem else "")
            failed += [f"{name}\n{problem}"] if problem else []
    if failed:
        raise NotebookError("\n".join(failed))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("env-before-read-docs", execute_stale)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
