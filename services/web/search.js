// One request as its trace tells it. Events may come in any pieces, each is taken once.

import { STOPPED, answerIn, count, short } from "/web/words.js";

const MOST_POINTS = 600;

export const keyOf = (path) => path.join(".");
export const pathOf = (key) => (key === "" ? [] : key.split(".").map(Number));
export const within = (key, prefix) =>
  prefix === "" || key === prefix || key.startsWith(`${prefix}.`);

export class Search {
  constructor(id) {
    this.id = id;
    this.seq = -1;
    this.question = "";
    this.messages = [];
    this.effort = null;
    this.budget = {};
    this.nodes = new Map(); // by key: what each candidate is known to be
    this.plans = []; // in the order in which they were made
    this.steps = new Map(); // by key: the steps of all plans
    this.standing = null;
    this.points = []; // what was spent, over time
    this.course = []; // what is worth telling, in order
    this.outcome = null;
    this.chosen = null; // the key of the candidate that is the answer
    this.notes = [];
    this.seconds = 0;
    this.lost = null;
  }

  get closed() {
    return this.outcome !== null;
  }

  see(event) {
    if (event.seq <= this.seq) return;
    this.seq = event.seq;
    this.seconds = event.seconds;
    this[`_${event.kind}`]?.(event.data, event.seconds);
  }

  // The step that lies at or above a path, the nearest one.
  stepOf(key) {
    for (let at = key; at !== ""; at = at.slice(0, Math.max(0, at.lastIndexOf(".")))) {
      if (this.steps.has(at)) return this.steps.get(at);
    }
    return null;
  }

  // The candidates at and below a path.
  under(prefix) {
    return [...this.nodes.values()].filter((node) => within(node.key, prefix));
  }

  // The votes: those of the search, or what the candidates below a step come to.
  votes(prefix) {
    const told = this.outcome ?? this.standing;
    if (prefix === "" && (told?.votes?.length || this.plans.length)) return told?.votes ?? [];
    const votes = new Map();
    for (const node of this.under(prefix)) {
      if (!node.finished || node.answer === null) continue;
      const vote = votes.get(node.answer) ?? { answer: node.answer, count: 0, score: null };
      vote.count += 1;
      if (node.score !== null) vote.score = (vote.score ?? 0) + node.score;
      votes.set(node.answer, vote);
    }
    return [...votes.values()].sort((a, b) => b.count - a.count || (b.score ?? 0) - (a.score ?? 0));
  }

  _opened(data) {
    this.messages = data.query.messages;
    this.question = this.messages.findLast?.((one) => one.role === "user")?.content ?? "";
    this.effort = data.effort;
    this.budget = data.effort.budget ?? {};
    this.promptTokens = data.prompt_tokens;
    this._tell(0, "opened", `${this.effort.strategy}`, null);
  }

  _asked(data, at) {
    for (const id of data.tasks) {
      if (id.startsWith("expand:")) this._node(id.slice(7)).began ??= at;
    }
  }

  _tokens(data) {
    const [, key] = /\/expand:([\d.]+)#/.exec(data.id) ?? [];
    if (key === undefined) return;
    const node = this._node(key);
    node.text = node.text.slice(0, data.after) + data.text;
  }

  _told(data, at) {
    const [, task, key] = /^(expand|grade):([\d.]+)$/.exec(data.id) ?? [];
    if (key === undefined) return;
    const node = this._node(key);
    const made = data.candidate;
    if (task === "grade") {
      node.graded = { cost: data.cost, worker: data.worker, error: data.error };
      if (made === null) return;
    } else {
      node.status = data.status;
      node.ended = at;
      node.cost = data.cost ?? null;
      node.worker = data.worker ?? null;
      node.error = data.error ?? null;
    }
    if (made === null) return;
    node.text = made.text;
    node.tokens = made.token_ids.length;
    node.finish = made.finish;
    node.finished = made.finish === "stop" || made.finish === "length";
    node.score = made.score;
    node.stepScores = made.step_scores ?? [];
    node.logprob = made.logprob ?? null;
    node.answer = made.answer ?? (node.finished ? answerIn(made.text) : null);
  }

  _planned(data, at) {
    const plan = { key: keyOf(data.path), steps: [], notes: data.notes ?? [], at };
    for (const [key, step] of this.steps) if (step.plan?.key === plan.key) this.steps.delete(key);
    for (const told of data.steps) {
      const key = keyOf(told.path);
      const step = { key, id: told.id, question: told.question, needs: told.needs, state: "waiting" };
      step.asked = told.question;
      step.plan = plan;
      plan.steps.push(step);
      this.steps.set(key, step);
    }
    this.plans.push(plan);
    const words = `${plan.steps.length} step${plan.steps.length === 1 ? "" : "s"}`;
    this._tell(at, this.plans.length > 1 ? "planned again" : "planned", words, plan.notes.join(" "));
  }

  _step(data, at) {
    const step = this.steps.get(keyOf(data.path)) ?? { key: keyOf(data.path), needs: [] };
    this.steps.set(step.key, step);
    Object.assign(step, {
      id: data.id,
      state: data.state,
      asked: data.question ?? step.asked,
      strategy: data.strategy,
      tokens: data.tokens,
      share: data.share,
    });
    if (data.state === "ended") {
      Object.assign(step, { answer: data.answer, confidence: data.confidence, stopped: data.stopped });
      const words = data.answer == null ? "no answer" : short(data.answer, 30);
      this._tell(at, `${data.id} ended`, words, STOPPED[data.stopped] ?? null, step.key);
    } else {
      const again = data.state === "again" ? "tried again" : "began";
      this._tell(at, `${data.id} ${again}`, data.strategy ?? "", null, step.key);
    }
  }

  _decided(data, at) {
    const figures = Object.entries(data.figures ?? {})
      .map(([name, value]) => `${name} ${typeof value === "number" ? Number(value.toPrecision(3)) : value}`)
      .join(" · ");
    this._tell(at, data.what, data.why, figures || null);
  }

  _standing(data, at) {
    this.standing = data;
    this._spent(data.spent, at);
  }

  _closed(data, at) {
    this.outcome = data.outcome;
    this.chosen = data.outcome.ranked?.length ? keyOf(data.outcome.ranked[0]) : null;
    this.notes = data.outcome.notes ?? [];
    this._spent(data.spent, at);
    const stopped = data.outcome.stopped;
    this._tell(at, stopped ?? "closed", STOPPED[stopped] ?? "", this.notes.join(" ") || null);
  }

  _settled(data, at) {
    this._spent(data.spent, at);
    const tokens = `${count(data.spent.completion_tokens)} tokens in the end`;
    this._tell(at, "settled", tokens, null);
  }

  _node(key) {
    let node = this.nodes.get(key);
    if (node === undefined) {
      node = {
        key, path: pathOf(key), status: "running", text: "", tokens: 0, finish: null,
        finished: false, score: null, stepScores: [], answer: null, cost: null, worker: null,
        error: null, logprob: null, graded: null, began: null, ended: null,
      };
      this.nodes.set(key, node);
    }
    return node;
  }

  _spent(spent, at) {
    this.points.push({ at, spent });
    if (this.points.length > MOST_POINTS) {
      this.points = this.points.filter((_, i) => i % 2 === 0 || i === this.points.length - 1);
    }
  }

  _tell(at, what, words, more, step = null) {
    this.course.push({ at, what, words, more, step });
  }
}
