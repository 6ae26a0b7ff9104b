// Details of one generation: its record, model calls and trace.

import { LoggedOut, SOURCES, byId, costOf, count, duration, element, fetchApi, money, nameOf } from "./format.js";

let shown = "";

export async function show(id, records) {
  shown = id;
  const record = records.find((item) => item.id === id) ?? await fetchApi(`generations/${encodeURIComponent(id)}`).catch(() => null);
  if (!record || shown !== id) return;
  history.replaceState(null, "", `#${id}`);
  const trace = element("p", { class: "quiet", text: record.trace_id ? "Loading…" : "This generation was not traced." });
  byId("detail-title").textContent = nameOf(record);
  byId("detail-body").replaceChildren(facts(record), ...calls(record), element("h3", { text: "Trace" }), trace);
  if (!byId("detail").open) byId("detail").showModal();
  if (!record.trace_id) return;
  try {
    trace.replaceWith(waterfall(await fetchApi(`traces/${encodeURIComponent(record.trace_id)}`)));
  } catch (error) {
    if (error instanceof LoggedOut) location.assign("login");
    trace.textContent = `Trace unavailable: ${error.message}.`;
  }
}

export function clearAddress() {
  shown = "";
  history.replaceState(null, "", location.pathname);
}

function facts(record) {
  const misses = Object.entries(record.misses ?? {}).map(([layer, reason]) => `${layer}: ${reason}`).join(", ");
  const lines = [
    // name, value, and whether the value is monospaced
    ["Source", SOURCES[record.source ?? ""] ?? record.source],
    ["Outcome", record.error_type ? `${record.outcome} · ${record.error_type}` : record.outcome],
    ["Error", record.error_message],
    ["Started", new Date(record.created_at).toLocaleString()],
    ["Duration", duration(record.duration_s)],
    ["Cost", costOf(record)],
    ["Saved", Number(record.saved_usd) ? money(record.saved_usd) : null],
    ["Cache misses", misses],
    ["Fallbacks", (record.degraded ?? []).join(", ")],
    ["Quality", record.quality_score],
    ["Design", record.figma_key || record.screenshot_hash, true],
    ["User", record.user_id, true],
    ["Session", record.session_id, true],
    ["Tenant", record.tenant, true],
    ["Generation", record.id, true],
    ["Original generation", record.origin_id && record.origin_id !== record.id ? record.origin_id : null, true],
    ["Trace ID", record.trace_id, true],
    ["LangSmith", record.langsmith_url, true],
    ["Artifacts", Object.values(record.artifact_refs ?? {}).join(", "), true],
  ];
  return element("dl", { class: "facts" }, ...lines.filter(([, value]) => value != null && value !== "").flatMap(([name, value, isCode]) =>
    [element("dt", { text: name }), element("dd", { class: isCode ? "mono" : "", text: value })]));
}

function calls(record) {
  const costs = record.costs ?? [];
  if (!costs.length) return [];
  const tokens = (cost) => Object.values(cost.usage ?? {}).reduce((sum, number) => sum + number, 0);
  return [element("h3", { text: "Model calls" }), element("div", { class: "scroll" }, element("table", {},
    element("thead", {}, element("tr", {}, ...["Agent", "Model", "Tokens", "Cost"].map((name, index) =>
      element("th", { scope: "col", class: index > 1 ? "number" : "", text: name })))),
    element("tbody", {}, ...costs.map((cost) => element("tr", {},
      element("td", { text: cost.agent || "–" }),
      element("td", { text: [cost.api, cost.model].filter(Boolean).join(" · ") }),
      element("td", { class: "number", text: count(tokens(cost)) }),
      element("td", { class: "number", text: cost.amount_usd == null ? "unknown price" : money(cost.amount_usd) }))))))];
}

function waterfall(spans) {
  const known = new Map(spans.map((span) => [span.span_id, span]));
  const children = new Map();
  for (const span of spans) {
    const parent = known.has(span.parent_id) ? span.parent_id : "";
    children.set(parent, [...(children.get(parent) ?? []), span]);
  }
  const start = Math.min(...spans.map((span) => span.started_s));
  const length = Math.max(...spans.map((span) => span.started_s + span.duration_s)) - start || 1e-9;
  const list = element("ol", { class: "trace", "aria-label": `${spans.length} spans in ${duration(length)}` });
  list.append(element("li", { class: "axis quiet", "aria-hidden": "true" }, element("span"),
    element("span", {}, ...[0, 0.5, 1].map((share) => element("span", { text: duration(length * share) }))), element("span")));
  const waiting = (children.get("") ?? []).map((span) => [span, 0]).reverse();
  while (waiting.length) {
    const [span, depth] = waiting.pop();
    list.append(lane(span, depth, (span.started_s - start) / length, span.duration_s / length));
    for (const child of (children.get(span.span_id) ?? []).slice().reverse()) waiting.push([child, depth + 1]);
  }
  return list;
}

function lane(span, depth, from, share) {
  const name = element("span", { class: "name", title: span.name }, span.name, element("span", { class: "kind", text: span.error_type ?? span.kind }));
  name.style.paddingLeft = `${Math.min(depth, 12) * 14}px`;
  const bar = element("span");
  bar.style.left = `${Math.min(from * 100, 99.6)}%`;
  bar.style.width = `${Math.min(share, 1 - from) * 100}%`;
  return element("li", { class: span.error_type ? "failed" : "", "data-kind": span.kind },
    name, element("span", { class: "lane", "aria-hidden": "true" }, bar), element("span", { class: "number", text: duration(span.duration_s) }));
}
