// Verdicts as a plot of theories x annotators with the consensus and its interval, and the same as a table.

const SVG = "http://www.w3.org/2000/svg";
const ROW = 54;
let observer = null;

function node(tag, attributes = {}, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

function cell(tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}

const shown = (number) => (number === null ? "–" : number.toFixed(2));

// One shape for every annotator, so that colour is never the only difference.
const SHAPES = [
  (x, y) => `M${x - 5} ${y}a5 5 0 1 0 10 0a5 5 0 1 0 -10 0`,
  (x, y) => `M${x - 5} ${y - 5}h10v10h-10z`,
  (x, y) => `M${x} ${y - 6}l6 10h-12z`,
  (x, y) => `M${x - 5} ${y - 5}l10 10m0 -10l-10 10`,
  (x, y) => `M${x} ${y + 6}l6 -10h-12z`,
  (x, y) => `M${x - 6} ${y}h12m-6 -6v12`,
];

const mark = (place, x, y) => node("path", { class: `mark c${place % 6}`, d: SHAPES[place % 6](x, y) });

export function drawVerdicts(found, places) {
  const draw = () => places.plot.replaceChildren(plot(found.verdicts, Math.max(280, places.plot.clientWidth)));
  draw();
  observer?.disconnect();
  observer = new ResizeObserver(draw);
  observer.observe(places.plot);
  places.legend.replaceChildren(...names(found.verdicts).map(legendItem));
  places.reasons.replaceChildren(...reasons(found).map((text) => cell("li", text)));
  places.numbers.replaceChildren(...rows(found.verdicts));
}

function names(verdicts) {
  return verdicts.length ? verdicts[0].annotators.map(({ annotator }) => annotator) : [];
}

function plot(verdicts, width) {
  const height = verdicts.length * ROW + 24;
  const across = (score) => 8 + score * (width - 16);
  const svg = node("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": summary(verdicts) });
  for (const tick of [0, 0.25, 0.5, 0.75, 1]) {
    svg.append(node("line", { class: "axis", x1: across(tick), x2: across(tick), y1: 18, y2: height - 20 }));
    const anchor = tick === 0 ? "start" : tick === 1 ? "end" : "middle";
    svg.append(node("text", { class: "soft", x: across(tick), y: height - 6, "text-anchor": anchor }, String(tick)));
  }
  for (const [row, verdict] of verdicts.entries()) {
    const y = row * ROW + 36;
    svg.append(node("text", { x: 8, y: y - 20 }, verdict.abstain ? `${verdict.theory}: no verdict` : verdict.theory));
    if (verdict.ci_low !== null) {
      const [low, high] = [across(verdict.ci_low), across(verdict.ci_high)];
      svg.append(node("rect", { class: "band", x: low, y: y - 9, width: Math.max(2, high - low), height: 18, rx: 4 }));
    }
    for (const [place, { annotator, score }] of verdict.annotators.entries()) {
      if (score === null) continue;
      const drawn = mark(place, across(score), y);
      drawn.append(node("title", {}, `${annotator}: ${shown(score)}`));
      svg.append(drawn);
    }
    if (verdict.calibrated !== null) {
      const x = across(verdict.calibrated);
      svg.append(node("path", { class: "consensus", d: `M${x} ${y - 10}l8 10l-8 10l-8 -10z` }));
    }
  }
  return svg;
}

function summary(verdicts) {
  const said = ({ theory, abstain, calibrated, ci_low, ci_high }) =>
    abstain ? `${theory}: no verdict` : `${theory}: ${shown(calibrated)}, interval ${shown(ci_low)} to ${shown(ci_high)}`;
  return `Consensus by theory. ${verdicts.map(said).join("; ")}. The table below has all numbers.`;
}

function legendItem(name, place) {
  const item = document.createElement("li");
  const svg = node("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" });
  svg.append(mark(place, 8, 8));
  item.append(svg, name);
  return item;
}

function reasons({ verdicts, missing, warnings }) {
  const withheld = grouped(verdicts, ({ abstain, reason }) => (abstain ? reason : null));
  const apart = grouped(verdicts, ({ abstain, annotators }) => {
    const names = annotators.filter(({ disagrees }) => disagrees).map(({ annotator }) => annotator);
    return abstain || !names.length ? null : names.join(", ");
  });
  return [
    ...withheld.map(([reason, theories]) => `No verdict (${theories}): ${reason}.`),
    ...apart.map(([names, theories]) => `Disagree (${theories}): ${names}.`),
    ...missing.map(({ annotator, reason }) => `Missing: ${annotator}: ${reason}.`),
    ...warnings.map((warning) => `Note: ${warning}.`),
  ];
}

// What is true of which theories: pairs of a text and the names of all theories that have it.
function grouped(verdicts, text) {
  const found = new Map();
  for (const verdict of verdicts) {
    const said = text(verdict);
    if (said !== null) found.set(said, [...(found.get(said) ?? []), verdict.theory]);
  }
  return [...found].map(([said, theories]) => [said, theories.join(", ")]);
}

function rows(verdicts) {
  const head = document.createElement("tr");
  head.append(...["theory", "consensus", "calibrated", "interval", ...names(verdicts)].map((name) => cell("th", name)));
  return [
    head,
    ...verdicts.map((verdict) => {
      const row = document.createElement("tr");
      const interval = verdict.ci_low === null ? "–" : `${shown(verdict.ci_low)}–${shown(verdict.ci_high)}`;
      row.append(
        cell("th", verdict.theory),
        ...[shown(verdict.consensus), shown(verdict.calibrated), interval].map((text) => cell("td", text)),
        ...verdict.annotators.map(({ score }) => cell("td", shown(score))),
      );
      return row;
    }),
  ];
}
