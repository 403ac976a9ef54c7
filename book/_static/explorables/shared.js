// What the explorables share: one custom element with sliders, buttons, numbers and a picture, filled in by each of them.
//
//   explorables.define("elbo-gap", {
//     title,                   what it shows, in a few words
//     parameters: {mu: {label, min, max, step, start, format}, ...},
//     presets: [{label, values: {mu: 0, ...}, colour}, ...],
//     state(parameters),       every number that is shown, from all parameters: a pure function
//     numbers: [{label, value: (state) => text, colour}, "+", ...],   a label may be a function of the state too
//     describe(state),         the picture in one sentence, for those who do not see it
//     draw(view),              makes the picture; gives a function of (state, parameters) that moves it
//   });
//
// A view is {picture, width, set}: a D3 selection of the box to draw in, its width in pixels, and a function that takes new
// parameters from the picture. The page's own content of the element is shown without JavaScript and on paper.
window.explorables = (() => {
  "use strict";

  const STYLE = `
    :host { display: block; margin: 1.5rem 0; container-type: inline-size; }
    slot { display: none; }
    .live {
      --text: var(--pst-color-text-base, #222);
      --muted: var(--pst-color-text-muted, #48566b);
      --line: var(--pst-color-border, #c9c9c9);
      --back: var(--pst-color-background, #fff);
      --soft: var(--pst-color-surface, #f3f4f5);
      --focus: var(--pst-color-primary, #0a7d91);
      --blue: #0072b2; --orange: #c25400; --green: #007d5b; --purple: #a6407e; --grey: #6b6b6b;
      border: 1px solid var(--line); border-radius: 0.5rem; padding: 0.9rem 1rem 1rem;
      background: var(--back); color: var(--text); font-size: 0.95rem; line-height: 1.35;
    }
    .live.dark { --blue: #56b4e9; --orange: #f2935a; --green: #35c79b; --purple: #e39cc8; --grey: #a6a6a6; }
    .title { margin: 0 0 0.6rem; font-weight: 600; }
    .picture { position: relative; width: 100%; }
    svg { display: block; width: 100%; overflow: visible; }
    svg text { fill: var(--text); font-family: inherit; font-size: 13px; }
    svg text.muted { fill: var(--muted); }
    .axis path, .axis line { stroke: var(--line); }
    .axis text { font-size: 12px; fill: var(--muted); }
    .numbers { display: flex; flex-wrap: wrap; align-items: flex-end; gap: 0.35rem 0.55rem; margin: 0.7rem 0 0.2rem; }
    .numbers:not(:has(i)) { column-gap: 1.5rem; }
    .key { display: flex; flex-wrap: wrap; gap: 0.1rem 1.3rem; padding-left: 0.5rem; }
    .key span { display: inline-flex; align-items: center; gap: 0.45rem; font-size: 0.9rem; }
    .key svg { width: 22px; flex: none; }
    .number { display: flex; flex-direction: column; min-width: 3.9rem; }
    .number span { color: var(--muted); font-size: 0.85rem; }
    .number b { font-variant-numeric: tabular-nums; font-size: 1.2rem; font-weight: 600; white-space: nowrap; }
    .numbers i { font-style: normal; font-size: 1.2rem; }
    .controls { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr)); gap: 0.5rem 1.6rem; margin-top: 0.8rem; }
    .control { display: grid; grid-template-columns: 1fr auto; }
    .control output { font-variant-numeric: tabular-nums; }
    .control input { grid-column: 1 / -1; width: 100%; height: 1.75rem; margin: 0; accent-color: var(--colour, var(--focus)); cursor: pointer; }
    .buttons { display: flex; flex-wrap: wrap; align-items: center; gap: 0.5rem; margin-top: 0.8rem; }
    .buttons > span { color: var(--muted); }
    button i { display: inline-block; width: 0.7rem; height: 0.7rem; border-radius: 50%; margin-right: 0.4rem; }
    button { font: inherit; color: var(--text); background: var(--soft); border: 1px solid var(--line); border-radius: 0.4rem; padding: 0.3rem 0.7rem; min-height: 2.2rem; cursor: pointer; }
    button:hover { border-color: var(--focus); }
    :focus-visible { outline: 2px solid var(--focus); outline-offset: 2px; }
    .handle { cursor: grab; touch-action: none; }
    .unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
    @media print { .live { display: none; } slot { display: block; } }
  `;

  const data = {};
  const elements = {};

  // --- Numbers as they are written ---------------------------------------------------------------------------------

  const format = (digits) => (value) => {
    const text = Math.abs(value) < 0.5 * 10 ** -digits ? (0).toFixed(digits) : value.toFixed(digits);
    return text.replace("-", "\u2212");
  };

  // --- Densities ---------------------------------------------------------------------------------------------------

  const LOG_2PI = Math.log(2 * Math.PI);
  const logNormal = (z, mu, sigma) => -0.5 * (LOG_2PI + ((z - mu) / sigma) ** 2) - Math.log(sigma);
  const normal = (z, mu, sigma) => Math.exp(logNormal(z, mu, sigma));
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const equallySpaced = (low, high, number) => d3.range(number).map((i) => low + ((high - low) * i) / (number - 1));

  // --- Pictures ----------------------------------------------------------------------------------------------------

  let numberOfIds = 0;
  const newId = () => `explorable-${(numberOfIds += 1)}`;

  // An SVG of this size, with a group inside its margins and that group's width and height.
  function panel(view, height, margin = {}) {
    const { top = 8, right = 8, bottom = 36, left = 8 } = margin;
    const svg = view.picture.append("svg").attr("viewBox", `0 0 ${view.width} ${height}`).attr("height", height);
    svg.attr("aria-hidden", "true"); // the picture as a whole is described in words
    const inside = { width: view.width - left - right, height: height - top - bottom };
    const clip = newId();
    svg.append("clipPath").attr("id", clip).append("rect").attr("width", inside.width).attr("height", inside.height);
    const group = svg.append("g").attr("transform", `translate(${left}, ${top})`);
    return { ...inside, svg, group, clip: `url(#${clip})` };
  }

  function axisBelow(area, scale, name, ticks) {
    const axis = d3.axisBottom(scale).ticks(ticks ?? Math.max(3, area.width / 70)).tickSizeOuter(0);
    const group = area.group.append("g").attr("class", "axis").attr("transform", `translate(0, ${area.height})`).call(axis);
    group.append("text").attr("x", area.width).attr("y", 32).attr("text-anchor", "end").text(name);
    return group;
  }

  // A pattern of stripes in this colour, so that colour is not the only difference.
  function stripes(area, colour) {
    const id = newId();
    const pattern = area.svg.append("pattern").attr("id", id).attr("width", 7).attr("height", 7);
    pattern.attr("patternUnits", "userSpaceOnUse").attr("patternTransform", "rotate(45)");
    pattern.append("rect").attr("width", 7).attr("height", 7).style("fill", colour).style("opacity", 0.35);
    pattern.append("rect").attr("width", 3).attr("height", 7).style("fill", colour);
    return `url(#${id})`;
  }

  // What the lines of a legend begin with: {text, colour, dash, fill}, fill the opacity of an area.
  function swatches(rows) {
    const area = rows.filter((d) => d.fill).append("rect").attr("y", -5).attr("width", 22).attr("height", 10);
    area.style("fill", (d) => d.colour).style("fill-opacity", (d) => d.fill);
    const line = rows.append("line").attr("x2", 22).attr("stroke-dasharray", (d) => d.dash ?? null);
    line.style("stroke", (d) => d.colour).style("stroke-width", 2.5);
  }

  // A legend inside a panel, line by line from its top left corner.
  function legend(area, entries, { x = 6, y = 10 } = {}) {
    const rows = area.group.append("g").selectAll("g").data(entries).join("g");
    rows.attr("transform", (_, row) => `translate(${x}, ${y + 19 * row})`).call(swatches);
    rows.append("text").attr("x", 29).attr("dy", "0.33em").text((d) => d.text);
  }

  // A legend above what is drawn next, as wide as the picture.
  function key(view, entries) {
    const rows = view.picture.append("div").attr("class", "key").attr("aria-hidden", "true").selectAll("span").data(entries).join("span");
    rows.append("svg").attr("viewBox", "0 -6 22 12").attr("height", 12).append("g").call(swatches);
    rows.append("span").text((d) => d.text);
  }

  // --- The element -------------------------------------------------------------------------------------------------

  function isDark() {
    const theme = document.documentElement.dataset.theme;
    return theme ? theme === "dark" : window.matchMedia("(prefers-color-scheme: dark)").matches;
  }

  const calm = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches;

  function define(tag, spec) {
    const starts = Object.fromEntries(Object.entries(spec.parameters).map(([name, p]) => [name, p.start]));
    const pure = (parameters = {}) => spec.state({ ...starts, ...parameters });
    elements[tag] = { state: pure, parameters: spec.parameters };

    class Explorable extends HTMLElement {
      parameters = { ...starts };

      // The numbers for any parameters; those that are left out stand as they are now.
      state(parameters = {}) {
        return spec.state({ ...this.parameters, ...parameters });
      }

      set(values) {
        for (const [name, value] of Object.entries(values)) {
          const { min, max } = spec.parameters[name];
          this.parameters[name] = Math.min(max, Math.max(min, value));
        }
        this.wish();
      }

      connectedCallback() {
        if (this.shadowRoot) return;
        for (const name of Object.keys(starts)) {
          if (this.hasAttribute(name)) this.parameters[name] = Number(this.getAttribute(name));
        }
        const [style, live, slot] = ["style", "div", "slot"].map((name) => document.createElement(name));
        style.textContent = STYLE + (spec.style ?? "");
        this.attachShadow({ mode: "open" }).append(style, live, slot);
        this.live = d3.select(live).attr("class", "live").attr("role", "group").attr("aria-label", spec.title);
        this.live.append("p").attr("class", "title").text(spec.title);
        this.picture = this.live.append("div").attr("class", "picture").attr("role", "img");
        this.addNumbers();
        this.addControls();
        this.addButtons();
        this.words = this.live.append("p").attr("class", "unseen").attr("aria-live", "polite");
        this.followTheme();
        new ResizeObserver(() => this.fit()).observe(this.picture.node());
        this.fit();
      }

      addNumbers() {
        const entries = this.live.append("div").attr("class", "numbers").selectAll("*").data(spec.numbers);
        this.numbers = entries.join((enter) => enter.append((d) => document.createElement(typeof d === "string" ? "i" : "div")));
        this.numbers.filter((d) => typeof d === "string").text((d) => d);
        this.numbers = this.numbers.filter((d) => typeof d !== "string").attr("class", "number");
        this.numbers.append("span");
        this.numbers.append("b").style("color", (d) => d.colour ?? null);
      }

      addControls() {
        const names = Object.keys(spec.parameters).filter((name) => !spec.parameters[name].hidden);
        const controls = this.live.append("div").attr("class", "controls").selectAll("div").data(names).join("div");
        controls.attr("class", "control").style("--colour", (name) => spec.parameters[name].colour ?? null);
        controls.append("label").attr("for", (name) => name).text((name) => spec.parameters[name].label);
        controls.append("output").attr("for", (name) => name).attr("aria-live", "off");
        const inputs = controls.append("input").attr("type", "range").attr("id", (name) => name);
        for (const key of ["min", "max", "step"]) inputs.attr(key, (name) => spec.parameters[name][key]);
        inputs.on("input", (event, name) => {
          this.stop();
          this.set({ [name]: event.target.valueAsNumber });
        });
        this.controls = controls;
      }

      addButtons() {
        const presets = spec.presets ?? [];
        if (presets.length === 0) return;
        const row = this.live.append("div").attr("class", "buttons");
        if (spec.presetsLabel) row.append("span").text(spec.presetsLabel);
        const buttons = row.selectAll("button").data(presets).join("button").attr("type", "button");
        buttons.filter((d) => d.colour).append("i").style("background", (d) => d.colour);
        buttons.append("span").text((d) => d.label);
        buttons.on("click", (_, preset) => this.glide(preset.values));
      }

      // To new parameters in half a second, or at once for those who want no motion.
      glide(values) {
        this.stop();
        if (calm()) return this.set(values);
        const between = d3.interpolateObject({ ...this.parameters }, { ...this.parameters, ...values });
        this.motion = d3.timer((elapsed) => {
          const t = Math.min(1, elapsed / 600);
          this.set(t < 1 ? { ...between(d3.easeCubicInOut(t)) } : values);
          if (t === 1) this.stop();
        });
      }

      stop() {
        this.motion?.stop();
        this.motion = null;
      }

      followTheme() {
        const follow = () => this.live.classed("dark", isDark());
        new MutationObserver(follow).observe(document.documentElement, { attributeFilter: ["data-theme"] });
        window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", follow);
        follow();
      }

      // A new picture whenever the width has changed.
      fit() {
        const width = Math.floor(this.picture.node().clientWidth);
        if (width < 50 || width === this.width) return;
        this.width = width;
        this.picture.selectAll("*").remove();
        const set = (values) => {
          this.stop();
          this.set(values);
        };
        this.move = spec.draw({ picture: this.picture, width, set });
        this.update();
      }

      // Many wishes between two frames are one update.
      wish() {
        this.frame ??= requestAnimationFrame(() => this.update());
      }

      update() {
        this.frame = null;
        const state = this.state();
        this.controls.select("output").text((name) => spec.parameters[name].format(this.parameters[name], state));
        this.controls.select("input").property("value", (name) => this.parameters[name]);
        this.controls.select("input").attr("aria-valuetext", (name) => spec.parameters[name].format(this.parameters[name], state));
        this.numbers.select("b").text((d) => d.value(state));
        this.numbers.select("span").text((d) => (typeof d.label === "string" ? d.label : d.label(state)));
        this.move?.(state, this.parameters);
        const words = spec.describe(state);
        this.picture.attr("aria-label", words);
        clearTimeout(this.saying);
        if (this.said) this.saying = setTimeout(() => this.words.text(words), 700);
        this.said = true; // nothing is said before the reader moves something
      }
    }
    customElements.define(tag, Explorable);
  }

  return {
    data, elements, define, format, logNormal, normal, sum, equallySpaced, LOG_2PI, panel, axisBelow, stripes, legend, key, newId,
  };
})();
