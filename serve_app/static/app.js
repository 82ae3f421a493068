// The page of the service: asks for a token, then offers two tabs. Text from models is only ever set as text.
import { drawVerdicts } from "./plot.js";

const at = (id) => document.getElementById(id);
const DEGREES = ["not at all", "a little", "moderately", "strongly", "fully"];
let token = "";
let asking = null;

function make(tag, text = "", attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

async function call(path, body, signal) {
  const options = { headers: { Authorization: `Bearer ${token}` }, signal };
  if (body !== undefined) {
    options.method = "POST";
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  const response = await fetch(path, options);
  if (!response.ok) throw new Error(await problemOf(response));
  return response;
}

async function problemOf(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).error.message;
  } catch {
    return text || `The service answered ${response.status}.`;
  }
}

function told(error) {
  return error instanceof TypeError ? "The service cannot be reached." : error.message;
}

// --- token -----------------------------------------------------------------------------------------------------------

async function connect() {
  const values = await (await call("/v1/values")).json();
  at("sliders").replaceChildren(...values.map(slider));
  at("token-form").hidden = true;
  at("service").hidden = false;
}

at("token-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  at("token-problem").textContent = "";
  token = at("token").value.trim();
  try {
    await connect();
    sessionStorage.setItem("token", token);
    at("tab-ask").focus();
  } catch (error) {
    at("token-problem").textContent = told(error);
  }
});

function slider({ name, definition }) {
  const row = make("div", "", { class: "slider" });
  const output = make("output", DEGREES[0], { for: `value-${name}` });
  const input = make("input", "", {
    type: "range", min: 0, max: 1, step: 0.25, value: 0, id: `value-${name}`, name,
    "aria-describedby": `about-${name}`, "aria-valuetext": DEGREES[0],
  });
  input.addEventListener("input", () => {
    output.textContent = DEGREES[Math.round(input.value * 4)];
    input.setAttribute("aria-valuetext", output.textContent);
  });
  row.append(
    make("label", name, { for: `value-${name}` }), input, output,
    make("p", definition, { class: "hint", id: `about-${name}` }),
  );
  return row;
}

// --- tabs ------------------------------------------------------------------------------------------------------------

const tabs = [at("tab-ask"), at("tab-judge")];

function select(tab) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", chosen);
    other.tabIndex = chosen ? 0 : -1;
    at(other.getAttribute("aria-controls")).hidden = !chosen;
  }
  tab.focus();
}

for (const [place, tab] of tabs.entries()) {
  tab.addEventListener("click", () => select(tab));
  tab.addEventListener("keydown", ({ key }) => {
    if (key === "ArrowRight" || key === "ArrowLeft") select(tabs[1 - place]);
    if (key === "Home") select(tabs[0]);
    if (key === "End") select(tabs.at(-1));
  });
}

// --- asking ----------------------------------------------------------------------------------------------------------

at("ask-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const profile = {};
  for (const input of at("sliders").querySelectorAll("input")) profile[input.name] = Number(input.value);
  asking = new AbortController();
  const busy = (on) => {
    at("answer").setAttribute("aria-busy", on);
    at("stop").hidden = !on;
    event.submitter && (event.submitter.disabled = on);
  };
  at("ask-problem").textContent = at("answer").textContent = at("answer-facts").textContent = "";
  at("voices").replaceChildren();
  busy(true);
  try {
    const body = { question: at("question").value, profile, context: at("context").value, stream: true };
    const response = await call("/v1/answer", body, asking.signal);
    let ended = false;
    for await (const [name, data] of serverSentEvents(response.body)) {
      if (name === "agent") at("voices").append(voice(data));
      if (name === "token") at("answer").append(data.text);
      if (name === "error") throw new Error(data.error.message);
      if (name === "done") {
        ended = true;
        const words = data.answer === null ? "The aggregator said nothing. " : "";
        at("answer-facts").textContent = `${words}${data.usage.completion_tokens} tokens, ${data.seconds.toFixed(1)} s`;
      }
    }
    if (!ended) throw new Error("The connection ended before the answer did.");
  } catch (error) {
    if (error.name !== "AbortError") at("ask-problem").textContent = told(error);
  } finally {
    busy(false);
  }
});

at("stop").addEventListener("click", () => asking?.abort());

function voice({ value, answer, reward, problem }) {
  const item = make("li", "", answer === null ? { class: "silent" } : {});
  item.append(make("strong", value), make("div", answer ?? problem ?? "no answer"));
  if (reward !== null) {
    item.append(make("div", `follows its value with probability ${reward.toFixed(2)}`, { class: "hint" }));
  }
  return item;
}

async function* serverSentEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: (.*)/s, 2)));
      yield [fields.event, JSON.parse(fields.data)];
    }
  }
}

// --- judging ---------------------------------------------------------------------------------------------------------

at("judge-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = event.submitter;
  at("judge-problem").textContent = "";
  at("verdict").hidden = true;
  if (button) button.disabled = true;
  try {
    const found = await (await call("/v1/judge", { dilemma: at("dilemma").value })).json();
    at("verdict").hidden = false;
    drawVerdicts(found, { plot: at("plot"), legend: at("legend"), reasons: at("reasons"), numbers: at("numbers") });
  } catch (error) {
    at("judge-problem").textContent = told(error);
  } finally {
    if (button) button.disabled = false;
  }
});

token = sessionStorage.getItem("token") ?? "";
if (token) connect().catch(() => sessionStorage.removeItem("token"));
