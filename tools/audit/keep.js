// Keeping what is decided: in the browser, or at a server; and as a file.

const place = `audit:${data.id}`; // in this browser
const waiting = []; // what a server does not have yet
let sending = null; // the promise of what is under way

function keep(path, decision) {
  if (token) {
    waiting.push({ path, decision: decision?.decision ?? null, label: decision?.label ?? "" });
    send();
    return;
  }
  try {
    const kept = stored() ?? new Map(decisions); // another tab may have decided, too
    if (decision) kept.set(path, decision);
    else kept.delete(path);
    localStorage.setItem(place, JSON.stringify([...kept]));
    take(kept);
  } catch {
    problem("This browser keeps nothing for a file: download before you close it.");
  }
}

function stored() {
  const text = localStorage.getItem(place);
  return text === null ? null : new Map(JSON.parse(text));
}

function take(kept) {
  decisions.clear();
  for (const [path, decision] of kept) decisions.set(path, decision);
  paint();
}

function elsewhere(event) { // decided in another tab
  if (!token && event.key === place && event.newValue !== null) take(new Map(JSON.parse(event.newValue)));
}

async function ask(where, body) {
  const headers = { "X-Audit-Token": token };
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(where, body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

function send() { // ends when nothing waits, or something could not be sent
  if (!sending && waiting.length) sending = sendAll();
  return sending;
}

async function sendAll() {
  try {
    while (waiting.length) {
      await ask("/decide", waiting[0]);
      waiting.shift();
    }
    problem("");
  } catch (error) {
    problem(`Not saved: ${error.message}. It is tried again with the next decision.`);
  }
  sending = null;
}

function problem(text) {
  find("problem").textContent = text;
  find("problem").hidden = !text;
}

async function before() {
  show(); // at once: a key may be pressed before the answer is here
  try {
    const kept = token ? (await ask("/decisions")).decisions : stored() ?? [];
    take([...kept, ...decisions]);
  } catch (error) {
    if (token) problem(`What was decided before can't be read: ${error.message}.`);
  }
  paint();
  show();
}

function download() {
  const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const all = new Map(data.earlier); // what the audit's labels were made by; a keep keeps that
  for (const [path, made] of decisions) if (made.decision !== "keep" || !all.has(path)) all.set(path, made);
  const rows = [...all].map(([path, { decision, label }]) => [path, decision, label]);
  const text = [["path", "decision", "label"], ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  const link = el("a", { href: url, download: "decisions.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
  find("after").hidden = false;
}
