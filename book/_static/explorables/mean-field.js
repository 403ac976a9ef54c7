// The best factorised Gaussian for a Gaussian posterior with correlation, and what it costs.
(() => {
  "use strict";
  const { define, format, normal, equallySpaced, panel, key } = explorables;

  // The covariance (1, rho; rho, 1), turned by an angle.
  function state({ rho, degrees }) {
    const turn = (2 * degrees * Math.PI) / 180;
    const covariance = [1 - rho * Math.sin(turn), rho * Math.cos(turn), 1 + rho * Math.sin(turn)]; // 11, 12, 22
    const determinant = 1 - rho ** 2;
    const fitted = [determinant / covariance[2], determinant / covariance[0]]; // one over the precision's diagonal
    return {
      rho,
      degrees,
      covariance,
      correlation: covariance[1] / Math.sqrt(covariance[0] * covariance[2]),
      fitted_variances: fitted,
      variance_ratio: determinant / (covariance[0] * covariance[2]),
      gap: -0.5 * Math.log(determinant / (covariance[0] * covariance[2])),
    };
  }

  const two = format(2);
  const REACH = 3.4;

  function draw(view) {
    key(view, [
      { text: "posterior", colour: "var(--grey)", fill: 0.3 },
      { text: "best q = q(z\u2081) q(z\u2082)", colour: "var(--blue)" },
    ]);
    const side = Math.min(view.width, 430);
    const strip = 0.22 * side; // for the two marginals
    const area = panel(view, side + 4, { left: (view.width - side) / 2, right: (view.width - side) / 2, top: 0, bottom: 4 });
    const inner = side - strip - 8;
    const x = d3.scaleLinear([-REACH, REACH], [0, inner]);
    const y = d3.scaleLinear([-REACH, REACH], [strip + 8 + inner, strip + 8]);
    const frame = area.group.append("g");
    frame.append("rect").attr("x", 0).attr("y", strip + 8).attr("width", inner).attr("height", inner)
      .style("fill", "none").style("stroke", "var(--line)");
    for (const axis of ["x", "y"]) {
      frame.append("line").attr("x1", axis === "x" ? 0 : x(0)).attr("x2", axis === "x" ? inner : x(0))
        .attr("y1", axis === "x" ? y(0) : strip + 8).attr("y2", axis === "x" ? y(0) : strip + 8 + inner).style("stroke", "var(--line)");
    }
    area.group.append("text").attr("class", "muted").attr("x", inner - 6).attr("y", y(0) - 6).attr("text-anchor", "end").text("z\u2081");
    area.group.append("text").attr("class", "muted").attr("x", x(0) + 6).attr("y", strip + 24).text("z\u2082");
    const unit = x(1) - x(0);
    const rings = [2, 1];
    const ellipses = (colour, fill) =>
      rings.map((r) =>
        area.group.append("ellipse").datum(r).style("fill", fill ? colour : "none").style("fill-opacity", 0.22)
          .attr("class", fill ? "posterior" : "fit").style("stroke", colour).style("stroke-width", fill ? 1.2 : 2.5));
    const posterior = ellipses("var(--grey)", true);
    const fit = ellipses("var(--blue)", false);
    const points = equallySpaced(-REACH, REACH, 241);
    const height = d3.scaleLinear([0, 1.85], [0, strip]);
    const along = [
      (sigma) => d3.area((v) => x(v), strip, (v) => strip - height(normal(v, 0, sigma)))(points),
      (sigma) => d3.area().y((v) => y(v)).x0(inner + 8).x1((v) => inner + 8 + height(normal(v, 0, sigma)))(points),
    ];
    const marginals = along.map((shape) => ({
      shape,
      posterior: area.group.append("path").style("fill", "var(--grey)").style("fill-opacity", 0.3).style("stroke", "var(--grey)"),
      fit: area.group.append("path").style("fill", "none").style("stroke", "var(--blue)").style("stroke-width", 2.5),
    }));

    return (now) => {
      const [a, b, c] = now.covariance;
      const middle = 0.5 * (a + c);
      const spread = Math.hypot(0.5 * (a - c), b);
      const angle = (Math.atan2(2 * b, a - c) * 90) / Math.PI;
      for (const ellipse of posterior) {
        ellipse.attr("rx", (r) => r * unit * Math.sqrt(middle + spread)).attr("ry", (r) => r * unit * Math.sqrt(Math.max(0, middle - spread)));
        ellipse.attr("transform", `translate(${x(0)}, ${y(0)}) rotate(${-angle})`);
      }
      const sigmas = now.fitted_variances.map(Math.sqrt);
      for (const ellipse of fit) {
        ellipse.attr("rx", (r) => r * unit * sigmas[0]).attr("ry", (r) => r * unit * sigmas[1]);
        ellipse.attr("transform", `translate(${x(0)}, ${y(0)})`);
      }
      marginals.forEach((marginal, j) => {
        marginal.posterior.attr("d", marginal.shape(Math.sqrt(now.covariance[2 * j])));
        marginal.fit.attr("d", marginal.shape(sigmas[j]));
      });
    };
  }

  define("mean-field", {
    title: "What a factorised q loses to a correlation",
    parameters: {
      rho: { label: "correlation", min: -0.95, max: 0.95, step: 0.01, start: 0.9, format: two },
      degrees: { label: "rotation", min: 0, max: 90, step: 1, start: 0, format: (value) => `${format(0)(value)}\u00b0` },
    },
    presets: [
      { label: "no correlation", values: { rho: 0, degrees: 0 } },
      { label: "strong correlation", values: { rho: 0.95, degrees: 0 } },
      { label: "the same ellipse, turned", values: { rho: 0.95, degrees: 45 } },
    ],
    numbers: [
      { label: "correlation in z", value: (now) => two(now.correlation) },
      { label: "variance, q / true", value: (now) => two(now.variance_ratio), colour: "var(--blue)" },
      { label: "gap, nats", value: (now) => two(now.gap) },
    ],
    describe: (now) =>
      `The posterior's coordinates have correlation ${two(now.correlation)}. The best factorised Gaussian has ` +
      `${two(now.variance_ratio)} of their variances and loses ${two(now.gap)} nats.`,
    state,
    draw,
  });
})();
