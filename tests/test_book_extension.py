"""The book's Sphinx extension where a second build goes on from the first: nothing is lost, and nothing idle is done."""

import json
import os
import pickle
from types import SimpleNamespace

import book_extension
import pytest
from docutils import nodes
from sphinx.search import js_index


def test_what_eval_rst_parsed_belongs_to_the_page():
    """MyST parses it into a document whose settings hold Sphinx's environment; its nodes go into the page."""
    page = nodes.document(SimpleNamespace(), None)
    inner = nodes.document(SimpleNamespace(env="the whole environment"), None)
    inner += nodes.section()
    inner[0] += nodes.paragraph("", "An entry.")
    page.extend(inner.children)
    assert b"environment" in pickle.dumps(page)
    book_extension.let_go_of_the_rest(None, page)
    assert b"environment" not in pickle.dumps(page)
    assert page.astext() == "An entry."


@pytest.fixture
def app(tmp_path):
    """The second build of three pages, of which it wrote one and lost one; the first left its index."""
    entries = {"elbo": [[0, "a-1", False], [1, "b-1", True]], "kl": [[0, "a-2", False], [2, "c-1", False]]}
    last = {"docnames": ["a", "b", "lost"], "indexentries": entries}
    (tmp_path / "searchindex.js").write_text(f"Search.setIndex({json.dumps(last)})", encoding="utf-8")
    indexer = SimpleNamespace(_index_entries={"b": [("new", "b-2", "")]})
    builder = SimpleNamespace(indexer=indexer, indexer_format=js_index, searchindex_filename="searchindex.js")
    return SimpleNamespace(builder=builder, outdir=str(tmp_path), env=SimpleNamespace(found_docs={"a", "b"}))


def test_the_search_keeps_the_index_entries_of_a_page_that_was_not_written(app):
    assert book_extension.keep_other_words(app) == []
    assert app.builder.indexer._index_entries == {
        "a": [("elbo", "a-1", ""), ("kl", "a-2", "")],
        "b": [("new", "b-2", "")],
    }


def test_the_first_build_has_no_index_to_keep(app, tmp_path):
    (tmp_path / "searchindex.js").unlink()
    book_extension.keep_other_words(app)
    assert app.builder.indexer._index_entries == {"b": [("new", "b-2", "")]}


def test_a_wheel_is_fresh_until_what_it_was_made_of_changes(tmp_path):
    wheels, package = tmp_path / "wheels", tmp_path / "package"
    module, cached = package / "module.py", package / "__pycache__" / "module.pyc"
    for path, time in ((module, 10), (cached, 90), (package, 10), (wheels / "a-1.whl", 20)):
        if path.suffix:
            path.parent.mkdir(exist_ok=True)
            path.touch()
        os.utime(path, (time, time))
    os.utime(package, (10, 10))

    def fresh():
        return book_extension.is_fresh(wheels, [package, *package.rglob("*")])

    assert fresh()
    for path in (module, package):  # written anew; something deleted
        os.utime(path, (30, 30))
        assert not fresh()
        os.utime(path, (10, 10))
    (wheels / "a-2.whl").touch()  # an old version's beside the new one's
    assert not fresh()
