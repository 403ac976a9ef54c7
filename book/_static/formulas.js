// Typesets the formulas, all of them and before the page is first shown: nothing moves under a reader who follows a link
// to an anchor. Then, and whenever the layout changes, looks for boxes that are too narrow for what they hold.
(() => {
  const ZH = document.documentElement.lang.startsWith("zh");
  const NAMES = ZH
    ? { formula: "公式，可左右滚动", table: "表格，可左右滚动", code: "代码，可左右滚动" }
    : { formula: "Formula, scrolls sideways", table: "Table, scrolls sideways", code: "Code, scrolls sideways" };

  // Sphinx writes \(…\) or \[…\] as text, beside the equation's number.
  function typeset(place) {
    const texts = [...place.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE);
    const tex = texts.map((node) => node.data).join("").trim().replace(/^\\[([]|\\[)\]]$/g, "");
    const formula = document.createElement("span");
    formula.className = "formula";
    try {
      katex.render(tex, formula, { displayMode: place.tagName === "DIV" });
    } catch (error) {
      return console.error(`${error.message} in ${tex}`); // the reader sees what was typed; a test fails
    }
    texts.forEach((node) => node.remove());
    place.append(formula);
  }

  // Who reads with keys must be able to reach a box that scrolls, and hear what it is. Nothing else is a tab stop. The
  // classes draw a fading edge where it goes on (book.css).
  function watch(box, name) {
    const more = box.scrollWidth > box.clientWidth + 1;
    box.classList.toggle("scrolls", more);
    if (more) {
      box.tabIndex = 0;
      box.setAttribute("role", "group");
      box.setAttribute("aria-label", name);
      box.onscroll = () => hint(box);
    } else if (box.getAttribute("aria-label") === name) {
      for (const attribute of ["tabindex", "role", "aria-label"]) box.removeAttribute(attribute);
    }
    hint(box);
  }

  function hint(box) {
    const left = box.scrollWidth - box.clientWidth - box.scrollLeft;
    box.classList.toggle("more-left", box.scrollLeft > 1);
    box.classList.toggle("more-right", left > 1);
  }

  // KaTeX breaks an inline formula at its relations and sums. A piece wider than the column gets a box that scrolls.
  function isWide(formula) {
    if (formula.classList.contains("wide")) return formula.scrollWidth > formula.clientWidth + 1;
    const column = formula.closest("p, li, dd, dt, td, th, h1, h2, h3, h4, figcaption") ?? formula.parentElement;
    const end = column.getBoundingClientRect().right + 1;
    return [...formula.querySelectorAll(".katex-base")].some((piece) => piece.getBoundingClientRect().right > end);
  }

  // A display that is a little too wide is set a little smaller; one that is much too wide scrolls.
  function shrink(displays) {
    displays.forEach((display) => (display.style.fontSize = ""));
    const ratios = displays.map((display) => display.clientWidth / display.scrollWidth);
    displays.forEach((display, number) => {
      if (ratios[number] < 1 && ratios[number] > 0.85) display.style.fontSize = `${Math.floor(99 * ratios[number])}%`;
    });
  }

  function fit() {
    shrink([...document.querySelectorAll("div.math > .formula")]);
    const inline = [...document.querySelectorAll("span.math > .formula")];
    const wide = inline.map(isWide); // all reading before any writing: one layout, not hundreds
    inline.forEach((formula, number) => formula.classList.toggle("wide", wide[number]));
    inline.filter((_, number) => wide[number]).forEach((formula) => watch(formula, NAMES.formula));
    const boxes = { formula: "div.math > .formula", table: ".pst-scrollable-table-container", code: ".bd-article pre" };
    for (const [kind, selector] of Object.entries(boxes)) {
      document.querySelectorAll(selector).forEach((box) => watch(box, NAMES[kind]));
    }
  }

  if (window.katex) document.querySelectorAll(".math:not(pre *)").forEach(typeset);
  const article = document.querySelector(".bd-article");
  if (article) new ResizeObserver(() => requestAnimationFrame(fit)).observe(article);
  // That is: at a new width, when a solution is opened, when a font has arrived.
})();
