// The dashboard: polls the API every 3 seconds and shows the figures and the last generations.

import { clearAddress, show } from "./detail.js";
import { showIncidents, showServices, showSummary } from "./figures.js";
import { LoggedOut, SOURCES, byId, clock, costOf, duration, element, fetchApi, money, nameOf } from "./format.js";

const POLL_MS = 3000;
const MAX_POLL_MS = 30000;
const LIMIT = 100;

const state = { records: [], seen: null, shown: "", wait: POLL_MS, timer: 0, updated: 0 };

async function poll() {
  clearTimeout(state.timer);
  try {
    const [summary, records, health] = await Promise.all([fetchApi("summary"), fetchApi(`generations?limit=${LIMIT}`), fetchApi("health")]);
    state.wait = POLL_MS;
    state.updated = Date.now();
    byId("notice").hidden = true;
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
    notice(`Service unavailable (${error.message}). Showing the last figures; next attempt in ${state.wait / 1000} s.`);
  }
  state.timer = setTimeout(poll, state.wait);
}

function notice(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = false;
}

// ---------------------------------------------------------------- the table

function renderRecords() {
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = state.records.filter((record) => {
    const text = [nameOf(record), record.component_type, SOURCES[record.source ?? ""], record.outcome, record.error_type, record.id]
      .join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  });
  const ids = shown.map((record) => record.id).join();
  byId("empty").hidden = shown.length > 0;
  byId("empty").textContent = state.records.length
    ? "No generation matches this filter."
    : "No generations yet. Send a request to your service; it appears here within seconds.";
  byId("filter-label").hidden = state.records.length === 0;
  byId("table").hidden = shown.length === 0;
  if (ids !== state.shown) {
    state.shown = ids;
    byId("rows").replaceChildren(...shown.map(row));
    strip(shown);
  }
  state.seen = new Set(state.records.map((record) => record.id));
}

function row(record) {
  const open = element("button", { class: "open", type: "button", text: nameOf(record) });
  const line = element("tr", { "data-id": record.id },
    element("td", {}, element("time", { datetime: record.created_at, text: clock(record.created_at) })),
    element("td", {}, open, element("span", { class: "quiet", text: record.component_type })),
    element("td", {}, element("span", { class: "dot", "data-source": record.source ?? "", text: SOURCES[record.source ?? ""] ?? record.source })),
    element("td", {}, element("span", { class: "dot", "data-outcome": record.outcome, text: record.outcome })),
    element("td", { class: "number", text: duration(record.duration_s) }),
    element("td", { class: "number", text: costOf(record) }),
    element("td", { class: "number", text: Number(record.saved_usd) ? money(record.saved_usd) : "–" }),
    element("td", {}, record.trace_id ? element("a", { class: "mono", href: `#${record.id}`, title: record.trace_id, text: record.trace_id.slice(0, 8) }) : "–", ...runLink(record)));
  if (state.seen && !state.seen.has(record.id)) line.classList.add("fresh");
  return line;
}

function runLink(record) {
  // HTTP URLs only: a record could contain a javascript: URL.
  return /^https?:\/\//.test(record.langsmith_url ?? "")
    ? [" ", element("a", { href: record.langsmith_url, target: "_blank", rel: "noreferrer noopener", title: "Open the run in LangSmith", text: "LangSmith" })] : [];
}

function strip(records) {
  // Logarithmic, so that durations of a millisecond and of a minute are both visible.
  const height = (seconds) => Math.max(6, Math.min(100, (Math.log10(Math.max(seconds, 1e-4)) + 4) * 16));
  byId("strip-box").hidden = records.length < 2;
  byId("strip").replaceChildren(...records.slice().reverse().map((record) => {
    const part = element("span", { "data-source": record.source ?? "", "data-outcome": record.outcome,
      title: `${nameOf(record)}: ${duration(record.duration_s)}` });
    part.style.height = `${height(record.duration_s)}%`;
    return part;
  }));
}

// ---------------------------------------------------------------- start

function showFromAddress() {
  if (location.hash) show(decodeURIComponent(location.hash.slice(1)), state.records);
}

byId("rows").addEventListener("click", (event) => {
  const line = event.target.closest("tr");
  if (!line || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  show(line.dataset.id, state.records);
});
addEventListener("hashchange", showFromAddress);
byId("detail").addEventListener("click", (event) => {
  // The target of a click on the backdrop is the dialog itself.
  if (event.target === byId("detail")) byId("detail").close();
});
byId("detail").addEventListener("close", clearAddress);
byId("filter").addEventListener("input", renderRecords);
document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(state.timer) : poll()));
setInterval(() => {
  const seconds = Math.round((Date.now() - state.updated) / 1000);
  byId("updated").textContent = state.updated ? (seconds < 5 ? "live" : `updated ${seconds} s ago`) : "";
}, 1000);
poll().then(showFromAddress);
