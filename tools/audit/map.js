// The map: pictures that look alike to the network lie together.

const canvas = document.querySelector("#board canvas");
const tip = find("tip");
const COLOURS = 8, SHAPES = ["circle", "square", "triangle", "diamond"]; // 32 that differ
let alone = null; // the class that is shown alone

function shape(pen, name, x, y, r) {
  pen.beginPath();
  if (name === "circle") pen.arc(x, y, r, 0, 2 * Math.PI);
  else if (name === "square") pen.rect(x - r * 0.9, y - r * 0.9, r * 1.8, r * 1.8);
  else {
    const points = name === "triangle" ? [[0, -1.2], [1.1, 0.9], [-1.1, 0.9]] : [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]];
    points.forEach(([dx, dy]) => pen.lineTo(x + dx * r, y + dy * r));
    pen.closePath();
  }
}

const look = (label) => [`--s${label % COLOURS}`, SHAPES[Math.floor(label / COLOURS) % SHAPES.length]];

function scale() {
  const rows = data.dots.map((i) => data.pictures[i]);
  const range = (k) => [Math.min(...rows.map((row) => row[k])), Math.max(...rows.map((row) => row[k]))];
  const edge = 16;
  const { clientWidth: width, clientHeight: height } = canvas;
  const along = ([low, high], size) => (value) => edge + (size - 2 * edge) * (high > low ? (value - low) / (high - low) : 0.5);
  const across = along(range(3), width), down = along(range(4), height);
  return (row) => [across(row[3]), height - down(row[4])];
}

function draw() {
  if (!canvas) return;
  const sharp = window.devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * sharp;
  canvas.height = canvas.clientHeight * sharp;
  const pen = canvas.getContext("2d");
  const colours = getComputedStyle(document.documentElement);
  pen.scale(sharp, sharp);
  const at = scale();
  const r = data.dots.length > 1500 ? 2.5 : data.dots.length > 300 ? 3.5 : 5;
  const suspects = new Map(cards.map((card) => [card.picture, card]));
  for (const ringed of [false, true]) { // the suspects on top
    for (const i of data.dots) {
      if (suspects.has(i) !== ringed) continue;
      const row = data.pictures[i], [x, y] = at(row), [colour, form] = look(row[1]);
      pen.globalAlpha = alone === null || alone === row[1] ? 1 : 0.12;
      pen.fillStyle = colours.getPropertyValue(colour);
      shape(pen, form, x, y, r);
      pen.fill();
      if (!ringed) continue;
      const decided = decisions.has(suspects.get(i).path);
      pen.strokeStyle = colours.getPropertyValue(decided ? "--good" : "--ink");
      pen.lineWidth = suspects.get(i) === current ? 3 : 1.6;
      shape(pen, "circle", x, y, r + 4);
      pen.stroke();
    }
  }
}

function nearest(event) {
  const frame = canvas.getBoundingClientRect();
  const [x, y] = [event.clientX - frame.left, event.clientY - frame.top];
  const at = scale();
  let best = null, least = 14 * 14;
  for (const i of data.dots) {
    if (alone !== null && data.pictures[i][1] !== alone) continue;
    const [px, py] = at(data.pictures[i]);
    const far = (px - x) ** 2 + (py - y) ** 2;
    if (far < least) [best, least] = [i, far];
  }
  return best;
}

function hover(event) {
  const i = nearest(event);
  tip.hidden = i === null;
  canvas.style.cursor = i !== null && cards.some((card) => card.picture === i) ? "pointer" : "";
  if (i === null) return;
  const [path, label, part] = data.pictures[i];
  const url = data.thumbs[i];
  tip.replaceChildren(...(url ? [el("img", { src: url, alt: "" })] : []),
    el("span", { text: data.classes[label] + (part ? ` · ${part}` : "") }), el("span", { class: "path", text: path }));
  const [x, y] = scale()(data.pictures[i]);
  tip.style.left = `${Math.max(0, Math.min(x + 12, canvas.clientWidth - tip.offsetWidth))}px`;
  tip.style.top = `${y + 14 + tip.offsetHeight > canvas.clientHeight ? y - tip.offsetHeight - 10 : y + 14}px`;
}

function map() {
  if (!canvas) return;
  canvas.addEventListener("pointermove", hover);
  canvas.addEventListener("pointerdown", hover);
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  canvas.addEventListener("click", (event) => {
    const card = cards.find((one) => one.picture !== null && one.picture === nearest(event));
    if (!card) return;
    if (!visible().includes(card)) everything();
    go(card);
  });
  data.classes.forEach((name, label) => {
    const [colour, form] = look(label);
    const sign = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const forms = { circle: "M7 2a5 5 0 1 0 .01 0z", square: "M2 2h10v10H2z", triangle: "M7 1l6 11H1z", diamond: "M7 0l7 7-7 7-7-7z" };
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    sign.setAttribute("viewBox", "0 0 14 14");
    sign.setAttribute("aria-hidden", "true");
    path.setAttribute("d", forms[form]);
    path.style.fill = `var(${colour})`;
    sign.append(path);
    const button = el("button", { type: "button", "aria-pressed": "false", onclick: () => {
      alone = alone === label ? null : label;
      [...find("legend").children].forEach((one, i) => one.setAttribute("aria-pressed", String(i === alone)));
      draw();
    } }, sign, name);
    find("legend").append(button);
  });
  new ResizeObserver(draw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}
