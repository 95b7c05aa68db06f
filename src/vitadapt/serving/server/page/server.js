"use strict";
const $ = (id) => document.getElementById(id);
const REFRESH = 5000; // milliseconds between looks at the list of models
const state = { token: "", file: null, models: null, turn: 0, heat: 0 };
const percent = (value) => `${(100 * value).toFixed(1)} %`;

// ---- the server
async function ask(path, options = {}) {
  const headers = { ...(options.headers ?? {}), ...(state.token ? { Authorization: `Bearer ${state.token}` } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("The server cannot be reached.");
  }
  if (answer.ok) return answer;
  if (answer.status === 401) $("door").hidden = false;
  const body = await answer.json().catch(() => null);
  throw new Error(body?.error?.message ?? `The server answers ${answer.status}.`);
}

async function models() {
  const found = await (await ask("v1/models")).json();
  $("door").hidden = true;
  if (JSON.stringify(found.models) === JSON.stringify(state.models)) return;
  state.models = found.models;
  const chosen = $("model").value;
  $("model").replaceChildren(...state.models.map((model) => new Option(model.name, model.name)));
  $("model").disabled = !state.models.length;
  if (!state.models.length) $("model").append(new Option("none is served yet"));
  if (state.models.some((model) => model.name === chosen)) $("model").value = chosen;
  about();
}

function refresh() {
  if (state.models && !document.hidden) models().catch(() => {}); // what is asked next says what is wrong
}

function about() {
  const model = state.models?.find((one) => one.name === $("model").value);
  if (!model) return ($("about").textContent = "");
  const names = model.classes.slice(0, 8).join(", ") + (model.classes.length > 8 ? " …" : "");
  $("about").textContent = `${model.classes.length} classes (${names}) · ${model.method} on ${model.backbone}, ${model.image_size} px`;
}

// ---- one picture
function take(file) {
  if (!file) return;
  state.file = file;
  const old = $("picture").src;
  $("picture").src = URL.createObjectURL(file);
  if (old) URL.revokeObjectURL(old);
  $("picture").alt = $("name").textContent = file.name || "pasted picture";
  look();
}

function body() {
  const form = new FormData();
  form.append("file", state.file, state.file.name || "picture");
  return { method: "POST", body: form };
}

async function look() {
  if (!state.file || $("model").disabled) return;
  const turn = ++state.turn;
  state.heat++; // an explanation on its way is of another picture
  showHeat(null);
  const model = encodeURIComponent($("model").value);
  const threshold = $("threshold").value ? `&threshold=${$("threshold").value}` : "";
  const refuse = `&refuse=${$("refuse").value}`;
  busy("answer", true);
  try {
    const found = await (await ask(`v1/${model}/predict?top=8${threshold}${refuse}`, body())).json();
    if (turn !== state.turn) return;
    show(found.answers[0]);
    explain(); // the answer need not wait for its reasons
  } catch (error) {
    if (turn === state.turn) fail(error);
  } finally {
    if (turn === state.turn) busy("answer", false);
  }
}

function busy(id, now) {
  $(id).classList.toggle("busy", now);
  $(id).setAttribute("aria-busy", now);
}

function show(answer) {
  const rows = Object.entries(answer.top).sort((a, b) => b[1] - a[1]); // an object sorts names that are numbers
  const best = rows[0][0];
  const sure = answer.class !== null && !answer.unknown;
  const name = document.createElement("b");
  const labels = answer.labels ? Object.entries(answer.labels).sort((a, b) => b[1] - a[1]) : null; // several per image
  name.textContent = sure ? (labels?.map(([label]) => label).join(", ") ?? answer.class) : answer.unknown ? "Unknown" : labels ? "No label" : "Unsure";
  const unlike = `unlike the training pictures; of the classes most likely ${best}, with ${percent(answer.probability)}`;
  const rest = answer.unknown ? unlike : sure && labels ? `each with at least ${percent(labels.at(-1)[1])}` : sure ? `with ${percent(answer.probability)}` : `most likely ${best}, with ${percent(answer.probability)} only`;
  $("verdict").replaceChildren(name, rest);
  $("verdict").classList.toggle("unsure", !sure);
  $("bars").replaceChildren(...rows.map(bar));
  const model = state.models?.find((one) => one.name === $("model").value);
  const hidden = (model?.classes.length ?? 0) - rows.length;
  const more = hidden > 0 ? [`and ${hidden} less probable classes`] : [];
  if (answer.unknown === null) more.push("this model cannot tell unknown pictures");
  $("more").textContent = more.join("; ");
  for (const id of ["empty", "trouble"]) $(id).hidden = true;
  $("sides").hidden = false;
}

function bar([name, value]) {
  const row = document.createElement("tr");
  const [head, graph, number] = ["th", "td", "td"].map((tag) => document.createElement(tag));
  const drawn = document.createElement("progress");
  head.scope = "row";
  head.textContent = name;
  drawn.max = 1;
  drawn.value = value;
  drawn.setAttribute("aria-hidden", "true");
  graph.append(drawn);
  number.textContent = percent(value);
  row.append(head, graph, number);
  return row;
}

function fail(error) {
  $("trouble").textContent = error.message;
  $("trouble").hidden = false;
  $("empty").hidden = $("sides").hidden = $("why").hidden = true;
}

// ---- why
async function explain() {
  const turn = ++state.heat;
  const model = encodeURIComponent($("model").value);
  $("why").hidden = false;
  $("wait").textContent = "The heat map is being computed …";
  busy("why", true);
  try {
    const answer = await ask(`v1/${model}/explain?picture=overlay&kind=${$("kind").value}`, body());
    const data = await answer.blob();
    if (turn !== state.heat) return;
    showHeat(data);
    $("wait").textContent = "";
  } catch (error) {
    if (turn !== state.heat) return;
    showHeat(null);
    $("wait").textContent = error.message;
  }
  busy("why", false);
}

function showHeat(data) {
  const old = $("heat").getAttribute("src");
  if (data) $("heat").src = URL.createObjectURL(data);
  else $("heat").removeAttribute("src");
  $("heat").hidden = !data;
  $("heat").alt = data ? "Heat map: the parts of the picture that speak for the answer" : "";
  if (old) URL.revokeObjectURL(old);
}

// ---- controls
$("file").addEventListener("change", () => take($("file").files[0]));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => take([...event.clipboardData.files].find((file) => file.type.startsWith("image/"))));
$("model").addEventListener("change", () => { about(); look(); });
for (const id of ["threshold", "refuse"]) $(id).addEventListener("change", look);
$("kind").addEventListener("change", explain);
$("door").addEventListener("submit", (event) => {
  event.preventDefault();
  state.token = $("token").value;
  models().then(look, fail);
});
models().catch(fail);
setInterval(refresh, REFRESH);
document.addEventListener("visibilitychange", refresh);
