// On paper nothing can be opened: what is folded is printed open, and folded again afterwards.
(() => {
  let opened = [];
  window.addEventListener("beforeprint", () => {
    const closed = [...document.querySelectorAll("article details:not([open])")];
    const hidden = [...document.querySelectorAll("article .toggle-hidden .toggle-button")];
    closed.forEach((details) => (details.open = true));
    hidden.forEach((button) => button.click());
    document.querySelectorAll("img[loading=lazy]").forEach((image) => (image.loading = "eager"));
    opened = [...closed.map((details) => () => (details.open = false)), ...hidden.map((button) => () => button.click())];
  });
  window.addEventListener("afterprint", () => {
    opened.forEach((close) => close());
    opened = [];
  });
})();
