// The two directions of the KL divergence: a target with two modes, and one Gaussian to cover it with.
(() => {
  "use strict";
  const { data, define, format, logNormal, sum, equallySpaced, panel, axisBelow, stripes, key, LOG_2PI } = explorables;
  const { weights, means, sigmas, optima } = data.two_modes;

  function logTarget(z) {
    const parts = weights.map((weight, k) => Math.log(weight) + logNormal(z, means[k], sigmas[k]));
    const largest = Math.max(...parts);
    return largest + Math.log(sum(parts.map((part) => Math.exp(part - largest))));
  }

  // The sum over a fine grid is the integral to rounding, for smooth functions that are negligible at both ends.
  function integral(f, low, high, number = 2001) {
    return (sum(equallySpaced(low, high, number).map(f)) * (high - low)) / (number - 1);
  }

  const mean = sum(weights.map((weight, k) => weight * means[k]));
  const variance = sum(weights.map((weight, k) => weight * (sigmas[k] ** 2 + means[k] ** 2))) - mean ** 2;
  const negativeEntropy = integral((z) => Math.exp(logTarget(z)) * logTarget(z), -12, 12);

  function state({ mu, log_sigma }) {
    const sigma = Math.exp(log_sigma);
    const reverse = (z) => Math.exp(logNormal(z, mu, sigma)) * (logNormal(z, mu, sigma) - logTarget(z));
    return {
      mu,
      sigma,
      target_mean: mean,
      target_sigma: Math.sqrt(variance),
      reverse_kl: integral(reverse, mu - 10 * sigma, mu + 10 * sigma),
      forward_kl: negativeEntropy + 0.5 * LOG_2PI + log_sigma + (variance + (mean - mu) ** 2) / (2 * sigma ** 2),
    };
  }

  const [LOW, HIGH] = [-6, 6];
  const two = format(2);
  const three = format(3);

  function draw(view) {
    const z = d3.scaleLinear([LOW, HIGH], [0, view.width - 16]);
    const points = equallySpaced(LOW, HIGH, 361);
    key(view, [
      { text: "target p, two modes", colour: "var(--grey)", fill: 0.3 },
      { text: "q, one Gaussian", colour: "var(--blue)" },
    ]);
    const top = panel(view, Math.min(190, 100 + view.width / 8), { bottom: 28 });
    const density = d3.scaleLinear([0, 0.82], [top.height, 0]);
    const target = d3.area((v) => z(v), top.height, (v) => density(Math.exp(logTarget(v))))(points);
    axisBelow(top, z, "");
    const curves = top.group.append("g").attr("clip-path", top.clip);
    curves.append("path").attr("d", target).style("fill", "var(--grey)").style("fill-opacity", 0.3).style("stroke", "var(--grey)");
    const q = curves.append("path").style("fill", "none").style("stroke", "var(--blue)").style("stroke-width", 2.5);
    key(view, [
      { text: "q log(q/p), whose area is KL(q\u2016p)", colour: "var(--orange)", fill: 0.45 },
      { text: "p log(p/q), whose area is KL(p\u2016q)", colour: "var(--purple)", fill: 0.3, dash: "4 2" },
    ]);
    const below = panel(view, Math.min(210, 120 + view.width / 8), { top: 18 });
    const nats = d3.scaleLinear([-0.35, 1.35], [below.height, 0]);
    axisBelow(below, z, "z");
    const integrands = below.group.append("g").attr("clip-path", below.clip);
    below.group.append("line").attr("x2", below.width).attr("y1", nats(0)).attr("y2", nats(0)).style("stroke", "var(--muted)");
    const area = (f) => d3.area((v) => z(v), nats(0), (v) => nats(Math.max(-1, Math.min(3, f(v)))))(points);
    const forward = integrands.append("path").style("fill", stripes(below, "var(--purple)")).style("stroke", "var(--purple)");
    const reverse = integrands.append("path").style("fill", "var(--orange)").style("fill-opacity", 0.45).style("stroke", "var(--orange)");
    integrands.selectAll("path").style("stroke-width", 1.5);
    const beyond = ["var(--orange)", "var(--purple)"].map((colour) =>
      below.group.append("text").attr("y", -5).attr("text-anchor", "middle").style("fill", colour).text("\u25b2 goes on"));
    return (now) => {
      const logQ = (v) => logNormal(v, now.mu, now.sigma);
      q.attr("d", d3.line((v) => z(v), (v) => density(Math.exp(logQ(v))))(points));
      const both = [
        (v) => Math.exp(logQ(v)) * (logQ(v) - logTarget(v)),
        (v) => Math.exp(logTarget(v)) * (logTarget(v) - logQ(v)),
      ];
      reverse.attr("d", area(both[0]));
      forward.attr("d", area(both[1]));
      both.forEach((f, k) => {
        const top = points[d3.maxIndex(points, f)];
        beyond[k].attr("x", z(top)).style("display", f(top) > nats.domain()[1] ? null : "none");
      });
    };
  }

  const best = optima.map(([mu, log_sigma]) => ({ mu, log_sigma }));
  define("kl-directions", {
    title: "One Gaussian for two modes: which way round?",
    parameters: {
      mu: { label: "mean of q", min: -4, max: 4, step: 0.01, start: -0.4, format: two, colour: "var(--blue)" },
      log_sigma: {
        label: "standard deviation of q", min: -0.7, max: 1.2, step: 0.01, start: 0.2, colour: "var(--blue)",
        format: (_, now) => two(now.sigma),
      },
    },
    presetsLabel: "best for",
    presets: [
      { label: "KL(q\u2016p), left", values: best[0] },
      { label: "KL(q\u2016p), right", values: best[1] },
      { label: "KL(p\u2016q)", values: { mu: mean, log_sigma: 0.5 * Math.log(variance) } },
    ],
    numbers: [
      { label: "KL(q\u2016p), seeks a mode", value: (now) => three(now.reverse_kl), colour: "var(--orange)" },
      { label: "KL(p\u2016q), covers the mass", value: (now) => three(now.forward_kl), colour: "var(--purple)" },
    ],
    describe: (now) =>
      `With q of mean ${two(now.mu)} and standard deviation ${two(now.sigma)}, KL from q to p is ${three(now.reverse_kl)} nats ` +
      `and KL from p to q is ${three(now.forward_kl)}.`,
    state,
    draw,
  });
})();
