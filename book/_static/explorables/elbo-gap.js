// The gap between the ELBO and the log-evidence: student 1 of the ability model, and a Gaussian q to move.
(() => {
  "use strict";
  const { data, define, format, logNormal, normal, sum, equallySpaced, panel, axisBelow, stripes, legend, LOG_2PI } = explorables;
  const { weight, bias, log_var: logVar, x } = data.ability; // one entry for each exam
  const precision = 1 + sum(weight.map((w, d) => w ** 2 / Math.exp(logVar[d]))); // of the posterior
  const m = sum(weight.map((w, d) => (w * (x[d] - bias[d])) / Math.exp(logVar[d]))) / precision;
  const s = Math.sqrt(1 / precision);

  const logPrior = (z) => logNormal(z, 0, 1);
  const logLikelihood = (z) => sum(x.map((value, d) => logNormal(value, weight[d] * z + bias[d], Math.exp(0.5 * logVar[d]))));
  const logJoint = (z) => logPrior(z) + logLikelihood(z);

  // Three formulas: the evidence by Bayes' rule, the ELBO without the posterior's mean, the KL without the data.
  function state({ mu, log_sigma }) {
    const sigma = Math.exp(log_sigma);
    const entropy = 0.5 * (LOG_2PI + 1) + log_sigma;
    return {
      mu,
      sigma,
      posterior_mean: m,
      posterior_sigma: s,
      log_p: logJoint(0) - logNormal(0, m, s),
      elbo: logJoint(mu) - 0.5 * sigma ** 2 * precision + entropy,
      kl: Math.log(s) - log_sigma + 0.5 * ((sigma / s) ** 2 + ((mu - m) / s) ** 2 - 1),
    };
  }

  const FLOOR = -46; // nats at the left edge of the bar
  const two = format(2);

  function draw(view) {
    const area = panel(view, Math.min(280, 150 + view.width / 5));
    const z = d3.scaleLinear([-3, 4.5], [0, area.width]);
    const y = d3.scaleLinear([0, 2], [area.height, 0]);
    const points = equallySpaced(-3, 4.5, 301);
    const line = (density) => d3.line((v) => z(v), (v) => y(density(v)))(points);
    const shape = (density) => d3.area((v) => z(v), area.height, (v) => y(density(v)))(points);
    axisBelow(area, z, "z, the student\u2019s ability");
    const curves = area.group.append("g").attr("clip-path", area.clip).style("fill", "none").style("stroke-width", 2.5);
    const posterior = (v) => normal(v, m, s);
    const narrow = Math.sqrt(1 / (precision - 1)); // the likelihood as a function of z is a Gaussian too
    const likelihood = (v) => normal(v, m * precision * narrow ** 2, narrow);
    curves.append("path").attr("d", shape(posterior)).style("fill", "var(--grey)").style("opacity", 0.3);
    curves.append("path").attr("d", line((v) => normal(v, 0, 1))).style("stroke", "var(--grey)").attr("stroke-dasharray", "7 4");
    curves.append("path").attr("d", line(likelihood)).style("stroke", "var(--grey)").attr("stroke-dasharray", "2 4");
    curves.append("path").attr("d", line(posterior)).style("stroke", "var(--grey)").style("stroke-width", 1.5);
    const q = curves.append("path").style("stroke", "var(--blue)");
    legend(area, [
      { text: "prior", colour: "var(--grey)", dash: "7 4" },
      { text: "likelihood, rescaled", colour: "var(--grey)", dash: "2 4" },
      { text: "posterior", colour: "var(--grey)", fill: 0.3 },
      { text: "q", colour: "var(--blue)" },
    ]);

    const bar = panel(view, 104, { top: 28 });
    const nats = d3.scaleLinear([FLOOR, -18], [0, bar.width]);
    axisBelow(bar, nats, "nats");
    const evidence = nats(state({ mu: 0, log_sigma: 0 }).log_p);
    const elbo = bar.group.append("rect").attr("class", "elbo").attr("height", bar.height).style("fill", "var(--blue)");
    const kl = bar.group.append("rect").attr("class", "kl").attr("height", bar.height).style("fill", stripes(bar, "var(--orange)"));
    bar.group.append("line").attr("x1", evidence).attr("x2", evidence).attr("y1", -8).attr("y2", bar.height + 6)
      .style("stroke", "var(--text)").style("stroke-width", 2.5);
    bar.group.append("text").attr("x", evidence).attr("y", -13).attr("text-anchor", "middle").text("log p(x)");
    const names = ["ELBO", "KL"].map((name) => bar.group.append("text").attr("y", -13).attr("text-anchor", "middle").text(name));

    const off = bar.group.append("text").attr("x", 4).attr("y", -13).text("\u25c2 ELBO, off the scale");

    return (now) => {
      q.attr("d", line((v) => normal(v, now.mu, now.sigma)));
      const end = Math.max(0, nats(now.elbo));
      elbo.attr("width", end);
      kl.attr("x", end).attr("width", Math.max(0, evidence - end));
      names[0].attr("x", end / 2).style("display", end > 45 ? null : "none");
      names[1].attr("x", (end + evidence) / 2 - 12).style("display", evidence - end > 95 && now.elbo >= FLOOR ? null : "none");
      off.style("display", now.elbo < FLOOR ? null : "none");
    };
  }

  define("elbo-gap", {
    title: "Move q: the KL gains what the ELBO loses",
    parameters: {
      mu: { label: "mean of q", min: -2, max: 4, step: 0.01, start: 1, format: two, colour: "var(--blue)" },
      log_sigma: {
        label: "standard deviation of q", min: -1.5, max: 0.7, step: 0.01, start: -0.6, colour: "var(--blue)",
        format: (_, now) => two(now.sigma),
      },
    },
    presetsLabel: "q =",
    presets: [
      { label: "prior", values: { mu: 0, log_sigma: 0 } },
      { label: "rough guess", values: { mu: m + 0.25, log_sigma: Math.log(2 * s) } },
      { label: "posterior", values: { mu: m, log_sigma: Math.log(s) } },
    ],
    numbers: [
      { label: "ELBO", value: (now) => two(now.elbo), colour: "var(--blue)" },
      "+",
      { label: "KL to posterior", value: (now) => two(now.kl), colour: "var(--orange)" },
      "=",
      { label: "log p(x)", value: (now) => two(now.log_p) },
    ],
    describe: (now) =>
      `With q of mean ${two(now.mu)} and standard deviation ${two(now.sigma)}, the ELBO is ${two(now.elbo)} nats and the KL to ` +
      `the posterior ${two(now.kl)}; their sum, the log-evidence, stays ${two(now.log_p)}.`,
    state,
    draw,
  });
})();
