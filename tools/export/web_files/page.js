// The page: what was chosen goes to the worker, one picture at a time, and its answers are shown.
const MOST_BARS = 10;
const MOST_NAMED = 6; // classes that a picture could be, in a sentence
const MOST_ROWS = 500; // in the table; the CSV has all
const at = (id) => document.getElementById(id);
const percent = (share) => {
  const text = (100 * share).toFixed(1);
  return text === "100.0" && share < 1 ? "over 99.9 %" : text === "0.0" && share > 0 ? "under 0.1 %" : `${text} %`;
};

let known; // model.json
let worker;
let waiting = null; // for the answer to the picture that the worker has
let turn = 0; // of what was chosen: a later choice ends an earlier one
let shown = []; // the rows of the last choice

function say(text, problem = false) {
  at("status").className = problem ? "problem" : "";
  at("status").textContent = text;
}

function lacking() {
  const needed = {
    WebAssembly: "WebAssembly" in window,
    Worker: "Worker" in window,
    createImageBitmap: "createImageBitmap" in window,
    OffscreenCanvas: "OffscreenCanvas" in window,
  };
  return Object.keys(needed).filter((name) => !needed[name]);
}

async function start() {
  const missing = lacking();
  if (missing.length) {
    say(`This browser has no ${missing.join(", no ")}, which this page needs: Chrome, Edge, Firefox and Safari have them since 2023.`, true);
    return;
  }
  say("Loading the network.");
  try {
    const answer = await fetch("model.json");
    if (!answer.ok) throw new Error(`model.json is not beside the page (status ${answer.status})`);
    known = await answer.json();
  } catch (error) {
    say(`The page's own files can't be read: ${error.message}.`, true);
    return;
  }
  // A worker that begins as a blob has the page's content security policy; from a file it has none.
  const source = `import ${JSON.stringify(new URL("worker.js", location.href).href)};`;
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  worker = new Worker(url, { type: "module" });
  worker.onmessage = ({ data }) => heard(data);
  worker.onerror = () => say("This browser can't run the network: it needs one of 2023 or later (modules in workers).", true);
}

function heard(data) {
  if (data.alive) {
    worker.postMessage({ start: true, size: known.bytes });
  } else if (data.loaded) {
    say(`Loading the network: ${(data.loaded / 1e6).toFixed(0)} of ${(data.of / 1e6).toFixed(0)} MB.`);
    progress(data.loaded, data.of);
  } else if (data.ready) {
    ready();
  } else if (data.starting) {
    progress(null);
    say(`The network can't be loaded: ${data.reason}`, true);
  } else if (waiting) {
    const done = waiting;
    waiting = null;
    done(data);
  }
}

function ready() {
  progress(null);
  say("Ready.");
  at("choose").hidden = false;
  const pointer = matchMedia("(pointer: coarse)").matches;
  at("photo-button").hidden = !pointer; // on a computer it would only choose a file
  at("folder-button").hidden = !("webkitdirectory" in at("folder"));
  if (pointer) at("hint").hidden = true;
  at("means").textContent =
    `It answers “unsure” where no class has a probability of ${percent(known.min_confidence)}` +
    (known.knows_unlike ? `, and “unlike” where at least ${percent(known.unlike)} of the known pictures that it was tested with lie nearer to what it has learned.` : ".") +
    (known.set_level > 0 && known.set_level < 1 ? " What a picture “could be” are the classes of which one was right nine times in ten." : "");
  document.body.dataset.ready = "true";
}

function progress(value, most) {
  at("progress").hidden = value === null;
  if (value !== null) {
    at("progress").max = most;
    at("progress").value = value;
  }
}

function ask(file) {
  return new Promise((done) => {
    waiting = done;
    worker.postMessage({ id: turn, file });
  });
}

// An answer by what the classifier calls it: label, said, probability, unlike, could_be.
function judged(data) {
  const order = data.probabilities.map((_, i) => i).sort((a, b) => data.probabilities[b] - data.probabilities[a]);
  const probability = data.probabilities[order[0]];
  const label = known.classes[order[0]];
  const strange = data.unlike !== null && data.unlike >= known.unlike;
  const said = strange ? "unlike" : probability < known.min_confidence ? "unsure" : label;
  const could = order.filter((i) => data.probabilities[i] >= known.set_level);
  const could_be = (could.length ? could : order.slice(0, 1)).map((i) => known.classes[i]);
  return { ...data, order, probability, label, said, could_be, strange, unsure: !strange && said === "unsure" };
}

// The classes that it could be, where they are several and that is known; nothing of a picture unlike them all.
function couldBe(found) {
  const some = found.could_be;
  if (found.strange || some.length < 2 || !known.set_level) return "";
  const rest = some.length > MOST_NAMED ? ` and ${some.length - MOST_NAMED} more` : "";
  return `could be: ${some.slice(0, MOST_NAMED).join(", ")}${rest}`;
}

function sentence(found) {
  if (found.strange) {
    return [
      "Unlike anything that it has learned",
      `${percent(found.unlike)} of the known pictures lie nearer to what it has learned than this one. Of its classes, the likeliest would be ${found.label}.`,
    ];
  }
  if (found.unsure) {
    return ["Unsure", `The likeliest is ${found.label}, at ${percent(found.probability)}: less than the ${percent(known.min_confidence)} that an answer takes.`];
  }
  return [found.label, `With a probability of ${percent(found.probability)}.`];
}

function bar(name, share) {
  const item = document.createElement("li");
  for (const [kind, text] of [["name", name], ["share", percent(share)]]) {
    const span = document.createElement("span");
    span.className = kind;
    span.textContent = text;
    item.append(span);
  }
  const track = document.createElement("div");
  const fill = document.createElement("div");
  track.className = "track";
  track.setAttribute("aria-hidden", "true");
  fill.className = "fill";
  fill.style.width = `${100 * share}%`;
  track.append(fill);
  item.append(track);
  return item;
}

function showOne(file, found) {
  const old = at("picture").src;
  at("picture").src = URL.createObjectURL(file);
  at("picture").alt = `The chosen picture, ${file.name}`;
  if (old) URL.revokeObjectURL(old);
  const [verdict, why] = sentence(found);
  at("verdict").textContent = verdict;
  at("why").textContent = why;
  const could = couldBe(found);
  at("could").hidden = !could;
  at("could").textContent = `C${could.slice(1)}`;
  const some = found.order.slice(0, MOST_BARS);
  const items = some.map((i) => bar(known.classes[i], found.probabilities[i]));
  const rest = found.order.slice(MOST_BARS);
  if (rest.length) items.push(bar(`${rest.length} others`, rest.reduce((sum, i) => sum + found.probabilities[i], 0)));
  at("bars").replaceChildren(...items);
  at("one").hidden = false;
  say(`${file.name}: ${verdict}. ${why}${could ? ` C${could.slice(1)}.` : ""}`);
  at("status").classList.add("heard"); // the card says it to those who see
}

const pathOf = (file) => file.webkitRelativePath || file.name;

function addRow(file, found) {
  shown.push({ path: pathOf(file), ...found });
  if (shown.length > MOST_ROWS) {
    at("more").hidden = false;
    at("more").textContent = `The table shows the first ${MOST_ROWS}; the CSV has all.`;
    return;
  }
  const row = document.createElement("tr");
  const cells = [pathOf(file), found.failed ? "—" : found.said, found.failed ? "" : percent(found.probability)];
  cells.forEach((text, i) => {
    const cell = document.createElement("td");
    cell.textContent = text;
    if (i === 2) cell.className = "number";
    row.append(cell);
  });
  const likeliest = found.strange || found.unsure ? `likeliest: ${found.label}` : "";
  const remark = found.failed ? found.reason : couldBe(found) || likeliest;
  if (remark) {
    const span = document.createElement("span");
    span.className = "remark";
    span.textContent = remark;
    row.children[1].append(span);
  }
  at("rows").append(row);
}

function summary() {
  const counts = new Map();
  let failed = 0;
  for (const row of shown) {
    if (row.failed) failed++;
    else counts.set(row.said, (counts.get(row.said) || 0) + 1);
  }
  const parts = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 12).map(([name, count]) => `${count} ${name}`);
  if (failed) parts.push(`${failed} not read`);
  return `${shown.length} picture${shown.length > 1 ? "s" : ""}: ${parts.join(", ")}.`;
}

async function lookAt(given) {
  if (!known || at("choose").hidden) return;
  const files = [...given].sort((a, b) => (pathOf(a) < pathOf(b) ? -1 : 1));
  const own = ++turn;
  const only = files.length === 1;
  shown = [];
  at("rows").replaceChildren();
  for (const id of ["one", "many", "more"]) at(id).hidden = true;
  if (!files.length) return say("There is no picture among what was chosen.", true);
  at("stop").hidden = only;
  while (waiting) await new Promise((later) => setTimeout(later, 20));
  for (const [i, file] of files.entries()) {
    if (own !== turn) return undefined;
    say(only ? `Looking at ${file.name}.` : `Looking at ${i + 1} of ${files.length}.`);
    progress(i, files.length);
    const data = await ask(file);
    if (own !== turn) return undefined;
    const found = data.failed ? data : judged(data);
    if (only && found.failed) {
      progress(null);
      return say(`${file.name} ${found.reason}`, true);
    }
    if (only) showOne(file, found);
    else {
      at("many").hidden = false;
      addRow(file, found);
      at("summary").textContent = summary();
    }
  }
  ended();
  if (!only) {
    say("Done.");
    at("status").classList.add("heard"); // the summary says it to those who see
  }
  return undefined;
}

function ended() {
  progress(null);
  at("stop").hidden = true;
}

const quoted = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);

function csv() {
  const lines = [["path", "answer", "label", "probability", "unlike", "could_be", "problem", ...known.classes.map((c) => `p(${c})`)]];
  for (const row of shown) {
    const number = (value) => (value === null ? "" : value.toFixed(6));
    lines.push(
      row.failed
        ? [row.path, "", "", "", "", "", row.reason, ...known.classes.map(() => "")]
        : [row.path, row.said, row.label, number(row.probability), number(row.unlike), row.could_be.join(" | "), "", ...row.probabilities.map(number)],
    );
  }
  return "\ufeff" + lines.map((line) => line.map(quoted).join(",")).join("\r\n") + "\r\n"; // the mark is for Excel
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.download = "answers.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

const NAMES = /\.(jpe?g|jfif|png|webp|gif|bmp|avif|heic|heif|tiff?|ico)$/i;

for (const id of ["files", "photo", "folder"]) {
  at(id).addEventListener("change", ({ target }) => {
    // A folder has other files too; what was chosen by itself is looked at whatever it is called.
    const chosen = [...target.files].filter((f) => id !== "folder" || (NAMES.test(f.name) && !f.name.startsWith(".")));
    lookAt(chosen);
    target.value = "";
  });
}
at("download").addEventListener("click", download);
at("stop").addEventListener("click", () => {
  turn++;
  ended();
  say(`Stopped after ${shown.length}.`);
});
addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) lookAt(files);
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
addEventListener("drop", async (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  lookAt(await dropped(event.dataTransfer));
});

// Files and, where the browser gives them, what lies in dropped folders.
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
  const found = [];
  const visit = async (entry) => {
    if (entry.isFile) {
      const file = await new Promise((done, failed) => entry.file(done, failed));
      if (NAMES.test(file.name) && !file.name.startsWith(".")) found.push(file);
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((done, failed) => reader.readEntries(done, failed));
      if (!some.length) return;
      for (const inner of some) await visit(inner);
    }
  };
  for (const entry of entries) await visit(entry);
  return found;
}

start();
