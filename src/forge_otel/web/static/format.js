// Formatting, elements and API calls. Values are set as text, never as markup: names and errors may contain HTML.

export const SOURCES = {
  L1: "L1 · exact", L2: "L2 · semantic", L3: "L3 · pattern", collapsed: "Collapsed", L4: "L4 · full generation", "": "None",
};

export const byId = (id) => document.getElementById(id);
export const nameOf = (record) => record.component_name || record.component_id || record.component_type;

export function element(tag, { text, ...attributes } = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  node.append(...children);
  return node;
}

export const count = (value) => (value ?? 0).toLocaleString("en");
export const percent = (share) => (share == null ? "–" : `${(share * 100).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`);

export function money(text) {
  if (text == null) return "–";
  const value = Number(text);
  const digits = value === 0 || Math.abs(value) >= 1 ? 2 : 4;
  return `$${value.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: digits })}`;
}

export function costOf(record) {
  const isKnown = (record.costs ?? []).every((cost) => cost.amount_usd != null);
  if (isKnown) return money(record.cost_usd);
  return Number(record.cost_usd) ? `≥ ${money(record.cost_usd)}` : "unknown";
}

export function duration(seconds) {
  if (seconds == null) return "–";
  if (seconds === 0) return "0";
  if (seconds < 0.001) return `${(seconds * 1e6).toFixed(0)} µs`;
  if (seconds < 1) return `${(seconds * 1000).toPrecision(3).replace(/\.0+$/, "")} ms`;
  if (seconds < 120) return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

export function clock(iso) {
  const time = new Date(iso);
  const today = time.toDateString() === new Date().toDateString();
  return today ? time.toLocaleTimeString() : time.toLocaleString();
}

export class LoggedOut extends Error {}

export async function fetchApi(path) {
  const response = await fetch(`api/${path}`, { headers: { accept: "application/json" }, cache: "no-store" });
  if (response.status === 401 || (response.status === 404 && path === "summary")) throw new LoggedOut();
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new Error(problem.detail || `status ${response.status}`);
  }
  return response.json();
}
