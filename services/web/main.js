// The page: a list of requests, and one of them shown while it goes on.
//
// What is looked at stands in the address (#request/step/candidate), so that it can be shared.

import { Forest } from "/web/forest.js";
import { drawBudget, drawCourse, drawDetail, drawHead, drawVotes } from "/web/panels.js";
import { drawPlans, planState } from "/web/plan.js";
import { Search } from "/web/search.js";
import { about, ago, count, figure, make, rampCss, short } from "/web/words.js";

const LIST_MS = 1000;
const LIST_PATIENCE_MS = 10_000;
const PANEL_MS = 120;
const KINDS = [
  "opened", "asked", "tokens", "told", "planned", "step", "decided", "standing", "cancelled",
  "closed", "settled",
];

const part = (id) => document.getElementById(id);
const parts = Object.fromEntries(
  ["question", "about", "answer", "stopped", "end", "plan", "scope", "all", "canvas", "hint", "nothing",
    "votes", "budget", "course", "detail", "list", "listing", "search", "empty", "how", "theme"]
    .map((id) => [id, part(id)]),
);

export const forest = new Forest(parts.canvas, parts.hint, (key) => look({ node: key ?? "" }));

let search = null;
let source = null;
let looked = { id: "", step: "", node: "" };
let following = true; // the newest request is shown until one is chosen
let planned = "";
let due = { panels: false, fresh: false };
let timer = null;
let listing = false;

// The list

// One question at a time: where the service is slow, more of them would make it slower.
async function list() {
  if (listing) return;
  listing = true;
  try {
    await listNow();
  } finally {
    listing = false;
  }
}

async function listNow() {
  let rows;
  try {
    const response = await fetch("/v1/traces?limit=100", { signal: AbortSignal.timeout(LIST_PATIENCE_MS) });
    if (!response.ok) throw new Error(`status ${response.status}`);
    rows = (await response.json()).data;
    parts.listing.textContent = "";
  } catch {
    parts.listing.textContent = "The service doesn't answer. Trying again…";
    return;
  }
  const focused = document.activeElement?.dataset?.trace;
  parts.list.replaceChildren(...rows.map(row));
  if (focused !== undefined) parts.list.querySelector(`[data-trace="${focused}"]`)?.focus();
  const none = rows.length === 0 && !looked.id;
  parts.empty.hidden = !none;
  parts.search.hidden = none || !looked.id;
  if (following && rows.length && rows[0].id !== looked.id) look({ id: rows[0].id, step: "", node: "" });
}

function row(one) {
  const facts = [
    one.answer === null ? null : `${short(one.answer, 18)}`,
    one.confidence === null ? null : figure(one.confidence),
    one.strategy,
    one.completion_tokens === null ? null : `${about(one.completion_tokens)} tok`,
  ];
  const state = one.under_way ? "running" : one.stopped === null ? "lost" : "over";
  const said = { running: "under way", lost: "never ended", over: ago(one.began) }[state];
  return make("li", {}, make("button",
    {
      type: "button", "data-trace": one.id, class: state,
      "aria-current": one.id === looked.id ? "true" : null,
      onclick: () => {
        following = false;
        look({ id: one.id, step: "", node: "" });
        list();
      },
    },
    make("span", { class: "asked" }, one.question || "(no question)"),
    make("span", { class: "facts" }, make("span", {}, facts.filter(Boolean).join(" · ")), make("span", { class: "when" }, said)),
  ));
}

// What is looked at

function look(change) {
  const before = looked;
  looked = { ...looked, ...change };
  const path = [looked.id, looked.step, looked.node];
  while (path.length > 1 && path.at(-1) === "") path.pop();
  const address = `#${path.join("/")}`;
  if (location.hash !== address) history.replaceState(null, "", address);
  if (looked.id !== before.id) open(looked.id);
  else if (looked.step !== before.step) show({ fresh: true });
  drawSelection();
}

function readAddress() {
  const [id = "", step = "", node = ""] = location.hash.slice(1).split("/");
  const plain = (text) => (/^[\w.-]*$/.test(text) ? text : "");
  if (plain(id)) following = false;
  look({ id: plain(id), step: plain(step), node: plain(node) });
}

function choose(step) {
  look({ step, node: "" });
}

function drawSelection() {
  if (!search) return;
  forest.select(looked.node || null, { told: false });
  drawDetail(parts.detail, search, looked.step, looked.node);
}

// One search, as it goes on

function open(id) {
  source?.close();
  search = new Search(id);
  planned = "";
  parts.search.hidden = false;
  parts.empty.hidden = true;
  parts.end.disabled = false;
  source = new EventSource(`/v1/traces/${encodeURIComponent(id)}/events`);
  const mine = source;
  const heard = search;
  for (const kind of KINDS) {
    mine.addEventListener(kind, (event) => {
      heard.see(JSON.parse(event.data));
      show({});
    });
  }
  mine.addEventListener("lost", (event) => {
    heard.lost = JSON.parse(event.data).reason;
    mine.close();
    show({});
  });
  // A stream that ends is asked for again by the browser, from the last event on; one that was over
  // needn't be, and one that was refused is gone.
  mine.addEventListener("error", () => {
    if (heard.closed) mine.close();
    else if (mine.readyState === EventSource.CLOSED) heard.lost = "This trace can't be read, or isn't there any more.";
    show({});
  });
  show({ fresh: true });
}

// Have everything drawn soon: events come faster than anybody can see.
function show({ fresh = false }) {
  due.fresh ||= fresh;
  if (fresh) {
    clearTimeout(timer);
    timer = setTimeout(draw, 0);
  } else timer ??= setTimeout(draw, PANEL_MS);
}

function draw() {
  timer = null;
  drawHead(search, parts);
  const state = planState(search, looked.step);
  if (state !== planned) drawPlans(part("plan"), search, looked.step, choose);
  planned = state;
  forest.show(search, looked.step, { fresh: due.fresh });
  due.fresh = false;
  const step = search.steps.get(looked.step);
  const made = search.under(looked.step);
  const finished = made.filter((node) => node.finished).length;
  const numbers = `${count(finished)} finished of ${count(made.length)} node${made.length === 1 ? "" : "s"}`;
  parts.scope.textContent = `${step ? `Step ${step.id}` : "Whole search"}: ${numbers}`;
  parts.all.hidden = looked.step === "";
  parts.nothing.hidden = made.length > 0;
  parts.nothing.textContent = search.lost ?? (search.closed ? "Nothing was sampled." : "Nothing sampled yet.");
  drawVotes(parts.votes, search.votes(looked.step));
  drawBudget(parts.budget, search);
  drawCourse(parts.course, search, choose);
  drawSelection();
}

// The rest

parts.all.addEventListener("click", () => choose(""));
parts.end.addEventListener("click", async () => {
  parts.end.disabled = true;
  const response = await fetch(`/v1/traces/${encodeURIComponent(looked.id)}`, { method: "DELETE" });
  parts.end.disabled = response.ok;
});

function theme(name) {
  document.documentElement.dataset.theme = name;
  forest.themed();
}
const dark = matchMedia("(prefers-color-scheme: dark)");
theme(localStorage.getItem("theme") ?? (dark.matches ? "dark" : "light"));
dark.addEventListener("change", () => {
  if (!localStorage.getItem("theme")) theme(dark.matches ? "dark" : "light");
});
parts.theme.addEventListener("click", () => {
  const other = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem("theme", other);
  theme(other);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (looked.node) look({ node: "" });
  else if (looked.step) choose("");
});

part("scale").style.background = rampCss;
parts.how.textContent = `longthink ask --url ${location.origin} "What is 17 x 23?"`;
window.addEventListener("hashchange", readAddress);
readAddress();
list();
setInterval(() => {
  if (!document.hidden) list();
}, LIST_MS);
