// Three estimators of one gradient, on the same noise: score function, score function with a baseline, pathwise.
(() => {
  "use strict";
  const { data, define, format, logNormal, sum, panel, axisBelow } = explorables;
  const { weight, bias, log_var: logVar, x } = data.ability; // one entry for each exam
  const { eps } = data.noise;
  const precision = 1 + sum(weight.map((w, d) => w ** 2 / Math.exp(logVar[d]))); // of the posterior
  const m = sum(weight.map((w, d) => (w * (x[d] - bias[d])) / Math.exp(logVar[d]))) / precision;
  const s = Math.sqrt(1 / precision);

  function logJoint(z) {
    return logNormal(z, 0, 1) + sum(x.map((value, d) => logNormal(value, weight[d] * z + bias[d], Math.exp(0.5 * logVar[d]))));
  }

  // The derivatives of the ELBO in q's mean, each an average over `samples` of the fixed noise.
  function estimates({ rough, offset, log2_samples }) {
    const samples = 2 ** log2_samples;
    const mu = m + 0.25 * rough;
    const sigma = s * 2 ** rough;
    const drawn = eps.map((noise) => {
      const z = mu + sigma * noise;
      return { score: noise / sigma, logW: logJoint(z) - logNormal(z, mu, sigma) + offset, slope: (m - z) * precision };
    });
    const groups = d3.range(eps.length / samples).map((i) => drawn.slice(i * samples, (i + 1) * samples));
    const mean = (group, f) => sum(group.map(f)) / samples;
    return {
      score: groups.map((group) => mean(group, (d) => d.score * d.logW)),
      baseline: groups.map((group) => {
        const total = sum(group.map((d) => d.logW));
        return mean(group, (d) => d.score * (d.logW - (total - d.logW) / (samples - 1))); // leave one out
      }),
      path: groups.map((group) => mean(group, (d) => d.slope)),
    };
  }

  function state(parameters) {
    const found = estimates(parameters);
    const [score, baseline, path] = [found.score, found.baseline, found.path].map((values) => d3.deviation(values));
    return {
      mu: m + 0.25 * parameters.rough,
      sigma: s * 2 ** parameters.rough,
      offset: parameters.offset,
      samples: 2 ** parameters.log2_samples,
      gradient: -0.25 * parameters.rough * precision,
      means: [found.score, found.baseline, found.path].map((values) => d3.mean(values)),
      score_deviation: score,
      baseline_deviation: baseline,
      path_deviation: path,
      score_factor: (score / path) ** 2, // as many times the samples for the same noise
      baseline_factor: (baseline / path) ** 2,
    };
  }

  const ROWS = [
    { name: "score", text: "score function", colour: "var(--orange)" },
    { name: "baseline", text: "with a baseline", colour: "var(--purple)" },
    { name: "path", text: "pathwise", colour: "var(--blue)" },
  ];
  const SCALES = [2, 5, 10, 20, 50, 100, 200, 500];
  const two = format(2);
  const times = (value) => `${format(value < 9.95 ? 1 : 0)(value)}\u00d7 path\u2019s samples`;

  function draw(view) {
    const area = panel(view, 300, { top: 0 });
    const height = area.height / 3;
    const line = 24; // the height of the text above each histogram
    const rows = area.group.selectAll("g.row").data(ROWS).join("g").attr("class", "row");
    rows.attr("transform", (_, i) => `translate(0, ${i * height})`);
    rows.append("line").attr("x2", area.width).attr("y1", height).attr("y2", height).style("stroke", "var(--line)");
    const shapes = rows.append("path").attr("clip-path", area.clip).style("fill", (d) => d.colour).style("fill-opacity", 0.75);
    const words = rows.append("text").attr("x", 2).attr("y", line - 8);
    words.append("tspan").style("font-weight", 600).style("fill", (d) => d.colour).text((d) => d.text);
    const spread = words.append("tspan").attr("dx", 10);
    const truth = area.group.append("line").attr("y1", 0).attr("y2", area.height).style("stroke", "var(--text)").attr("stroke-dasharray", "5 3");
    let below = null;

    return (now, parameters) => {
      const found = estimates(parameters);
      const widest = Math.max(now.score_deviation, now.baseline_deviation, now.path_deviation);
      const reach = SCALES.find((scale) => scale > 2.2 * widest + Math.abs(now.gradient)) ?? SCALES.at(-1);
      const value = d3.scaleLinear([-reach, reach], [0, area.width]);
      const bins = d3.bin().domain([-reach, reach]).thresholds(d3.range(-reach, reach, reach / 60));
      shapes.attr("d", (row) => {
        const counts = bins(found[row.name]);
        const y = d3.scaleLinear([0, d3.max(counts, (bin) => bin.length) || 1], [height, line]);
        const steps = d3.area((bin) => value(bin.x0), height, (bin) => y(bin.length)).curve(d3.curveStepAfter);
        return steps(counts);
      });
      spread.text((row) => `noise ${two(now[`${row.name}_deviation`])}`);
      truth.attr("x1", value(now.gradient)).attr("x2", value(now.gradient));
      below?.remove();
      below = axisBelow(area, value, "estimates of the gradient in q\u2019s mean");
    };
  }

  define("noisy-gradients", {
    title: "Three estimates of one gradient, from the same noise",
    parameters: {
      log2_samples: {
        label: "samples for one estimate", min: 1, max: 6, step: 1, start: 3, format: (_, now) => format(0)(now.samples),
      },
      offset: { label: "a constant added to log w", min: -50, max: 50, step: 1, start: 0, format: format(0) },
      rough: {
        label: "q, from posterior to rough guess", min: 0, max: 1, step: 0.01, start: 1,
        format: (value) => (value === 0 ? "posterior" : value === 1 ? "rough" : two(value)),
      },
    },
    presets: [
      { label: "log w about 0", values: { offset: 22, rough: 1 } },
      { label: "log w far from 0", values: { offset: -50, rough: 1 } },
      { label: "q = posterior", values: { offset: 0, rough: 0 } },
    ],
    numbers: [
      { label: "true gradient, dashed", value: (now) => two(now.gradient) },
      { label: "score function needs", value: (now) => times(now.score_factor), colour: "var(--orange)" },
      { label: "with a baseline", value: (now) => times(now.baseline_factor), colour: "var(--purple)" },
    ],
    describe: (now) =>
      `Around the true gradient ${two(now.gradient)}, estimates from ${now.samples} samples have standard deviation ` +
      `${two(now.score_deviation)} by the score function, ${two(now.baseline_deviation)} with a baseline and ` +
      `${two(now.path_deviation)} by the path.`,
    state,
    draw,
  });
})();
