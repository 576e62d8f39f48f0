// The tree of candidates on a canvas: depth from left to right, a row for each leaf, and beside each
// leaf what it came to. Zooming spreads the rows; words are written where there is room for them.
// Candidates that nothing grows from are a list, in as many columns as they need. Only what is in
// sight is drawn, so that a tree of thousands of nodes moves smoothly.

import { pathOf, within } from "/web/search.js";
import { colour, count, figure, short } from "/web/words.js";

const d3 = globalThis.d3;

const PAD = 16;
const TOP = 30;
const CELL = 150; // pixels of a column of a list, at least
const LINE = 17; // pixels of a row of a list, at least, while there is room for another column
const ROW = 22; // pixels, where there is room
const WORDS = 10; // pixels of a row from which words fit
const COLUMN = { least: 10, most: 54, alone: 220 }; // pixels of a level, the last without words

export class Forest {
  constructor(canvas, hint, select) {
    this.canvas = canvas;
    this.hint = hint;
    this.onSelect = select;
    this.context = canvas.getContext("2d", { alpha: false });
    this.search = null;
    this.prefix = "";
    this.root = d3.hierarchy({ key: "", children: [] });
    this.nodes = [];
    this.byKey = new Map();
    this.rows = 1;
    this.columns = 1;
    this.transform = d3.zoomIdentity;
    this.moved = false;
    this.selected = null;
    this.size = [0, 0];
    this.zoom = d3
      .zoom()
      .constrain((transform) => this._within(transform))
      .on("zoom", (event) => {
        this.transform = event.transform;
        this.moved ||= event.sourceEvent != null;
        this._soon();
      });
    d3.select(canvas)
      .call(this.zoom)
      .on("dblclick.zoom", null)
      .on("mousemove", (event) => this._hover(event))
      .on("mouseleave", () => (this.hint.hidden = true))
      .on("click", (event) => this._click(event))
      .on("keydown", (event) => this._key(event));
    new ResizeObserver(() => this._resize()).observe(canvas.parentElement);
    this.themed();
  }

  // Read the colours of the theme anew.
  themed() {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(name).trim();
    this.ink = {
      paper: read("--panel"), text: read("--ink"), dim: read("--dim"), faint: read("--faint"),
      line: read("--edge"), accent: read("--accent"), wash: read("--wash"), bad: read("--bad"),
    };
    this._soon();
  }

  // Show these candidates of a search below `prefix`. `fresh` shows all of them at once.
  show(search, prefix, { fresh }) {
    this.search = search;
    this.prefix = prefix;
    this.root = layOut(search.under(prefix), prefix, search);
    this.nodes = this.root.descendants();
    this.byKey = new Map(this.nodes.map((node) => [node.data.key, node]));
    this.rows = Math.max(1, this.root.rows);
    this.columns = 1;
    this.deepest = Math.max(1, this.root.height);
    this.best = new Set();
    const chosen = this.byKey.get(search.chosen);
    if (chosen) for (const node of chosen.ancestors()) this.best.add(node);
    if (fresh) this.moved = false;
    this._fit();
  }

  // Select a candidate, and bring it into sight.
  select(key, { told = true } = {}) {
    this.selected = key;
    const node = this.byKey.get(key);
    if (node) {
      const [, y] = this._at(node);
      if (y < TOP + 8 || y > this.size[1] - 8) {
        const { k } = this.transform;
        this._move(d3.zoomIdentity.translate(0, this.size[1] / 2 - node.row * k).scale(k));
      }
    }
    this._soon();
    if (told) this.onSelect(key);
  }

  // Where a candidate is, in pixels of the window.
  where(key) {
    const [x, y] = this._at(this.byKey.get(key));
    const { left, top } = this.canvas.getBoundingClientRect();
    return { x: left + x, y: top + y };
  }

  draw() {
    const { context, ink } = this;
    const [width, height] = this.size;
    const ratio = devicePixelRatio;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = ink.paper;
    context.fillRect(0, 0, width, height);
    if (this.search === null) return;
    const { k } = this.transform;
    const seen = this.nodes.filter((node) => {
      const y = this._y(node.row);
      return y > -k && y < height + k;
    });
    const selected = this.byKey.get(this.selected);
    if (selected && !selected.children && k >= WORDS && this.columns === 1) {
      context.fillStyle = ink.wash;
      context.fillRect(0, this._y(selected.row) - k / 2, width, k);
    }
    if (this.columns === 1) this._links();
    const radius = Math.max(1.6, Math.min(5, k * 0.36));
    if (k >= WORDS) this._rows(seen);
    for (const node of seen) this._dot(node, radius);
    this._labels(seen);
    if (k >= WORDS && this.columns === 1) this._heading();
  }

  _links() {
    const { context, ink } = this;
    const height = this.size[1];
    const path = (wanted) => {
      context.beginPath();
      for (const node of this.nodes) {
        if (!node.parent || this.best.has(node) !== wanted) continue;
        const [x, y] = this._at(node);
        const [px, py] = this._at(node.parent);
        if ((y < 0 || y > height) && (py < 0 || py > height)) continue;
        const bend = px + (x - px) * 0.5;
        context.moveTo(px, py);
        context.bezierCurveTo(bend, py, bend, y, x, y);
      }
    };
    path(false);
    context.strokeStyle = ink.line;
    context.lineWidth = this.transform.k > 6 ? 1 : 0.6;
    context.stroke();
    path(true);
    context.strokeStyle = ink.accent;
    context.lineWidth = 1.8;
    context.stroke();
  }

  _dot(node, radius) {
    const { context, ink } = this;
    if (node === this.root && this.columns > 1) return;
    const [x, y] = this._at(node);
    const made = node.data.made;
    context.beginPath();
    if (node.data.step || node === this.root) {
      const half = Math.max(2, radius * 0.9);
      context.roundRect(x - half, y - half, half * 2, half * 2, 2);
      context.fillStyle = node.data.step ? ink.text : ink.dim;
      context.fill();
    } else if (made === null) {
      context.arc(x, y, Math.max(1.2, radius * 0.45), 0, 7);
      context.fillStyle = ink.line;
      context.fill();
    } else if (made.status === "failed") {
      const arm = Math.max(1.6, radius * 0.7);
      context.moveTo(x - arm, y - arm);
      context.lineTo(x + arm, y + arm);
      context.moveTo(x + arm, y - arm);
      context.lineTo(x - arm, y + arm);
      context.strokeStyle = ink.bad;
      context.lineWidth = 1.6;
      context.stroke();
    } else {
      context.arc(x, y, radius, 0, 7);
      const hollow = made.status !== "done";
      context.fillStyle = hollow ? ink.paper : made.score === null ? ink.faint : colour(made.score);
      context.fill();
      if (hollow) {
        context.strokeStyle = made.status === "running" ? ink.accent : ink.faint;
        context.lineWidth = 1.3;
        context.stroke();
      }
    }
    if (node.data.key === this.search.chosen) ring(context, x, y, radius + 3, ink.accent, 1.6);
    if (node.data.key === this.selected) ring(context, x, y, radius + 4.5, ink.text, 1.6);
  }

  // What each leaf came to, beside it.
  _rows(seen) {
    const { context, ink } = this;
    const { k } = this.transform;
    const width = this.size[0];
    const [answers, scores, tokens, words] = this._columns();
    context.font = `${k >= 15 ? 12 : k >= 12 ? 10.5 : 9.5}px ${FONT}`;
    context.textBaseline = "middle";
    const told = this.search.steps.get(this.prefix) ?? this.search.outcome ?? this.search.standing;
    const leader = told?.answer;
    for (const node of seen) {
      const made = node.data.made;
      const y = this._y(node.row);
      if (made !== null && !node.children) {
        const leads = made.answer !== null && same(made.answer, leader);
        context.fillStyle = leads ? ink.text : ink.dim;
        context.textAlign = "left";
        if (this.columns > 1) {
          const [x] = this._at(node);
          context.fillText(verdict(made), x + 11, y);
          context.textAlign = "right";
          if (made.score !== null) context.fillText(figure(made.score), x + this._cell() - 24, y);
          continue;
        }
        context.fillText(verdict(made), answers, y);
        context.textAlign = "right";
        context.fillStyle = ink.text;
        if (made.score !== null) context.fillText(figure(made.score), scores, y);
        context.fillStyle = ink.dim;
        if (made.tokens) context.fillText(count(made.tokens), tokens, y);
        context.textAlign = "left";
        context.fillStyle = ink.faint;
        const room = Math.floor((width - words - PAD) / 6.4);
        if (room > 8) context.fillText(short((node.data.line ??= line(node)), room), words, y);
      }
    }
  }

  // The names of the plan's steps, where there is room between them.
  _labels(seen) {
    const { context, ink } = this;
    let free = -Infinity;
    context.font = `11px ${FONT}`;
    context.textAlign = "right";
    context.textBaseline = "middle";
    const steps = seen.filter((node) => node.data.step).sort((a, b) => a.row - b.row);
    for (const node of steps) {
      const [x, y] = this._at(node);
      if (y < free) continue;
      free = y + 13;
      const text = short(node.data.step.id ?? "", 14);
      const wide = context.measureText(text).width;
      context.fillStyle = ink.paper;
      context.fillRect(x - wide - 12, y - 7, wide + 5, 14);
      context.fillStyle = ink.text;
      context.fillText(text, x - 9, y);
    }
  }

  _heading() {
    const { context, ink } = this;
    const [answers, scores, tokens, words] = this._columns();
    context.fillStyle = ink.paper;
    context.fillRect(0, 0, this.size[0], TOP - 8);
    context.font = `10.5px ${FONT}`;
    context.fillStyle = ink.faint;
    context.textBaseline = "middle";
    context.textAlign = "left";
    context.fillText("answer", answers, 11);
    context.fillText("text", words, 11);
    context.textAlign = "right";
    context.fillText("score", scores, 11);
    context.fillText("tokens", tokens, 11);
  }

  _columns() {
    const right = this._x(this.deepest) + 16;
    return [right, right + 136, right + 192, right + 210];
  }

  // Without words beside it, the tree has the whole width; as they come it makes room for them.
  _x(depth) {
    const [width] = this.size;
    const words = Math.max(0, Math.min(1, (this.transform.k - WORDS * 0.8) / (WORDS * 0.2)));
    const indent = PAD + 8;
    const room = Math.max(60, width * (0.96 - 0.46 * words) - indent);
    const most = COLUMN.alone + (COLUMN.most - COLUMN.alone) * words;
    return indent + depth * Math.max(COLUMN.least, Math.min(most, room / this.deepest));
  }

  _y(row) {
    return this.transform.y + row * this.transform.k;
  }

  _at(node) {
    const x = this.columns > 1 ? PAD + 8 + (node.column ?? 0) * this._cell() : this._x(node.depth);
    return [x, this._y(node.row)];
  }

  _cell() {
    return (this.size[0] - PAD * 2) / this.columns;
  }

  // Put what is a list into as many columns as it needs, and as there are.
  _wrap() {
    const room = Math.max(1, Math.floor((this.size[1] - TOP - PAD * 1.5) / LINE));
    const most = Math.max(1, Math.floor((this.size[0] - PAD * 2) / CELL));
    const leaves = this.root.children;
    this.columns = Math.min(most, Math.ceil(leaves.length / room));
    this.rows = Math.ceil(leaves.length / this.columns);
    leaves.forEach((leaf, place) => {
      leaf.row = place % this.rows;
      leaf.column = Math.floor(place / this.rows);
    });
    this.root.row = (this.rows - 1) / 2;
  }

  // Scrolled no further than to the first and the last row; k is the height of a row.
  _within(transform) {
    const k = transform.k;
    const room = this.size[1] - TOP - PAD;
    const span = (this.rows - 1) * k;
    const first = TOP + Math.min(k, ROW) / 2;
    const y = span <= room ? first : Math.max(this.size[1] - PAD - span, Math.min(first, transform.y));
    return d3.zoomIdentity.translate(0, y).scale(k);
  }

  _fit() {
    if (this.root.height === 1) this._wrap();
    const least = Math.min(ROW, (this.size[1] - TOP - PAD * 1.5) / this.rows);
    if (!(least > 0)) return;
    this.zoom.scaleExtent([least, Math.max(ROW, least)]);
    const k = this.moved ? Math.max(least, this.transform.k) : least;
    this._move(d3.zoomIdentity.translate(0, this.moved ? this.transform.y : TOP).scale(k));
  }

  _move(transform) {
    d3.select(this.canvas).call(this.zoom.transform, this._within(transform));
    this._soon();
  }

  _resize() {
    const { clientWidth: width, clientHeight: height } = this.canvas.parentElement;
    if (width === 0 || height === 0) return;
    this.size = [width, height];
    this.canvas.width = width * devicePixelRatio;
    this.canvas.height = height * devicePixelRatio;
    this._fit();
    this.draw();
  }

  _soon() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
    });
  }

  // The candidate at a place: the nearest dot, or among the words the leaf of that row.
  _find(event) {
    const [mx, my] = d3.pointer(event, this.canvas);
    const listed = this.columns > 1;
    const among = !listed && mx > this._x(this.deepest) + 10;
    let found = null;
    let nearest = among ? Math.max(4, this.transform.k / 2) : 14;
    for (const node of this.nodes) {
      const [x, y] = this._at(node);
      const inside = !node.children && (among || (listed && mx > x - 10 && mx < x - 10 + this._cell()));
      const far = inside ? Math.abs(y - my) : among ? Infinity : Math.hypot(x - mx, y - my);
      if (far < nearest) {
        nearest = far;
        found = node;
      }
    }
    return found;
  }

  _hover(event) {
    const node = this._find(event);
    this.canvas.style.cursor = node && node !== this.root ? "pointer" : "grab";
    this.hint.hidden = !node || node === this.root;
    if (this.hint.hidden) return;
    const made = node.data.made;
    this.hint.textContent = made
      ? [`${node.data.key}`, verdict(made), made.score !== null ? `score ${figure(made.score)}` : null,
        made.tokens ? `${count(made.tokens)} tokens` : null].filter(Boolean).join(" · ")
      : node.data.step ? `${node.data.step.id}: ${short(node.data.step.asked ?? "", 80)}` : node.data.key;
    const [x, y] = d3.pointer(event, this.canvas);
    const left = Math.min(x + 14, this.size[0] - this.hint.offsetWidth - 8);
    const top = y + 30 > this.size[1] ? y - 30 : y + 14;
    this.hint.style.transform = `translate(${left}px, ${top}px)`;
  }

  _click(event) {
    const node = this._find(event);
    this.select(node && node !== this.root ? node.data.key : null);
  }

  _key(event) {
    const node = this.byKey.get(this.selected) ?? this.root;
    const level = this.nodes.filter((one) => one.depth === Math.max(1, node.depth));
    level.sort((a, b) => (a.column ?? 0) - (b.column ?? 0) || a.row - b.row);
    const place = level.indexOf(node);
    const go = {
      ArrowLeft: () => node.parent,
      ArrowRight: () => node.children?.[0],
      ArrowUp: () => level[place - 1],
      ArrowDown: () => level[place + 1],
      Home: () => level[0],
      End: () => level.at(-1),
    }[event.key];
    const zoomed = { "+": 1.5, "=": 1.5, "-": 1 / 1.5 }[event.key];
    if (go) {
      const next = go();
      if (next && next !== this.root) this.select(next.data.key);
    } else if (zoomed) {
      this.moved = true;
      d3.select(this.canvas).call(this.zoom.scaleBy, zoomed);
    } else if (event.key === "0") {
      this.moved = false;
      this._fit();
    } else return;
    event.preventDefault();
  }
}

const FONT = "ui-sans-serif, system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif";

// The candidates as a tree by their paths. Where nothing is known of a place between two of them,
// it is drawn only if the tree branches there or a step of the plan lies there.
function layOut(made, prefix, search) {
  const root = { key: prefix, made: null, step: null, children: [] };
  const places = new Map([[prefix, root]]);
  const reach = (key) => {
    const found = places.get(key);
    if (found) return found;
    const place = { key, made: null, step: search.steps.get(key) ?? null, children: [] };
    places.set(key, place);
    const dot = key.lastIndexOf(".");
    reach(dot < 0 || !within(key.slice(0, dot), prefix) ? prefix : key.slice(0, dot)).children.push(place);
    return place;
  };
  for (const step of search.steps.values()) {
    if (step.key !== prefix && within(step.key, prefix)) reach(step.key);
  }
  for (const node of made) reach(node.key).made = node;
  const last = (place) => pathOf(place.key).at(-1);
  const tidy = (place) => {
    place.children = place.children.map(tidy).sort((a, b) => last(a) - last(b) || a.key.localeCompare(b.key));
    const only = place.children.length === 1 && place.made === null && place.step === null;
    return only && place !== root ? place.children[0] : place;
  };
  tidy(root);
  const tree = d3.hierarchy(root, (place) => (place.children.length ? place.children : null));
  let rows = 0;
  tree.eachAfter((node) => {
    node.row = node.children ? (node.children[0].row + node.children.at(-1).row) / 2 : rows++;
  });
  tree.rows = rows;
  return tree;
}

function ring(context, x, y, radius, style, width) {
  context.beginPath();
  context.arc(x, y, radius, 0, 7);
  context.strokeStyle = style;
  context.lineWidth = width;
  context.stroke();
}

function verdict(made) {
  if (made.status === "running") return "…";
  if (made.status !== "done") return made.status;
  if (made.answer !== null) return short(made.answer, 16);
  return made.finished ? "no answer" : "";
}

function same(answer, leader) {
  const plain = (text) => String(text).replace(/[\s,$]/g, "").toLowerCase();
  return leader != null && plain(leader) === plain(answer);
}

// What a candidate adds to its parent, in one line.
function line(node) {
  const text = node.data.made.text;
  const before = node.parent?.data.made?.text ?? "";
  return (before && text.startsWith(before) ? text.slice(before.length) : text)
    .slice(0, 400).replace(/\s+/g, " ").trim();
}
