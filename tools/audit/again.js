// Training again, where a server has the page.

async function follow() {
  try {
    const now = await ask("/status");
    training(now);
    if (now.state === "running") setTimeout(follow, 1000);
  } catch (error) {
    find("state").textContent = `The server does not answer: ${error.message}`;
    find("again").disabled = false;
  }
}

function training({ state, seconds, lines, scores, said: sentences }) {
  const words = { idle: "", running: `training, ${seconds} s …`, done: `done in ${seconds} s`, failed: "it failed" };
  find("state").textContent = words[state];
  find("again").disabled = state === "running";
  find("lines").hidden = !lines.length || state === "done";
  find("lines").textContent = lines.join("\n");
  find("told").hidden = !sentences.length;
  find("told").replaceChildren(...sentences.map((text) => el("li", { text })));
  find("scores").hidden = !scores.length;
  find("scores").replaceChildren(...scores.map(([name, score, of]) =>
    el("div", { class: "big" }, el("b", { text: score }), el("span", { text: name }), el("span", { text: of }))));
}

async function again() {
  find("again").disabled = true;
  try {
    await send();
    if (waiting.length) throw new Error("Not begun: the last decision is not saved.");
    await ask("/train", {});
    follow();
  } catch (error) {
    find("state").textContent = error.message;
    find("again").disabled = false;
  }
}
