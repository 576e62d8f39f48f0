// How things are said and coloured on the page.

const d3 = globalThis.d3;

export const STOPPED = {
  certain: "nothing still to come could have changed the answer",
  confident: "the candidates agreed enough",
  complete: "all that was planned is done",
  budget: "the budget was used up",
  deadline: "the time was up",
  cancelled: "it was ended early",
};

const whole = new Intl.NumberFormat("en");

export const count = (number) => (number == null ? "–" : whole.format(number));
export const about = (number) => (number < 1000 ? `${number}` : d3.format(".2~s")(number));
export const figure = (number, places = 2) => (number == null ? "–" : number.toFixed(places));
export const dollars = (micro) => `$${(micro / 1e6).toFixed(micro < 10_000 ? 6 : 4)}`;
export const seconds = (time) => (time < 10 ? `${time.toFixed(2)} s` : `${time.toFixed(1)} s`);

export function ago(began, now = Date.now() / 1000) {
  const past = Math.max(0, now - began);
  if (past < 60) return `${Math.floor(past)} s ago`;
  if (past < 3600) return `${Math.floor(past / 60)} min ago`;
  if (past < 172_800) return `${Math.floor(past / 3600)} h ago`;
  return `${Math.floor(past / 86_400)} days ago`;
}

export function short(text, most = 40) {
  const line = text.replace(/\s+/g, " ").trim();
  return line.length > most ? `${line.slice(0, most - 1)}…` : line;
}

// From red over yellow to teal, which those who can't tell red from green tell apart as well.
const ramp = d3
  .scaleLinear()
  .domain([0, 0.5, 1])
  .range(["#d1495b", "#e2a63a", "#2a9d8f"])
  .interpolate(d3.interpolateLab)
  .clamp(true);
const RAMP = d3.range(101).map((step) => ramp(step / 100));

export const colour = (score) => RAMP[Math.round(Math.max(0, Math.min(1, score)) * 100)];
export const rampCss = `linear-gradient(90deg, ${d3.range(0, 101, 10).map((i) => RAMP[i]).join(",")})`;

// Makes an element. Text is only ever set as text: what models wrote never becomes markup.
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value == null || value === false) continue;
    if (key === "class") element.className = value;
    else if (key === "style") Object.assign(element.style, value);
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

// The answer in a text, for the eye only: what votes is found by the service.
export function answerIn(text) {
  const boxed = text.lastIndexOf("\\boxed{");
  if (boxed >= 0) {
    const end = text.indexOf("}", boxed);
    if (end > 0) return text.slice(boxed + 7, end).trim();
  }
  const lines = [...text.matchAll(/(?:####|\banswer(?: is)?\s*[:=]?)[ \t]*(\S[^\n]*)/gi)];
  return lines.length ? lines[lines.length - 1][1].trim().replace(/\.$/, "") : null;
}
