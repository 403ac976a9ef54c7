"""Sphinx extension: runs the notebooks that changed side by side, before Sphinx reads the pages one after another.

jupyter-cache runs them, with the settings of `execute:` in _config.yml, and keeps them where myst-nb looks: to it they are
notebooks that did not change. Of several at once each computes in one thread; one alone has OMP_NUM_THREADS of them.
"""

import os
import time
from multiprocessing.pool import ThreadPool

from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import SphinxError
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)


class NotebookError(SphinxError):
    """Notebooks that did not run to their end."""

    category = "Not run to the end"


def execute(app: Sphinx, env: BuildEnvironment, pages: list[str]) -> None:
    """Run the notebooks among the pages that Sphinx is about to read, unless the cache has them.

    Raises:
        NotebookError: with the names of those that failed. jupyter-cache has logged the traceback of each by then.
    """
    config = env.mystnb_config
    notebooks = {env.doc2path(page): page for page in sorted(pages) if env.doc2path(page).endswith(".ipynb")}
    if config.execution_mode != "cache" or not notebooks:
        return
    cache = get_cache(config.execution_cache_path)
    for path in notebooks:
        cache.add_nb_to_project(path)
    # The last chapters train networks and take longest: they begin, and the short ones fill the end.
    stale = sorted((record.uri for record in cache.list_unexecuted(filter_uris=list(notebooks))), reverse=True)
    if not stale:
        return

    def run(path: str) -> tuple[str, float, bool]:
        start = time.perf_counter()
        settings = {"timeout": config.execution_timeout, "allow_errors": config.execution_allow_errors}
        done = load_executor("local-serial", cache).run_and_cache(filter_uris=[path], **settings)
        return notebooks[path], time.perf_counter() - start, path in done.succeeded

    at_once = min(len(stale), os.cpu_count() or 1)
    if at_once > 1:
        os.environ["OMP_NUM_THREADS"] = "1"  # the kernels inherit it
    LOGGER.info("running %d notebooks, %d at once", len(stale), at_once)
    failed = []
    with ThreadPool(at_once) as pool:
        for page, seconds, succeeded in pool.imap_unordered(run, stale):
            LOGGER.info("%s: %.0f s%s", page, seconds, "" if succeeded else ", failed")
            failed += [] if succeeded else [page]
    if failed:
        raise NotebookError(", ".join(sorted(failed)))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("env-before-read-docs", execute)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
