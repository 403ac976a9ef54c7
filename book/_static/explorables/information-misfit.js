// What the average KL pays for: three posteriors against the prior N(0, 1).
(() => {
  "use strict";
  const { define, format, normal, sum, equallySpaced, panel, axisBelow, stripes, key, LOG_2PI } = explorables;
  const COLOURS = ["var(--blue)", "var(--orange)", "var(--green)"];
  const MARKS = ["x\u2081", "x\u2082", "x\u2083"];
  const POINTS = 3001;

  const read = (p) => [1, 2, 3].map((n) => ({ mu: p[`mu${n}`], sigma: Math.exp(p[`log_sigma${n}`]) }));
  const average = (values) => sum(values) / values.length;
  const aggregated = (posteriors, z) => average(posteriors.map(({ mu, sigma }) => normal(z, mu, sigma)));

  // The integral of q log q by the trapezoidal rule, nine standard deviations beyond the outermost posteriors.
  function negativeEntropy(posteriors, number) {
    const reach = 9 * Math.max(...posteriors.map((q) => q.sigma));
    const low = Math.min(...posteriors.map((q) => q.mu)) - reach;
    const high = Math.max(...posteriors.map((q) => q.mu)) + reach;
    const values = equallySpaced(low, high, number).map((z) => aggregated(posteriors, z));
    return (sum(values.map((q) => (q > 0 ? q * Math.log(q) : 0))) * (high - low)) / (number - 1);
  }

  // Each term by itself, on a grid of its own: that they add up is a check.
  function state(parameters) {
    const posteriors = read(parameters);
    const seconds = average(posteriors.map(({ mu, sigma }) => mu ** 2 + sigma ** 2));
    const entropies = average(posteriors.map(({ sigma }) => 0.5 * (LOG_2PI + 1) + Math.log(sigma)));
    return {
      ...parameters,
      sigmas: posteriors.map((q) => q.sigma),
      mean_kl: average(posteriors.map(({ mu, sigma }) => 0.5 * (mu ** 2 + sigma ** 2 - 1) - Math.log(sigma))),
      information: -entropies - negativeEntropy(posteriors, POINTS),
      misfit: negativeEntropy(posteriors, POINTS + 1) + 0.5 * (LOG_2PI + seconds),
      most_information: Math.log(3),
    };
  }

  const [LOW, HIGH, TOP, CEILING] = [-4.5, 4.5, 0.72, 3];
  const two = format(2);

  function draw(view) {
    key(view, [
      ...MARKS.map((mark, n) => ({ text: mark, colour: COLOURS[n] })),
      { text: "their average q(z)", colour: "var(--text)", fill: 0.15 },
      { text: "prior", colour: "var(--grey)", dash: "7 4" },
    ]);
    const area = panel(view, Math.min(270, 160 + view.width / 6));
    const z = d3.scaleLinear([LOW, HIGH], [0, area.width]);
    const y = d3.scaleLinear([0, TOP], [area.height, 0]);
    const points = equallySpaced(LOW, HIGH, 361);
    const line = (f) => d3.line((v) => z(v), (v) => y(f(v)))(points);
    axisBelow(area, z, "z");
    const curves = area.group.append("g").attr("clip-path", area.clip).style("fill", "none").style("stroke-width", 2.5);
    curves.append("path").attr("d", line((v) => normal(v, 0, 1))).style("stroke", "var(--grey)").attr("stroke-dasharray", "7 4");
    const shade = curves.append("path").style("fill", "var(--text)").style("fill-opacity", 0.15).style("stroke", "var(--text)");
    const parts = curves.selectAll("path.part").data(COLOURS).join("path").attr("class", "part").style("stroke", (d) => d);

    // The peaks can be taken and moved: sideways is the mean, upwards is narrower.
    let posteriors = [];
    const height = (sigma) => 1 / (3 * sigma * Math.sqrt(2 * Math.PI));
    const place = (n) => ({ x: z(posteriors[n].mu), y: y(height(posteriors[n].sigma)) });
    const handles = area.group.selectAll("g.handle").data([0, 1, 2]).join("g").attr("class", "handle");
    handles.append("circle").attr("r", 20).style("fill", "transparent");
    handles.append("circle").attr("r", 7).style("fill", (n) => COLOURS[n]).style("stroke", "var(--back)").style("stroke-width", 2);
    handles.call(
      d3.drag().container(area.group.node()).subject((_, n) => place(n)).on("drag", (event, n) => {
        const sigma = 1 / (3 * Math.max(0.01, y.invert(event.y)) * Math.sqrt(2 * Math.PI));
        view.set({ [`mu${n + 1}`]: z.invert(event.x), [`log_sigma${n + 1}`]: Math.log(sigma) });
      }),
    );

    const bar = panel(view, 100, { top: 26 });
    const nats = d3.scaleLinear([0, CEILING], [0, bar.width]).clamp(true);
    axisBelow(bar, nats, "nats");
    const information = bar.group.append("rect").attr("class", "information").attr("height", bar.height).style("fill", "var(--green)");
    const misfit = bar.group.append("rect").attr("class", "misfit").attr("height", bar.height).style("fill", stripes(bar, "var(--purple)"));
    const most = nats(Math.log(3));
    bar.group.append("line").attr("x1", most).attr("x2", most).attr("y1", -8).attr("y2", bar.height + 6)
      .style("stroke", "var(--text)").style("stroke-width", 2).attr("stroke-dasharray", "3 2");
    bar.group.append("text").attr("x", most).attr("y", -12).attr("text-anchor", "middle").text("log 3, the most information");
    const off = bar.group.append("text").attr("x", bar.width).attr("y", -12).attr("text-anchor", "end").text("off the scale \u25b8");

    return (now, parameters) => {
      posteriors = read(parameters);
      shade.attr("d", d3.area((v) => z(v), area.height, (v) => y(aggregated(posteriors, v)))(points));
      parts.attr("d", (_, n) => line((v) => normal(v, posteriors[n].mu, posteriors[n].sigma) / 3));
      handles.attr("transform", (n) => `translate(${place(n).x}, ${place(n).y})`);
      information.attr("width", nats(Math.max(0, now.information)));
      misfit.attr("x", nats(now.information)).attr("width", Math.max(0, nats(now.mean_kl) - nats(now.information)));
      off.style("display", now.mean_kl > CEILING ? null : "none");
    };
  }

  const sliders = {};
  const starts = [[-1, 0.6], [0.1, 0.5], [1, 0.65]];
  starts.forEach(([mu, sigma], n) => {
    sliders[`mu${n + 1}`] = { label: `${MARKS[n]}: mean`, min: -4, max: 4, step: 0.01, start: mu, format: two, colour: COLOURS[n] };
    sliders[`log_sigma${n + 1}`] = {
      label: `${MARKS[n]}: width`, min: -1.6, max: 0.5, step: 0.01, start: Math.log(sigma), colour: COLOURS[n],
      format: (value) => two(Math.exp(value)),
    };
  });
  const preset = (label, pairs) => ({
    label,
    values: Object.fromEntries(pairs.flatMap(([mu, sigma], n) => [[`mu${n + 1}`, mu], [`log_sigma${n + 1}`, Math.log(sigma)]])),
  });
  define("information-misfit", {
    title: "What the average KL pays for",
    style: `
      .controls { grid-template-columns: repeat(2, 1fr); gap: 0.3rem 1.2rem; }
      @container (min-width: 600px) { .controls { grid: auto auto / auto-flow 1fr; } }
    `,
    parameters: sliders,
    presets: [
      preset("in good order", starts),
      preset("collapsed", [[0, 1], [0, 1], [0, 1]]),
      preset("far apart", [[-2.5, 0.3], [0, 0.3], [2.5, 0.3]]),
      preset("all in one wrong place", [[2, 0.5], [2, 0.5], [2, 0.5]]),
    ],
    numbers: [
      { label: "information", value: (now) => two(now.information), colour: "var(--green)" },
      "+",
      { label: "misfit", value: (now) => two(now.misfit), colour: "var(--purple)" },
      "=",
      { label: "average KL, nats", value: (now) => two(now.mean_kl) },
    ],
    describe: (now) =>
      `Three posteriors with means ${[1, 2, 3].map((n) => two(now[`mu${n}`])).join(", ")} and widths ${now.sigmas.map(two).join(", ")}: ` +
      `information ${two(now.information)} plus misfit ${two(now.misfit)} is the average KL, ${two(now.mean_kl)} nats.`,
    state,
    draw,
  });
})();
