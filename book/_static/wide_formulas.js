// MathJax 3 does not break an inline formula across lines. One that sticks out of its column, on a telephone say, gets a
// box of its own that scrolls, as displayed equations have.
function rightEnd(element) {
  const box = element.getBoundingClientRect();
  return box.left + Math.max(box.width, element.scrollWidth);
}

function boxWideFormulas() {
  const formulas = [...document.querySelectorAll("mjx-container:not([display])")];
  formulas.forEach((formula) => formula.classList.remove("wide-formula"));
  const wide = formulas.filter((formula) => {
    const column = formula.closest("p, li, dd, dt, td, th, h1, h2, h3, h4, figcaption") ?? formula.parentElement;
    const end = Math.max(...[formula, ...formula.querySelectorAll("*")].map(rightEnd));
    return end > column.getBoundingClientRect().right + 4;
  });
  wide.forEach((formula) => formula.classList.add("wide-formula"));
}

window.addEventListener("load", () => {
  window.MathJax?.startup?.promise.then(boxWideFormulas);
  window.addEventListener("resize", boxWideFormulas);
  document.addEventListener("click", () => requestAnimationFrame(boxWideFormulas)); // a solution that was opened
});
