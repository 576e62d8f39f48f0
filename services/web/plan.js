// The plan: its steps as a graph of what needs what, each with its candidates below its question.

import { within } from "/web/search.js";
import { colour, count, figure, make, short } from "/web/words.js";

const { graphlib, layout } = globalThis.dagre;

const CARD = { width: 216, height: 94 };
const MOST_DOTS = 54;

// Draw the plans that matter while `chosen`, a step's key or "", is looked at: the plan of the whole,
// and the plan of the step where it has one of its own.
export function drawPlans(section, search, chosen, choose) {
  const shown = plansShown(search, chosen);
  section.hidden = shown.length === 0;
  const focused = document.activeElement?.dataset?.step;
  section.replaceChildren(...shown.map((plan) => drawPlan(search, plan, chosen, choose)));
  if (focused !== undefined) section.querySelector(`[data-step="${focused}"]`)?.focus();
}

// What changes a picture of the plans: as long as this stays the same it needs no new one.
export function planState(search, chosen) {
  const steps = [...search.steps.values()];
  const made = [...search.nodes.values()].filter((node) => search.stepOf(node.key) !== null);
  const scored = made.filter((node) => node.score !== null).length;
  const done = made.filter((node) => node.status !== "running").length;
  const states = steps.map((step) => `${step.state}${step.tokens}`).join();
  return `${search.id}/${chosen}/${search.plans.length}/${states}/${made.length}/${done}/${scored}`;
}

function plansShown(search, chosen) {
  const latest = (plans) => plans.at(-1);
  const inside = (plan) => [...search.steps.values()].find(
    (step) => step.plan !== plan && step.plan?.key !== plan.key && within(plan.key, step.key));
  // Nobody can draw a plan of which no step is known.
  const outermost = latest(search.plans.filter((plan) => plan.steps.length > 0 && !inside(plan)));
  const shown = outermost ? [outermost] : [];
  for (let step = search.steps.get(chosen); step; ) {
    const own = latest(search.plans.filter((plan) => plan.steps.length > 0 && inside(plan) === step));
    if (own && !shown.includes(own)) shown.push(own);
    if (step.plan && !shown.includes(step.plan)) shown.splice(1, 0, step.plan);
    step = step.plan ? inside(step.plan) : null;
  }
  return shown;
}

function drawPlan(search, plan, chosen, choose) {
  const graph = new graphlib.Graph();
  graph.setGraph({ rankdir: "LR", nodesep: 12, ranksep: 44, marginx: 16, marginy: 4 });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const step of plan.steps) graph.setNode(step.id, { ...CARD });
  for (const step of plan.steps) {
    for (const need of step.needs ?? []) if (graph.hasNode(need)) graph.setEdge(need, step.id);
  }
  layout(graph);
  const { width, height } = graph.graph();
  const cards = plan.steps.map((step) => {
    const { x, y } = graph.node(step.id);
    return card(search, step, chosen, choose, x - CARD.width / 2, y - CARD.height / 2);
  });
  const edges = graph.edges().map((edge) => arrow(graph.edge(edge).points));
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("width", width);
  svg.setAttribute("height", height);
  svg.setAttribute("aria-hidden", "true");
  svg.append(...edges);
  const area = make("div", { class: "graph", style: { width: `${width}px`, height: `${height}px` } });
  area.append(svg, ...cards);
  const number = search.plans.indexOf(plan) + 1;
  const of = search.plans.length > 1 ? ` ${number} of ${search.plans.length}` : "";
  const below = plan.key && search.stepOf(plan.key) ? `, of step ${search.stepOf(plan.key).id}` : "";
  return make("div", { class: "plan" }, make("h2", {}, `Plan${of}${below}`), area);
}

function arrow(points) {
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  const from = points[0];
  const to = points.at(-1);
  const bend = (from.x + to.x) / 2;
  path.setAttribute("d", `M${from.x},${from.y} C${bend},${from.y} ${bend},${to.y} ${to.x},${to.y}`);
  return path;
}

function card(search, step, chosen, choose, left, top) {
  const made = search.under(step.key);
  const dots = made.filter((node) => node.finished || node.status !== "done");
  const shown = (dots.length ? dots : made).slice(0, MOST_DOTS);
  const more = (dots.length ? dots : made).length - shown.length;
  const sure = step.confidence == null ? "" : ` ${figure(step.confidence)}`;
  const state = step.state === "ended" && step.answer == null ? "failed" : step.state;
  return make(
    "button",
    {
      type: "button", class: `step ${state}`, "data-step": step.key,
      "aria-pressed": String(step.key === chosen),
      style: { left: `${left}px`, top: `${top}px`, width: `${CARD.width}px`, height: `${CARD.height}px` },
      onclick: () => choose(step.key === chosen ? "" : step.key),
    },
    make("span", { class: "top" },
      make("b", {}, step.id ?? "?"),
      make("span", {}, state === "ended" ? "" : state === "again" ? "tried again" : state),
      make("span", { class: "spent" }, step.tokens == null ? "" : `${count(step.tokens)}${step.share == null ? "" : ` of ${count(step.share)}`}`)),
    make("span", { class: "asks" }, step.asked ?? ""),
    make("span", { class: "dots" },
      ...shown.map((node) => make("i", dotted(node))),
      more > 0 ? make("em", {}, `+${count(more)}`) : null),
    make("span", { class: "result" },
      step.answer == null ? null : make("b", {}, short(step.answer, 22)), sure),
    step.share ? make("span", { class: "share" },
      make("i", { style: { width: `${Math.min(100, (100 * (step.tokens ?? 0)) / step.share)}%` } })) : null,
  );
}

function dotted(node) {
  if (node.status !== "done") return { class: `dot ${node.status}` };
  if (node.score === null) return { class: "dot unscored" };
  return { class: "dot", style: { background: colour(node.score) } };
}
