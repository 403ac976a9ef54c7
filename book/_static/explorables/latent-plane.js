// The plane of a VAE with two latents: the codes of 1,000 garments, the prior, and what the decoder makes of a point.
(() => {
  "use strict";
  const { data, define, format, panel, LOG_2PI } = explorables;
  const CLASSES = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];
  const COLOURS = ["#4e79a7", "#e8871e", "#d64545", "#3fa7a0", "#4f9a43", "#c19a00", "#a868a0", "#f0788c", "#9c755f", "#808080"];
  const SIZE = 28;
  const NEAR = 0.5;

  const codes = d3.pairs(data.codes.z).filter((_, i) => i % 2 === 0);
  const labels = data.codes.labels;
  const layers = data.decoder.layers.map(({ weight, scale, bias }) => ({
    weight: Int8Array.from(atob(weight), (character) => character.charCodeAt(0)),
    scale,
    bias,
  }));

  // One row of weights after the other, each with a scale of its own.
  function linear({ weight, scale, bias }, inputs) {
    return bias.map((start, row) => {
      let total = 0;
      for (let i = 0, k = row * inputs.length; i < inputs.length; i += 1, k += 1) total += weight[k] * inputs[i];
      return start + scale[row] * total;
    });
  }

  const sigmoid = (value) => 1 / (1 + Math.exp(-value));
  const decode = (z) => linear(layers[1], linear(layers[0], z).map((value) => value * sigmoid(value))).map(sigmoid);

  // How many of the codes the prior would put within NEAR of a point: Simpson's rule over the radius, equal angles around.
  function expected(z1, z2) {
    const [steps, angles] = [256, 32];
    const density = (a, b) => Math.exp(-0.5 * (a ** 2 + b ** 2) - LOG_2PI);
    const ring = (r) => r * d3.mean(d3.range(angles), (k) => {
      const angle = (2 * Math.PI * k) / angles;
      return density(z1 + r * Math.cos(angle), z2 + r * Math.sin(angle));
    });
    const weight = (i) => (i === 0 || i === steps ? 1 : i % 2 === 1 ? 4 : 2);
    const integral = (NEAR / steps / 3) * d3.sum(d3.range(steps + 1), (i) => weight(i) * ring((NEAR * i) / steps));
    return 2 * Math.PI * integral * codes.length;
  }

  function state({ z1, z2 }) {
    const distances = codes.map(([a, b]) => Math.hypot(a - z1, b - z2));
    const nearest = d3.minIndex(distances);
    return {
      z1,
      z2,
      log_prior: -LOG_2PI - 0.5 * (z1 ** 2 + z2 ** 2),
      codes_near: distances.filter((distance) => distance <= NEAR).length,
      codes_expected: expected(z1, z2),
      nearest_distance: distances[nearest],
      nearest_class: labels[nearest],
      image: decode([z1, z2]),
    };
  }

  const REACH = 4;
  const two = format(2);

  function draw(view) {
    const wide = view.width >= 560;
    const side = Math.floor(Math.min(wide ? 0.62 * view.width : view.width, 420));
    const shown = wide ? Math.min(view.width - side - 30, 252) : 168;
    const box = view.picture.append("div").attr("class", "both");
    const area = panel({ picture: box.append("div").style("width", `${side}px`), width: side }, side, { top: 1, right: 1, bottom: 1, left: 1 });
    const x = d3.scaleLinear([-REACH, REACH], [0, area.width]);
    const y = d3.scaleLinear([-REACH, REACH], [area.height, 0]);
    const ground = area.group.append("rect").attr("width", area.width).attr("height", area.height).attr("class", "ground");
    const inner = area.group.append("g").attr("clip-path", area.clip).style("pointer-events", "none");
    const axes = inner.append("path").attr("d", `M ${x(0)} 0 V ${area.height} M 0 ${y(0)} H ${area.width}`);
    axes.style("fill", "none").style("stroke", "var(--line)");
    const dots = inner.selectAll("circle.code").data(codes).join("circle").attr("class", "code").attr("r", wide ? 2.4 : 1.8);
    dots.attr("cx", (d) => x(d[0])).attr("cy", (d) => y(d[1])).style("fill", (_, i) => COLOURS[labels[i]]);
    for (const [radius, share] of [[1, "39 %"], [2, "86 %"], [3, "99 %"]]) {
      inner.append("circle").attr("class", "ring").attr("cx", x(0)).attr("cy", y(0)).attr("r", x(radius) - x(0));
      inner.append("text").attr("class", "share").attr("x", x(0)).attr("y", y(radius) - 4).attr("text-anchor", "middle").text(share);
    }
    const handle = area.group.append("g").attr("class", "handle");
    handle.append("circle").attr("r", 22).style("fill", "transparent");
    handle.append("circle").attr("r", 9).attr("class", "grip");
    handle.append("circle").attr("r", 2).style("fill", "var(--text)");
    const move = (event) => view.set({ z1: x.invert(event.x), z2: y.invert(event.y) });
    let place = { x: 0, y: 0 };
    handle.call(d3.drag().container(area.group.node()).subject(() => place).on("drag", move));
    ground.call(d3.drag().touchable(false).container(area.group.node()).on("start drag", move)); // a finger scrolls the page
    ground.on("click", (event) => {
      const [px, py] = d3.pointer(event, area.group.node());
      move({ x: px, y: py });
    });

    const picture = box.append("div").attr("class", "decoded").style("width", `${Math.max(shown + 2, 190)}px`);
    const canvas = picture.append("canvas").attr("width", SIZE).attr("height", SIZE).attr("aria-hidden", "true");
    canvas.style("width", `${shown}px`).style("height", `${shown}px`);
    picture.append("div").text("what the decoder makes of z");
    const context = canvas.node().getContext("2d");
    const pixels = context.createImageData(SIZE, SIZE);

    return (now) => {
      place = { x: x(now.z1), y: y(now.z2) };
      handle.attr("transform", `translate(${place.x}, ${place.y})`);
      now.image.forEach((value, i) => pixels.data.set([255 * value, 255 * value, 255 * value, 255], 4 * i));
      context.putImageData(pixels, 0, 0);
      canvas.attr("data-z", `${now.z1} ${now.z2}`);
    };
  }

  const middle = (label) => [0, 1].map((j) => d3.mean(codes.filter((_, i) => labels[i] === label), (code) => code[j]));
  define("latent-plane", {
    title: "Walk through the plane of a VAE",
    style: `
      .both { display: flex; flex-wrap: wrap; justify-content: center; align-items: center; gap: 16px 28px; }
      .ground { fill: var(--soft); stroke: var(--line); cursor: crosshair; }
      .code { opacity: 0.75; }
      .ring { fill: none; stroke: var(--muted); stroke-dasharray: 4 3; }
      svg text.share { font-size: 12px; fill: var(--text); paint-order: stroke; stroke: var(--soft); stroke-width: 4px; }
      .grip { fill: var(--back); fill-opacity: 0.6; stroke: var(--text); stroke-width: 2.5; }
      .decoded { text-align: center; font-size: 0.9rem; color: var(--muted); }
      canvas { display: block; margin: 0 auto 0.3rem; image-rendering: pixelated; border: 1px solid var(--line); }
    `,
    parameters: {
      z1: { label: "z\u2081", min: -REACH, max: REACH, step: 0.05, start: -0.3, format: two },
      z2: { label: "z\u2082", min: -REACH, max: REACH, step: 0.05, start: 2, format: two },
    },
    presetsLabel: "to the middle of",
    presets: CLASSES.map((label, n) => {
      const [z1, z2] = middle(n);
      return { label, values: { z1, z2 }, colour: COLOURS[n] };
    }),
    numbers: [
      { label: "log p(z), nats", value: (now) => two(now.log_prior) },
      { label: "codes within \u00bd", value: (now) => format(0)(now.codes_near) },
      { label: "if they followed the prior", value: (now) => format(0)(now.codes_expected) },
      { label: (now) => `to the nearest code, ${CLASSES[now.nearest_class]}`, value: (now) => two(now.nearest_distance) },
    ],
    describe: (now) =>
      `At z = (${two(now.z1)}, ${two(now.z2)}) the nearest of 1,000 codes, of class ${CLASSES[now.nearest_class]}, is ` +
      `${two(now.nearest_distance)} away, and ${now.codes_near} codes are within one half, where the prior would have ${format(0)(now.codes_expected)}.`,
    state,
    draw,
  });
})();
