// Figures, sinks, services and incidents above the table.

import { SOURCES, byId, clock, count, duration, element, money, percent } from "./format.js";

const STATUS = { pass: "Healthy", warn: "Degraded", fail: "Unhealthy" };
const SCOPES = { database: "from the database", process: "of this process" };

export function showSummary(summary) {
  const total = summary.generations ?? 0;
  const bySource = summary.by_source ?? {};
  const full = bySource.L4 ?? 0;
  const hits = Object.entries(bySource).reduce((sum, [source, number]) => sum + (source && source !== "L4" ? number : 0), 0);
  byId("generations").textContent = count(total);
  byId("scope").textContent = SCOPES[summary.scope] ?? "";
  byId("hit-rate").textContent = percent(summary.hit_rate);
  byId("hits").textContent = total ? `${count(hits)} cache hits, ${count(full)} full generations` : "";
  byId("saved").textContent = money(summary.saved_usd);
  byId("cost").textContent = money(summary.cost_usd);
  showBudget(summary.budget ?? {}, summary.unrecorded ?? {});
  byId("errors").textContent = count(summary.errors);
  byId("errors").classList.toggle("bad", summary.errors > 0);
  const failed = summary.unrecorded?.failed_requests ?? 0;
  const share = total ? `${percent(((summary.errors ?? 0) - failed) / total)} of generations` : "";
  byId("error-rate").textContent = [share, failed ? `${count(failed)} requests without a generation` : ""].filter(Boolean).join(", ");
  showSources(bySource);
  showLatency(summary.full ?? {}, summary.cached ?? {});
  showOutbox(summary.outbox ?? {});
}

function showBudget(budget, unrecorded) {
  const limits = [["usd", money, ""], ["tokens", (number) => count(Number(number)), " tokens"]].filter(([unit]) => budget[unit]);
  const texts = limits.map(([unit, shown, name]) => `${shown(budget[unit].used)} of ${shown(budget[unit].limit)}${name}`);
  const isUsedUp = limits.some(([unit]) => Number(budget[unit].used) >= Number(budget[unit].limit));
  const outside = unrecorded.model_calls ? [`${money(unrecorded.cost_usd)} outside of generations`] : [];
  const unknown = unrecorded.unpriced ? [`${count(unrecorded.unpriced)} calls of unknown cost`] : [];
  byId("budget").textContent = [texts.length ? `today ${texts.join(", ")}` : "on model calls", ...outside, ...unknown].join(", ");
  byId("budget").classList.toggle("bad", isUsedUp);
}

function showSources(bySource) {
  const known = Object.keys(SOURCES).filter((source) => bySource[source]);
  const total = known.reduce((sum, source) => sum + bySource[source], 0);
  byId("sources-bar").replaceChildren(...known.map((source) => {
    const part = element("span", { "data-source": source });
    part.style.flexGrow = bySource[source];
    return part;
  }));
  byId("sources").replaceChildren(...known.map((source) =>
    element("li", {},
      element("span", { class: "dot", "data-source": source, text: SOURCES[source] }),
      element("span", { text: count(bySource[source]) }),
      element("span", { class: "quiet", text: percent(bySource[source] / total) }))));
  if (!known.length) byId("sources").replaceChildren(element("li", { class: "none", text: "No generations yet." }));
}

function showLatency(full, cached) {
  const rows = [["Full", "L4", full], ["Cached", "L1", cached]];
  const longest = Math.max(...rows.map(([, , figures]) => figures.p95_s ?? 0), 1e-9);
  byId("latency").replaceChildren(...rows.flatMap(([name, source, figures]) =>
    [["p50", figures.p50_s], ["p95", figures.p95_s]].flatMap(([quantile, seconds], index) => {
      const fill = element("span", { "data-source": source });
      fill.style.width = `${(100 * (seconds ?? 0)) / longest}%`;
      fill.hidden = seconds == null;
      return [
        element("dt", { text: index ? "" : name }),
        element("dd", {},
          element("span", { class: "quiet", text: quantile }),
          element("span", { class: "track", "aria-hidden": "true" }, fill),
          element("span", { class: "number", text: duration(seconds) })),
      ];
    })));
  const ratio = full.p50_s && cached.p50_s ? full.p50_s / cached.p50_s : 0;
  byId("faster").textContent = ratio > 1 ? `Cached answers are ${count(Math.round(ratio))} times faster at the median.` : "";
}

function showOutbox({ sinks = {}, durable }) {
  const entries = Object.entries(sinks);
  if (!entries.length) {
    byId("outbox").replaceChildren(element("p", { class: "none", text: "No sinks configured." }));
    return;
  }
  const columns = { delivered: "Delivered", waiting: "Queued", dropped: "Dropped" };
  byId("outbox").replaceChildren(element("table", {},
    element("thead", {}, element("tr", {}, element("th", { scope: "col", text: "Sink" }),
      ...Object.values(columns).map((name) => element("th", { scope: "col", class: "number", text: name })))),
    element("tbody", {}, ...entries.map(([name, figures]) => sinkRow(name, figures, Object.keys(columns))))));
  if (durable === false) byId("outbox").append(element("p", { class: "none", text: "Queued records are in memory only and would be lost in a crash." }));
}

function sinkRow(name, figures, keys) {
  const sum = (value) => (value && typeof value === "object" ? Object.values(value).reduce((a, b) => a + b, 0) : value ?? 0);
  const status = sum(figures.dropped) ? "fail" : figures.is_up === false ? "warn" : "pass";
  const cell = element("td", {}, element("span", { class: "dot", "data-status": status, text: name }));
  if (figures.is_up === false) cell.append(element("span", { class: "quiet below", text: `unavailable: ${figures.last_error || "no response"}` }));
  return element("tr", {}, cell, ...keys.map((key) => element("td", { class: "number", text: count(sum(figures[key])) })));
}

export function showIncidents(incidents, spike) {
  const lines = incidents.map((incident) => [
    incident.open ? "warn" : "pass",
    `${incident.service}: ${incident.fallback}`,
    `${incident.minutes < 1 ? "under a minute" : `${Math.round(incident.minutes)} min`}${incident.open ? ", ongoing" : ""}`,
    `since ${clock(incident.started_at)}: ${count(incident.requests)} generations, ${money(incident.cost_usd)}`,
  ]);
  if (spike?.active) {
    lines.unshift(["fail", "Error spike", `${percent(spike.rate_fast)} errors`, `in the last ${count(spike.volume)} generations`]);
  }
  byId("incidents-card").hidden = lines.length === 0;
  byId("incidents").replaceChildren(...lines.map(([status, name, figure, effect]) => element("li", {},
    element("span", { class: "dot", "data-status": status, text: name }),
    element("span", { text: figure }),
    element("span", { class: "quiet", text: effect }))));
}

export function showServices(health, breakers) {
  const pill = byId("health");
  pill.dataset.status = health.status;
  pill.textContent = STATUS[health.status] ?? health.status;
  const pings = Object.entries(health.checks ?? {}).filter(([key]) => key.endsWith(":responseTime"));
  const checks = pings.flatMap(([, found]) => found).map((check) => {
    const answers = check.status === "pass" && check.observedValue != null;
    return [check.status, check.componentId, answers ? `${check.observedValue} ms` : check.output ?? "", answers ? "" : check.withoutIt];
  });
  const guards = breakers.map((guard) => {
    const isClosed = guard.state === "closed";
    const effect = guard.rejects_for_s > 0 ? `calls are rejected for another ${duration(guard.rejects_for_s)}` : "";
    return [isClosed ? "pass" : "warn", guard.name, `${isClosed ? `${count(guard.successes)} calls · ` : ""}${guard.state.toUpperCase().replace("_", "-")}`, effect];
  });
  byId("services").replaceChildren(...[...checks, ...guards].map(([status, name, figure, effect]) => element("li", {},
    element("span", { class: "dot", "data-status": status, text: name ?? "service" }),
    element("span", { text: figure }),
    ...(effect ? [element("span", { class: "quiet", text: effect })] : []))));
  if (!checks.length && !guards.length) {
    byId("services").replaceChildren(element("li", { class: "none", text: "No external services in use." }));
  }
}
