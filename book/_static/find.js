// A search ends at the word. The links of the search page carry the query, as Sphinx's own ?highlight= does; a page that
// is opened with one marks its words and shows the place where most of them stand together, opening what is folded over it.
// Sphinx's own script would mark the words and stay at the top; and this theme loads the search on every page, by which
// Sphinx knows the search page, and so marks nothing. The query travels in the address because pages opened from the disk
// do not share a store in every browser.
(() => {
  const WORD = /[\p{L}\p{N}_]+/gu; // as Sphinx splits text
  const BLOCK = "p, li, dt, dd, h1, h2, h3, h4, th, td, pre, figcaption, caption, summary";
  const NOT_READ = ".math, .headerlink, button, script, style";
  const SYMBOLS = { alpha: "α", beta: "β", epsilon: "ε", theta: "θ", lambda: "λ", mu: "μ", phi: "φ", sigma: "σ", mid: "|" };

  function wordsOf(query) {
    const words = query.toLowerCase().match(WORD) ?? [];
    return words.filter((word) => !stopwords.includes(word) && !/^\d+$/.test(word)); // as Sphinx does
  }

  // Where the words stand. A whole word in any of its forms counts, as in the index; a part of a word only if that is all.
  function hitsOf(root, words) {
    const stemmer = new Stemmer();
    const stems = words.map((word) => stemmer.stemWord(word));
    const whole = words.map(() => []);
    const parts = words.map(() => []);
    const walker = root.ownerDocument.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const node = walker.currentNode;
      if (node.parentElement.closest(NOT_READ)) continue;
      for (const match of node.data.toLowerCase().matchAll(WORD)) {
        const stem = stemmer.stemWord(match[0]);
        words.forEach((word, index) => {
          const at = match[0].indexOf(word);
          if (stem === stems[index]) whole[index].push({ node, word, start: match.index, length: match[0].length });
          else if (at >= 0) parts[index].push({ node, word, start: match.index + at, length: word.length });
        });
      }
    }
    return words.flatMap((_, index) => (whole[index].length ? whole[index] : parts[index]));
  }

  // The first block of text with the most of the words, and in it the first hit.
  function firstOf(hits, target) {
    const section = target?.closest("section");
    const after = Node.DOCUMENT_POSITION_FOLLOWING;
    const inSection = ({ node }) => section.contains(node) && target.compareDocumentPosition(node) & after;
    const blocks = new Map();
    for (const hit of section ? hits.filter(inSection) : hits) {
      const block = hit.node.parentElement.closest(BLOCK) ?? hit.node.parentElement;
      blocks.set(block, [...(blocks.get(block) ?? []), hit]);
    }
    const order = (a, b) => (a.compareDocumentPosition(b) & after ? -1 : 1);
    const count = (block) => new Set(blocks.get(block).map((hit) => hit.word)).size;
    const best = [...blocks.keys()].sort(order).sort((a, b) => count(b) - count(a))[0];
    return best && blocks.get(best).sort((a, b) => (a.node === b.node ? a.start - b.start : order(a.node, b.node)))[0];
  }

  function mark({ node, start, length }) {
    const range = document.createRange();
    range.setStart(node, start);
    range.setEnd(node, start + length);
    const span = document.createElement("span");
    span.className = "highlighted"; // Sphinx takes it off again when Escape is pressed
    range.surroundContents(span);
    return span;
  }

  function unfold(element) {
    for (let outer = element; outer; outer = outer.parentElement) {
      if (outer.matches("details")) outer.open = true;
      if (outer.matches(".toggle-hidden")) outer.querySelector(".toggle-button").click();
    }
  }

  function showTheWords(query) {
    const hits = hitsOf(document.querySelector("article"), wordsOf(query));
    const first = firstOf(hits, document.getElementById(decodeURIComponent(location.hash.slice(1))));
    let shown = null;
    // From the end, because a mark cuts its text in two; the same place twice would be two words of one stem.
    hits.sort((a, b) => b.start - a.start);
    const marked = new Map();
    for (const hit of hits) {
      if (hit.start + hit.length > (marked.get(hit.node) ?? Infinity)) continue;
      marked.set(hit.node, hit.start);
      const span = mark(hit);
      if (hit.node === first?.node && hit.start === first.start) shown = span;
    }
    if (!shown) return;
    unfold(shown);
    if (performance.getEntriesByType("navigation")[0]?.type !== "navigate") return; // the browser restores the old place
    let moved = false;
    const show = () => moved || shown.scrollIntoView({ block: "center", behavior: "instant" });
    for (const event of ["wheel", "touchmove", "keydown", "pointerdown"])
      window.addEventListener(event, () => (moved = true), { once: true, passive: true });
    show();
    // Fonts and pictures that arrive later move the text.
    window.addEventListener("load", () => requestAnimationFrame(show));
  }

  // ---- the search page

  // A formula of a result in plain letters, or, if it is too long for that, three dots.
  function plain(tex) {
    const text = tex.replace(/^\s*\\[([]|\\[)\]]\s*$/g, "").replace(/\\([a-z]+) ?/g, (all, name) => SYMBOLS[name] ?? all);
    return /[\\{}^]/.test(text) || text.length > 20 ? "…" : text;
  }

  function summary(html, query, anchor) {
    const page = new DOMParser().parseFromString(html, "text/html");
    page.querySelectorAll(".headerlink").forEach((link) => link.remove());
    page.querySelectorAll(".math").forEach((formula) => (formula.textContent = plain(formula.textContent)));
    const article = page.querySelector("article") ?? page.body;
    const hit = firstOf(hitsOf(article, wordsOf(query)), page.getElementById(anchor.slice(1)));
    const block = hit ? hit.node.parentElement.closest(BLOCK) ?? hit.node.parentElement : article.querySelector("p");
    const text = (block?.textContent ?? "").replace(/\s+/g, " ").trim();
    const at = Math.max(0, text.toLowerCase().indexOf(hit?.word ?? "") - 120);
    const paragraph = document.createElement("p");
    paragraph.className = "context";
    paragraph.textContent = (at ? "…" : "") + text.slice(at, at + 240) + (at + 240 < text.length ? "…" : "");
    return paragraph;
  }

  function tidyTheResults(results, query) {
    const fromDisk = location.protocol === "file:"; // where a page may not read another one
    DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = !fromDisk;
    Search.makeSearchSummary = (html, _, anchor) => summary(html, query, anchor);
    new MutationObserver(() => {
      for (const link of results.querySelectorAll("li > a")) link.search = new URLSearchParams({ highlight: query });
    }).observe(results, { childList: true, subtree: true });
  }

  document.addEventListener("DOMContentLoaded", () => {
    const address = new URLSearchParams(location.search);
    const results = document.getElementById("search-results");
    if (results) tidyTheResults(results, address.get("q") ?? "");
    else if (address.get("highlight")) showTheWords(address.get("highlight"));
  });
})();
