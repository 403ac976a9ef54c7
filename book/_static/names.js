// Names for what the theme leaves unnamed, or names otherwise than it looks: found by axe, held by tests/test_pages.py.
(() => {
  const all = (selector) => document.querySelectorAll(selector);
  all(".search-button-field").forEach((button) => button.removeAttribute("aria-label")); // it reads "Search Ctrl+K"
  all(".theme-switch-button").forEach((button) => (button.ariaLabel = "Color mode: Light, Dark, System Settings"));
  all(".bd-links summary").forEach((arrow) => {
    arrow.ariaLabel = `Pages under ${arrow.parentElement.parentElement.querySelector("a").textContent.trim()}`;
  });
  if (!document.documentElement.lang.startsWith("zh")) {
    all(".bd-links a, .prev-next-area a").forEach((link) => /[\u3400-\u9fff]/.test(link.textContent) && (link.lang = "zh-Hans"));
  }
})();
