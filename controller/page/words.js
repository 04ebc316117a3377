// Numbers and names as people read them.

export const KINDS = {
  process_death: "process died",
  non_comm_hang: "rank does not come",
  comm_hang: "communication hangs",
  desync: "ranks disagree",
  non_comm_slow: "slow rank",
  comm_slow: "slow communication",
  health: "health warning",
  workload_imbalance: "unbalanced workload",
  path_fault: "faulty path",
};

export const STATES = { r: "running", w: "waiting", s: "stopped", d: "dead", e: "ended", u: "unknown" };
export const STANDINGS = {
  w: "waits in it", p: "has come out of it", e: "has ended", s: "is stopped", n: "has not entered",
  q: "has it queued behind other work", l: "has left the communicator", u: "cannot be seen",
};

export const tone = (state) => ({ faulty: "bad", restarting: "warn", unknown: "warn", healthy: "good" })[state] || "plain";

export function duration(us) {
  if (us === null || us === undefined) return "–";
  const s = us / 1e6;
  if (s < 0.001) return `${us.toFixed(0)} µs`;
  if (s < 1) return `${(s * 1e3).toFixed(s < 0.1 ? 1 : 0)} ms`;
  if (s < 60) return `${s.toFixed(1)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

const two = (n) => String(n).padStart(2, "0");

// In UTC, as C4's sentences are.
export function clock(us) {
  const d = new Date(us / 1e3);
  return `${two(d.getUTCHours())}:${two(d.getUTCMinutes())}:${two(d.getUTCSeconds())}`;
}
export function moment(us) {
  const d = new Date(us / 1e3);
  return `${d.getUTCFullYear()}-${two(d.getUTCMonth() + 1)}-${two(d.getUTCDate())} ${clock(us)} UTC`;
}

export const number = (n) => n.toLocaleString("en");
export const count = (n, one, many = `${one}s`) => `${number(n)} ${n === 1 ? one : many}`;
export const percent = (share) => `${(share * 100).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
export const jobLink = (name) => `#/job/${encodeURIComponent(name)}`;
export const fabricLink = "#/fabric";
export const findingLink = (id) => `#/finding/${encodeURIComponent(id)}`;
