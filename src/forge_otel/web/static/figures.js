// The figures above the table.

import { SOURCES, at, clock, count, duration, make, money, percent } from "./text.js";

const STATUS = { pass: "All services answer", warn: "Degraded", fail: "Not ready" };
const SCOPES = { database: "in the database", process: "in this process" };

export function showSummary(summary) {
  const total = summary.generations ?? 0;
  const bySource = summary.by_source ?? {};
  const full = bySource.L4 ?? 0;
  const hits = Object.entries(bySource).reduce((sum, [source, number]) => sum + (source && source !== "L4" ? number : 0), 0);
  at("generations").textContent = count(total);
  at("scope").textContent = SCOPES[summary.scope] ?? "";
  at("hit-rate").textContent = percent(summary.hit_rate);
  at("hits").textContent = total ? `${count(hits)} from a cache, ${count(full)} in full` : "";
  at("saved").textContent = money(summary.saved_usd);
  at("cost").textContent = money(summary.cost_usd);
  showBudget(summary.budget ?? {});
  at("errors").textContent = count(summary.errors);
  at("errors").classList.toggle("bad", summary.errors > 0);
  at("error-rate").textContent = total ? `${percent((summary.errors ?? 0) / total)} of all` : "";
  showSources(bySource);
  showLatency(summary.full ?? {}, summary.cached ?? {});
  showOutbox(summary.outbox ?? {});
}

function showBudget(budget) {
  const limits = [["usd", money, ""], ["tokens", (number) => count(Number(number)), " tokens"]].filter(([unit]) => budget[unit]);
  const texts = limits.map(([unit, shown, name]) => `${shown(budget[unit].used)} of ${shown(budget[unit].limit)}${name}`);
  const isUsedUp = limits.some(([unit]) => Number(budget[unit].used) >= Number(budget[unit].limit));
  at("budget").textContent = texts.length ? `today ${texts.join(", ")}` : "on model calls";
  at("budget").classList.toggle("bad", isUsedUp);
}

function showSources(bySource) {
  const known = Object.keys(SOURCES).filter((source) => bySource[source]);
  const total = known.reduce((sum, source) => sum + bySource[source], 0);
  at("sources-bar").replaceChildren(...known.map((source) => {
    const part = make("span", { "data-source": source });
    part.style.flexGrow = bySource[source];
    return part;
  }));
  at("sources").replaceChildren(...known.map((source) =>
    make("li", {},
      make("span", { class: "dot", "data-source": source, text: SOURCES[source] }),
      make("span", { text: count(bySource[source]) }),
      make("span", { class: "quiet", text: percent(bySource[source] / total) }))));
  if (!known.length) at("sources").replaceChildren(make("li", { class: "none", text: "Nobody yet." }));
}

function showLatency(full, cached) {
  const rows = [["Full", "L4", full], ["Cached", "L1", cached]];
  const longest = Math.max(...rows.map(([, , figures]) => figures.p95_s ?? 0), 1e-9);
  at("latency").replaceChildren(...rows.flatMap(([name, source, figures]) =>
    [["p50", figures.p50_s], ["p95", figures.p95_s]].flatMap(([quantile, seconds], index) => {
      const fill = make("span", { "data-source": source });
      fill.style.width = `${(100 * (seconds ?? 0)) / longest}%`;
      fill.hidden = seconds == null;
      return [
        make("dt", { text: index ? "" : name }),
        make("dd", {},
          make("span", { class: "quiet", text: quantile }),
          make("span", { class: "track", "aria-hidden": "true" }, fill),
          make("span", { class: "number", text: duration(seconds) })),
      ];
    })));
  const ratio = full.p50_s && cached.p50_s ? full.p50_s / cached.p50_s : 0;
  at("faster").textContent = ratio > 1 ? `At the median, a cached answer is ${count(Math.round(ratio))} times faster.` : "";
}

function showOutbox({ sinks = {}, durable }) {
  const entries = Object.entries(sinks);
  if (!entries.length) {
    at("outbox").replaceChildren(make("p", { class: "none", text: "No sink takes records." }));
    return;
  }
  const names = ["delivered", "waiting", "dropped"];
  at("outbox").replaceChildren(make("table", {},
    make("thead", {}, make("tr", {}, make("th", { scope: "col", text: "To" }),
      ...names.map((name) => make("th", { scope: "col", class: "number", text: name })))),
    make("tbody", {}, ...entries.map(([name, figures]) => sinkRow(name, figures, names)))));
  if (durable === false) at("outbox").append(make("p", { class: "none", text: "Waiting records are in memory only; a crash loses them." }));
}

function sinkRow(name, figures, names) {
  const sum = (value) => (value && typeof value === "object" ? Object.values(value).reduce((a, b) => a + b, 0) : value ?? 0);
  const status = sum(figures.dropped) ? "fail" : figures.is_up === false ? "warn" : "pass";
  const cell = make("td", {}, make("span", { class: "dot", "data-status": status, text: name }));
  if (figures.is_up === false) cell.append(make("span", { class: "quiet below", text: `does not take them: ${figures.last_error || "no answer"}` }));
  return make("tr", {}, cell, ...names.map((key) => make("td", { class: "number", text: count(sum(figures[key])) })));
}

export function showIncidents(incidents, spike) {
  const lines = incidents.map((incident) => [
    incident.open ? "warn" : "pass",
    `${incident.service}: ${incident.fallback}`,
    `${incident.minutes < 1 ? "under a minute" : `${Math.round(incident.minutes)} min`}${incident.open ? ", still on" : ""}`,
    `since ${clock(incident.started_at)}, ${count(incident.requests)} generations that cost ${money(incident.cost_usd)}`,
  ]);
  if (spike?.active) {
    lines.unshift(["fail", "Error spike", `${percent(spike.rate_fast)} fail`, `of the last ${count(spike.volume)} generations`]);
  }
  at("incidents-card").hidden = lines.length === 0;
  at("incidents").replaceChildren(...lines.map(([status, name, figure, effect]) => make("li", {},
    make("span", { class: "dot", "data-status": status, text: name }),
    make("span", { text: figure }),
    make("span", { class: "quiet", text: effect }))));
}

export function showServices(health, breakers) {
  const pill = at("health");
  pill.dataset.status = health.status;
  pill.textContent = STATUS[health.status] ?? health.status;
  const pings = Object.entries(health.checks ?? {}).filter(([key]) => key.endsWith(":responseTime"));
  const checks = pings.flatMap(([, found]) => found).map((check) => {
    const answers = check.status === "pass" && check.observedValue != null;
    return [check.status, check.componentId, answers ? `${check.observedValue} ms` : check.output ?? "", answers ? "" : check.withoutIt];
  });
  const guards = breakers.map((guard) => {
    const isClosed = guard.state === "closed";
    const effect = guard.rejects_for_s > 0 ? `calls are refused for another ${duration(guard.rejects_for_s)}` : "";
    return [isClosed ? "pass" : "warn", guard.name, isClosed ? `${count(guard.successes)} calls` : `circuit ${guard.state}`, effect];
  });
  at("services").replaceChildren(...[...checks, ...guards].map(([status, name, figure, effect]) => make("li", {},
    make("span", { class: "dot", "data-status": status, text: name ?? "service" }),
    make("span", { text: figure }),
    ...(effect ? [make("span", { class: "quiet", text: effect })] : []))));
  if (!checks.length && !guards.length) {
    at("services").replaceChildren(make("li", { class: "none", text: "Nothing outside this process is used." }));
  }
}
