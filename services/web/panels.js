// Everything about a search that is told in words, bars and curves.

import { keyOf } from "/web/search.js";
import { STOPPED, colour, count, dollars, figure, make, seconds, short } from "/web/words.js";

const d3 = globalThis.d3;

const MOST_VOTES = 8;
const DIMENSIONS = [
  { key: "completion_tokens", name: "generated", say: count },
  { key: "reward_tokens", name: "graded", say: count },
  { key: "candidates", name: "candidates", say: count },
  { key: "micro_usd", name: "cost", say: dollars },
];

export function drawHead(search, parts) {
  const { effort } = search;
  parts.question.textContent = search.question;
  const manner = effort
    ? [effort.strategy, effort.selector && `chosen by ${effort.selector}`, effort.stop && `until ${effort.stop}`]
    : [];
  parts.about.textContent = [...manner.filter(Boolean), seconds(search.seconds)].join(" · ");
  const told = search.outcome ?? search.standing;
  parts.answer.textContent = told?.answer == null ? (search.closed ? "no answer" : "…") : short(told.answer, 60);
  parts.answer.classList.toggle("sure", search.closed && told?.answer != null);
  const sure = told?.answer == null ? "" : `confidence ${figure(told.confidence)}`;
  const stopped = search.outcome?.stopped;
  const why = search.lost ?? (search.closed
    ? `${stopped ?? "closed"}: ${STOPPED[stopped] ?? "it is over"}`
    : progress(search));
  parts.stopped.textContent = [sure, why].filter(Boolean).join(" · ");
  parts.end.hidden = search.closed || search.lost !== null || !effort;
}

function progress({ standing }) {
  if (!standing) return "under way";
  const of = standing.planned ? ` of ${count(standing.planned)}` : "";
  return `under way: ${count(standing.finished)}${of} finished, ${count(standing.running)} running`;
}

// A bar an answer, beside the longest, coloured by the mean score of those who voted for it.
export function drawVotes(element, votes) {
  const most = d3.max(votes, (vote) => vote.count);
  const rows = votes.slice(0, MOST_VOTES).map((vote) => {
    const mean = vote.score == null ? null : vote.score / vote.count;
    const share = (100 * vote.count) / most;
    return make("div", { class: "vote", title: vote.answer },
      make("span", { class: "name" }, short(vote.answer, 28)),
      make("span", { class: "bar" },
        make("i", { style: { width: `${share}%`, background: mean === null ? "var(--faint)" : colour(mean) } })),
      make("span", { class: "number" }, count(vote.count)),
      make("span", { class: "number dim" }, vote.score == null ? "" : figure(vote.score)));
  });
  const rest = votes.slice(MOST_VOTES);
  if (rest.length) {
    rows.push(make("p", { class: "dim" }, `${rest.length} other answers with ${count(d3.sum(rest, (vote) => vote.count))}`));
  }
  if (!rows.length) rows.push(make("p", { class: "dim" }, "None yet."));
  else rows.unshift(make("div", { class: "vote heading" }, make("span"), make("span"),
    make("span", { class: "number" }, "votes"), make("span", { class: "number" }, "Σ score")));
  element.replaceChildren(...rows);
}

// A curve a dimension, against its limit where it has one.
export function drawBudget(element, search) {
  const { points, budget } = search;
  const end = Math.max(budget.deadline_seconds ?? 0, search.seconds, 0.001);
  const curves = DIMENSIONS.filter(({ key }) => budget[key] != null || points.at(-1)?.spent[key] > 0)
    .map(({ key, name, say }) => {
      const limit = budget[key] ?? null;
      const now = points.at(-1)?.spent[key] ?? 0;
      return make("div", { class: "curve" },
        make("span", { class: "name" }, name),
        curve(points.map(({ at, spent }) => [at, spent[key] ?? 0]), end, limit, now, budget.deadline_seconds),
        amount(say(now), limit === null ? null : say(limit)));
    });
  const time = make("div", { class: "curve" },
    make("span", { class: "name" }, "time"), make("span"),
    amount(seconds(search.seconds), budget.deadline_seconds == null ? null : seconds(budget.deadline_seconds)));
  element.replaceChildren(...curves, time);
}

function amount(now, limit) {
  return make("span", { class: "number" }, now, limit === null ? null : make("span", { class: "dim" }, ` of ${limit}`));
}

const SIZE = { width: 150, height: 26 };

function curve(points, end, limit, now, deadline) {
  const x = d3.scaleLinear([0, end], [0, SIZE.width]);
  const y = d3.scaleLinear([0, Math.max(limit ?? 0, now) * 1.04 || 1], [SIZE.height, 1]);
  const svg = d3.create("svg:svg").attr("viewBox", `0 0 ${SIZE.width} ${SIZE.height}`)
    .attr("preserveAspectRatio", "none").attr("aria-hidden", "true");
  const steps = [[0, 0], ...points, [Math.max(points.at(-1)?.[0] ?? 0, 0), now]];
  const shape = d3.area().x((point) => x(point[0])).y0(SIZE.height).y1((point) => y(point[1])).curve(d3.curveStepAfter);
  svg.append("path").attr("class", "area").attr("d", shape(steps));
  svg.append("path").attr("class", "rise").attr("d", shape.lineY1()(steps));
  if (limit !== null) svg.append("line").attr("class", "limit").attr("x2", SIZE.width).attr("y1", y(limit)).attr("y2", y(limit));
  if (deadline != null) {
    svg.append("line").attr("class", "limit").attr("x1", x(deadline)).attr("x2", x(deadline)).attr("y2", SIZE.height);
  }
  return svg.node();
}

export function drawCourse(element, search, choose) {
  const rows = search.course.map(({ at, what, words, more, step }) => {
    const said = [make("time", {}, seconds(at)),
      make("span", {}, make("b", {}, what), words ? ` ${words}` : "", more ? make("small", {}, more) : null)];
    return make("li", {}, step === null ? make("div", {}, ...said)
      : make("button", { type: "button", onclick: () => choose(step) }, ...said));
  });
  if (search.lost !== null) {
    rows.push(make("li", {}, make("div", {}, make("time"), make("span", { class: "bad" }, search.lost))));
  }
  const low = element.scrollTop + element.clientHeight >= element.scrollHeight - 30;
  element.replaceChildren(...rows);
  if (low) element.scrollTop = element.scrollHeight;
}

// All there is to say of the selected candidate, of the chosen step, or of the request.
export function drawDetail(element, search, stepKey, nodeKey) {
  const node = search.nodes.get(nodeKey);
  const step = search.steps.get(stepKey);
  // Drawn anew only when there is something new: somebody may be reading, or listening to it.
  const state = JSON.stringify([search.id, stepKey, nodeKey, search.chosen, node ?? stateOf(step), search.closed, search.effort]);
  if (element.dataset.state === state) return;
  element.dataset.state = state;
  if (node) element.replaceChildren(...ofNode(search, node));
  else if (step) element.replaceChildren(...ofStep(step));
  else element.replaceChildren(...ofSearch(search));
}

function stateOf(step) {
  return step ? { ...step, plan: null } : null;
}

function ofNode(search, node) {
  const inside = search.stepOf(node.key);
  const cost = node.cost ?? {};
  const graded = node.graded;
  const rows = [
    ["state", node.status === "done" ? `done (${node.finish})` : node.status],
    ["answer", node.answer],
    ["score", node.score === null ? null : scored(node.score)],
    ["tokens", node.tokens ? count(node.tokens) : null],
    ["log-probability", node.logprob === null ? null : figure(node.logprob)],
    ["cost", node.cost ? costs(cost) : null],
    ["grading", graded ? [graded.error ?? costs(graded.cost ?? {})].filter(Boolean).join() : null],
    ["worker", node.worker],
    ["graded by", graded?.worker],
    ["from, to", node.began === null ? null : `${seconds(node.began)} – ${node.ended === null ? "" : seconds(node.ended)}`],
    ["in step", inside ? inside.id : null],
    ["error", node.error],
  ];
  const title = node.key === search.chosen ? "The answer" : node.finished ? "Candidate" : "Partial candidate";
  return [heading(title, node.key), table(rows), ...text(search, node)];
}

function costs(cost) {
  const parts = [
    cost.prompt_tokens ? `${count(cost.prompt_tokens)} prompt${cost.cached_tokens ? ` (${count(cost.cached_tokens)} cached)` : ""}` : null,
    cost.completion_tokens ? `${count(cost.completion_tokens)} generated` : null,
    cost.reward_tokens ? `${count(cost.reward_tokens)} graded` : null,
    cost.micro_usd ? dollars(cost.micro_usd) : null,
  ].filter(Boolean);
  return parts.join(", ") || "nothing";
}

function scored(score) {
  return make("span", {}, make("i", { class: "dot", style: { background: colour(score) } }), ` ${figure(score, 3)}`);
}

// The text, what it took over from its parent dimmed, each of its steps with its score where the
// scores fit its lines.
function text(search, node) {
  if (!node.text) return [];
  let parent = null;
  for (let path = node.path.slice(0, -1); path.length && !parent; path = path.slice(0, -1)) {
    const found = search.nodes.get(keyOf(path));
    if (found?.text && node.text.startsWith(found.text)) parent = found;
  }
  const taken = parent?.text.length ?? 0;
  const pieces = steps(node);
  if (pieces === null) {
    const own = [make("span", { class: "taken" }, node.text.slice(0, taken)), node.text.slice(taken)];
    return [make("h3", {}, "Text"), make("pre", {}, ...own)];
  }
  let at = 0;
  const lines = pieces.map((piece, index) => {
    const score = node.stepScores[index];
    const old = at + piece.length <= taken;
    at += piece.length;
    return make("div", { class: old ? "taken" : "", style: { borderColor: colour(score) }, title: `score ${figure(score, 3)}` },
      make("span", {}, piece.replace(/\n+$/, "")), make("small", {}, figure(score)));
  });
  return [make("h3", {}, "Text, with the score of each step"), make("pre", { class: "steps" }, ...lines)];
}

function steps(node) {
  const wanted = node.stepScores.length;
  if (wanted < 2) return null;
  for (const apart of [/(?<=\n\n)/, /(?<=\n)/]) {
    const pieces = node.text.replace(/\n+$/, "").split(apart);
    if (pieces.length === wanted) return pieces;
  }
  return null;
}

function ofStep(step) {
  const rows = [
    ["state", step.state],
    ["answer", step.answer],
    ["confidence", step.confidence == null ? null : figure(step.confidence)],
    ["stopped", step.stopped ? `${step.stopped}: ${STOPPED[step.stopped] ?? ""}` : null],
    ["strategy", step.strategy],
    ["tokens", step.tokens == null ? null : count(step.tokens)],
    ["share", step.share == null ? null : `${count(step.share)} tokens`],
    ["needs", step.needs?.length ? step.needs.join(", ") : null],
  ];
  const asks = [make("h3", {}, "Question"), make("pre", {}, step.asked ?? "")];
  if (step.question && step.question !== step.asked) {
    asks.push(make("h3", {}, "As planned"), make("pre", {}, step.question));
  }
  return [heading("Step", step.id ?? step.key), table(rows), ...asks];
}

function ofSearch(search) {
  const { effort, budget } = search;
  const rows = [
    ["strategy", effort?.strategy],
    ["selector", effort?.selector],
    ["stop", effort?.stop],
    ["candidates", effort?.candidates == null ? null : `at most ${count(effort.candidates)}`],
    ["deadline", budget.deadline_seconds == null ? null : seconds(budget.deadline_seconds)],
    ["trace", search.id],
  ];
  const said = search.messages.flatMap((one) => [make("h3", {}, one.role), make("pre", {}, one.content)]);
  const notes = search.notes.length ? [make("h3", {}, "Notes"), ...search.notes.map((note) => make("p", {}, note))] : [];
  const help = make("p", { class: "dim" }, "Click a candidate to read it, or move to it with the arrow keys.");
  return [heading("Request", ""), table(rows), help, ...notes, ...said];
}

function heading(kind, name) {
  return make("h2", {}, kind, make("code", {}, name));
}

function table(rows) {
  const told = rows.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return make("dl", {}, ...told.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}
