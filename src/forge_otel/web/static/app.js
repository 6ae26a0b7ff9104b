// The dashboard: asks the service every few seconds, and shows the last generations.

import { forget, show } from "./detail.js";
import { showIncidents, showServices, showSummary } from "./figures.js";
import { LoggedOut, SOURCES, ask, at, clock, duration, make, money, title } from "./text.js";

const POLL_MS = 3000;
const MAX_POLL_MS = 30000;
const LIMIT = 100;

const state = { records: [], seen: null, shown: "", wait: POLL_MS, timer: 0, updated: 0 };

async function poll() {
  clearTimeout(state.timer);
  try {
    const [summary, records, health] = await Promise.all([ask("summary"), ask(`generations?limit=${LIMIT}`), ask("health")]);
    state.wait = POLL_MS;
    state.updated = Date.now();
    at("notice").hidden = true;
    showSummary(summary);
    showServices(health, summary.breakers ?? []);
    showIncidents(summary.incidents ?? [], summary.spike);
    state.records = records;
    renderRecords();
  } catch (error) {
    if (error instanceof LoggedOut) {
      location.assign("login");
      return;
    }
    state.wait = Math.min(state.wait * 2, MAX_POLL_MS);
    notice(`The service does not answer (${error.message}). These are the last figures; the next try is in ${state.wait / 1000} s.`);
  }
  state.timer = setTimeout(poll, state.wait);
}

function notice(text) {
  at("notice").textContent = text;
  at("notice").hidden = false;
}

// ---------------------------------------------------------------- the table

function renderRecords() {
  const words = at("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = state.records.filter((record) => {
    const text = [title(record), record.component_type, SOURCES[record.source ?? ""], record.outcome, record.error_type, record.id]
      .join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  });
  const print = shown.map((record) => record.id).join();
  at("empty").hidden = shown.length > 0;
  at("empty").textContent = state.records.length
    ? "No generation matches this filter."
    : "No generations yet. Send one through your service, and it appears here within seconds.";
  at("filter-label").hidden = state.records.length === 0;
  at("table").hidden = shown.length === 0;
  if (print !== state.shown) {
    state.shown = print;
    at("rows").replaceChildren(...shown.map(row));
    strip(shown);
  }
  state.seen = new Set(state.records.map((record) => record.id));
}

function row(record) {
  const open = make("button", { class: "open", type: "button", text: title(record) });
  const line = make("tr", { "data-id": record.id },
    make("td", {}, make("time", { datetime: record.created_at, text: clock(record.created_at) })),
    make("td", {}, open, make("span", { class: "quiet", text: record.component_type })),
    make("td", {}, make("span", { class: "dot", "data-source": record.source ?? "", text: SOURCES[record.source ?? ""] ?? record.source })),
    make("td", {}, make("span", { class: "dot", "data-outcome": record.outcome, text: record.outcome })),
    make("td", { class: "number", text: duration(record.duration_s) }),
    make("td", { class: "number", text: money(record.cost_usd) }),
    make("td", { class: "number", text: Number(record.saved_usd) ? money(record.saved_usd) : "–" }),
    make("td", {}, record.trace_id ? make("a", { class: "mono", href: `#${record.id}`, title: record.trace_id, text: record.trace_id.slice(0, 8) }) : "–", ...runLink(record)));
  if (state.seen && !state.seen.has(record.id)) line.classList.add("fresh");
  return line;
}

function runLink(record) {
  // Only an address of the web: what is written in a record is not to be run.
  return /^https?:\/\//.test(record.langsmith_url ?? "")
    ? [" ", make("a", { href: record.langsmith_url, target: "_blank", rel: "noreferrer noopener", title: "Open its run in LangSmith", text: "LangSmith" })] : [];
}

function strip(records) {
  // A logarithmic height: an answer of a millisecond and one of a minute share the picture.
  const height = (seconds) => Math.max(6, Math.min(100, (Math.log10(Math.max(seconds, 1e-4)) + 4) * 16));
  at("strip-box").hidden = records.length < 2;
  at("strip").replaceChildren(...records.slice().reverse().map((record) => {
    const part = make("span", { "data-source": record.source ?? "", "data-outcome": record.outcome,
      title: `${title(record)}: ${duration(record.duration_s)}` });
    part.style.height = `${height(record.duration_s)}%`;
    return part;
  }));
}

// ---------------------------------------------------------------- start

function showAddressed() {
  if (location.hash) show(decodeURIComponent(location.hash.slice(1)), state.records);
}

at("rows").addEventListener("click", (event) => {
  const line = event.target.closest("tr");
  if (!line || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  show(line.dataset.id, state.records);
});
addEventListener("hashchange", showAddressed);
at("detail").addEventListener("click", (event) => {
  // A click on the backdrop reaches the dialog itself.
  if (event.target === at("detail")) at("detail").close();
});
at("detail").addEventListener("close", forget);
at("filter").addEventListener("input", renderRecords);
document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(state.timer) : poll()));
setInterval(() => {
  const seconds = Math.round((Date.now() - state.updated) / 1000);
  at("updated").textContent = state.updated ? (seconds < 5 ? "live" : `updated ${seconds} s ago`) : "";
}, 1000);
poll().then(showAddressed);
