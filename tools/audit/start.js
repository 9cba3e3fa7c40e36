// All parts begin.

map();
if (cards.length) {
  build();
  options();
  keys();
  find("before").addEventListener("click", () => step(-1));
  find("next").addEventListener("click", () => step(1));
  find("undo").addEventListener("click", undo);
  find("download").addEventListener("click", download);
  window.addEventListener("storage", elsewhere);
  before();
}
if (token) {
  find("train").hidden = false;
  find("again").addEventListener("click", again);
  follow();
}
draw();
