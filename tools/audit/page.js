// The audit's page: its cards, keys and map. Names from outside are only ever text.
const data = JSON.parse(document.getElementById("data").textContent);
const token = document.querySelector("meta[name=audit-server]").content; // where a server keeps the decisions
const find = (id) => document.getElementById(id);
const decisions = new Map(); // path -> {decision, label}
const steps = []; // {path, was, card}: what u takes back
const cards = data.cards.map((card, number) => ({ ...card, number }));
let current = null;
let kind = "";

function el(tag, values = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(values)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "text") made.textContent = value;
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...inside.filter((one) => one !== null));
  return made;
}

// ------------------------------------------------------------------------------------- the cards

function box(picture, alt, url = data.thumbs[picture]) {
  return el("div", { class: "box" }, url ? el("img", { src: url, alt }) : el("span", { text: "can't be shown" }));
}

function enlarged(picture) {
  picture.addEventListener("click", () => picture.parentElement.classList.toggle("large"));
  return picture;
}

function neighbours(card) {
  if (!card.near.length) return null;
  const rows = card.near.map((i) => {
    const [path, label] = data.pictures[i];
    const name = data.classes[label];
    const other = name !== card.given;
    return el("li", { class: other ? "other" : "", title: path }, box(i, `like it: ${name}`), el("span", { text: name }));
  });
  return el("div", { class: "near-block" }, el("h4", { text: "the most like it, and their labels" }), el("ul", { class: "near" }, ...rows));
}

function buttons(card) {
  const accept = card.suggested && card.suggested !== card.given;
  const other = el("select", { "aria-label": "another class", onchange: (event) => {
    const name = data.classes[event.target.value];
    event.target.selectedIndex = 0;
    go(card);
    relabel(card, name);
  } }, el("option", { value: "", text: "another class …" }));
  data.classes.forEach((name, i) => {
    if (name !== card.given && name !== card.suggested) other.append(el("option", { value: i, text: name }));
  });
  other.hidden = other.options.length < 2;
  const button = (text, key, does, strong) => el("button", { type: "button", class: strong ? "strong" : "", onclick: () => { go(card); does(); } }, text, el("kbd", { text: key }));
  return el("div", { class: "do" },
    accept ? button(`It is ${card.suggested}`, "↵", () => relabel(card, card.suggested), true) : null,
    button(card.kind === "label" ? `Keep ${card.given}` : "Keep", "k", () => decide(card, "keep", "")),
    button("Leave out", "x", () => decide(card, "leave out", "")), other);
}

function make(card) {
  const to = card.suggested && card.suggested !== card.given ? ` → ${card.suggested}?` : "";
  card.decision = el("p", { class: "decision", hidden: true });
  card.element = el("li", { class: "card", tabindex: "-1", "data-path": card.path, onpointerdown: (event) => { if (!event.target.closest("button, select")) go(card); } },
    enlarged(box(card.picture, `labelled ${card.given}`, card.thumb ?? data.thumbs[card.picture])),
    el("div", {},
      el("p", { class: "kind", text: data.titles[card.kind] + (card.part ? ` · ${card.part}` : "") }),
      el("p", { class: "what", text: card.given + to }),
      card.says ? el("p", { class: "says", text: card.says }) : null,
      el("p", { class: "path", text: card.path }),
      card.decision),
    card.group === null ? neighbours(card) : null,
    buttons(card));
  return card.element;
}

function build() {
  let copies = null; // the group that is being filled
  for (const card of cards) {
    const name = card.group === null ? null : `${card.kind} ${card.group}`;
    if (name !== null && copies?.name !== name) {
      const list = el("ul");
      copies = { name, list, element: el("li", { class: "copies" }, el("p"), list) };
      find("cards").append(copies.element);
    }
    card.copies = name === null ? null : copies;
    (name === null ? find("cards") : copies.list).append(make(card));
  }
  for (const card of cards) {
    if (!card.copies) continue;
    const alike = cards.filter((other) => other.copies === card.copies);
    const says = card.kind === "leak" ? "One picture, trained on and held out" : "Copies of one another";
    card.copies.element.firstChild.textContent = `${says}: keep one, leave out the others (${alike.length})`;
  }
}

// ------------------------------------------------------------------------------------- filtering

const filters = ["given", "suggested", "part"];

function options() {
  for (const name of filters) {
    const values = [...new Set(cards.map((card) => card[name]).filter(Boolean))].sort();
    find(name).append(...values.map((value) => el("option", { value, text: value })));
    find(name).parentElement.hidden = values.length < 2;
    find(name).addEventListener("change", refilter);
  }
  find("open").addEventListener("change", refilter);
  for (const button of find("kinds").children) {
    button.addEventListener("click", () => { kind = button.dataset.kind; refilter(); });
  }
  find("kinds").firstElementChild.lastElementChild.textContent =
    [...find("kinds").children].slice(1).reduce((sum, one) => sum + Number(one.lastElementChild.textContent), 0);
}

let pointed = false; // whether the last was a finger or a mouse: then the keys are the cards' again
document.addEventListener("pointerdown", () => { pointed = true; }, true);
document.addEventListener("keydown", () => { pointed = false; }, true);

function refilter() {
  show();
  if (pointed) current?.element.focus({ preventScroll: true });
}

function fits(card) {
  return filters.every((name) => !find(name).value || card[name] === find(name).value)
    && (!find("open").checked || !decisions.has(card.path));
}

function visible() {
  return cards.filter((card) => !card.element.hidden && !card.copies?.element.hidden);
}

function show() {
  for (const button of find("kinds").children) {
    button.setAttribute("aria-pressed", String(button.dataset.kind === kind));
  }
  const fit = new Set(cards.filter((card) => (!kind || card.kind === kind) && fits(card)));
  const groups = new Set([...fit].map((card) => card.copies).filter(Boolean)); // copies stay side by side
  for (const card of cards) {
    card.element.hidden = !(card.copies ? groups.has(card.copies) : fit.has(card));
    if (card.copies) card.copies.element.hidden = !groups.has(card.copies);
  }
  const there = visible();
  find("none").hidden = there.length > 0;
  if (!there.includes(current)) mark(there[0] ?? null);
  tell();
}

// -------------------------------------------------------------------------------------- deciding

function mark(card) {
  current?.element.removeAttribute("aria-current");
  current = card;
  current?.element.setAttribute("aria-current", "true");
}

function go(card) {
  if (!card) return;
  mark(card);
  card.element.focus({ preventScroll: true });
  card.element.scrollIntoView({ block: "nearest" });
  tell();
}

function step(by) {
  const there = visible();
  go(there[Math.max(0, Math.min(there.length - 1, there.indexOf(current) + by))]);
}

function relabel(card, name) {
  if (name === card.given) decide(card, "keep", "");
  else decide(card, "relabel", name);
}

function decide(card, decision, label) {
  steps.push({ path: card.path, was: decisions.get(card.path) ?? null, card });
  set(card.path, { decision, label });
  const there = visible();
  const after = there.slice(there.indexOf(card) + 1);
  go(after.find((one) => !decisions.has(one.path)) ?? after[0] ?? card);
  if (find("open").checked) show();
}

function undo() {
  const last = steps.pop();
  if (!last) return;
  set(last.path, last.was);
  mark(last.card);
  show();
  if (!visible().includes(last.card)) everything();
  go(last.card);
}

function set(path, decision) {
  if (decision) decisions.set(path, decision);
  else decisions.delete(path);
  paint();
  keep(path, decision);
}

function said({ decision, label }) {
  return decision === "relabel" ? `→ ${label}` : decision === "keep" ? "kept as it is" : "left out";
}

function paint() {
  for (const card of cards) {
    const decision = decisions.get(card.path);
    card.element.classList.toggle("decided", Boolean(decision));
    card.decision.hidden = !decision;
    card.decision.textContent = decision ? said(decision) : "";
  }
  tell();
  draw();
}

function tell() {
  const paths = new Set(cards.map((card) => card.path));
  const done = [...decisions.keys()].filter((path) => paths.has(path)).length;
  const place = visible().indexOf(current);
  const where = place < 0 ? "" : ` · card ${place + 1} of ${visible().length}`;
  find("count").textContent = `${done} of ${paths.size} decided${where}`;
  find("undo").disabled = !steps.length;
  find("download").disabled = !decisions.size;
}

// ------------------------------------------------------------------------------------------ keys

function keys() {
  const row = find("keys");
  data.classes.slice(0, 9).forEach((name, i) => row.append(el("kbd", { text: i + 1 }), " ", el("b", { text: name }), " "));
  const more = data.classes.length > 9 ? "another class: the card's list" : "";
  const list = [["←", ""], ["→", "the one before, the next"], ["Enter", "as suggested"], ["k", "keep the label"], ["x", "leave out"], ["u", "undo"]];
  for (const [key, what] of list) row.append(el("kbd", { text: key }), " ", ...(what ? [el("b", { text: what }), " "] : []));
  row.append(more);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !cards.length) return;
  const on = event.target.closest?.("input, select, textarea, button, a, summary");
  if (on && (on.matches("input, select, textarea") || event.key === "Enter")) return;
  const number = /^[1-9]$/.test(event.key) ? Number(event.key) - 1 : -1;
  if (event.key === "ArrowRight") step(1);
  else if (event.key === "ArrowLeft") step(-1);
  else if (event.key === "u") undo();
  else if (!current) return;
  else if (number >= 0 && number < data.classes.length) relabel(current, data.classes[number]);
  else if (event.key === "Enter" && current.suggested) relabel(current, current.suggested);
  else if (event.key === "x") decide(current, "leave out", "");
  else if (event.key === "k") decide(current, "keep", "");
  else return;
  event.preventDefault();
});

function everything() {
  kind = "";
  for (const name of filters) find(name).value = "";
  find("open").checked = false;
  show();
}
