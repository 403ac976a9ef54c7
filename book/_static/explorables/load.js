// Loads what the explorables of a page need: D3, the shared helpers, the data, the elements. A page without one loads
// nothing more than this file. Plain scripts, and data that calls a function, because a browser that opens a page from
// the disk refuses modules and JSON.
(() => {
  const DATA = {
    "elbo-gap": ["ability"],
    "information-misfit": [],
    "kl-directions": ["two_modes"],
    "latent-plane": ["codes", "decoder"],
    "mean-field": [],
    "noisy-gradients": ["ability", "noise"],
  };
  const folder = document.currentScript.src;

  function load() {
    const tags = Object.keys(DATA).filter((tag) => document.querySelector(tag));
    if (tags.length === 0) return;
    const data = new Set(tags.flatMap((tag) => DATA[tag]));
    const files = ["vendor/d3.min", "shared", ...[...data].map((name) => `data/${name}`), ...tags];
    for (const file of files) {
      const script = document.createElement("script");
      script.src = new URL(`${file}.js`, folder).href;
      script.async = false; // one after the other, as listed
      document.head.append(script);
    }
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", load);
  else load();
})();
