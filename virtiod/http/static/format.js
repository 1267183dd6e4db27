// Numbers for people: three digits that matter, units that are said.

const SHORT = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const NONE = "–";

function scaled(value, step, units) {
  let unit = 0;
  while (Math.abs(value) >= step * 0.9995 && unit < units.length - 1) {
    value /= step;
    unit += 1;
  }
  const text = Math.abs(value) >= 1000 ? WHOLE.format(value) : SHORT.format(value);
  return units[unit] ? `${text} ${units[unit]}` : text;
}

export const count = (value) => (value == null ? NONE : value < 1000 ? SHORT.format(value) : scaled(value, 1000, ["", "k", "M", "G"]));
export const whole = (value) => (value == null ? NONE : WHOLE.format(value));
export const bytes = (value) => (value == null ? NONE : scaled(value, 1024, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]));
export const rate = (value) => (value == null ? NONE : `${bytes(value)}/s`);
export const percent = (share) => `${(100 * share).toFixed(1)} %`;
export const clock = (seconds) => CLOCK.format(new Date(1000 * seconds));

// A latency or an age, from nanoseconds.
export function time(ns) {
  if (ns == null) return NONE;
  return ns < 60e9 ? scaled(ns, 1000, ["ns", "µs", "ms", "s"]) : span(ns / 1e9);
}

// A long time, from seconds, in its two largest units.
export function span(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = Math.max(0, units.findIndex(([, size]) => seconds >= size));
  const [[name, size], next] = [units[seconds < 1 ? 3 : first], units[first + 1]];
  const head = `${Math.floor(seconds / size)} ${name}`;
  const rest = next && seconds >= 1 ? Math.floor((seconds % size) / next[1]) : 0;
  return rest ? `${head} ${rest} ${next[0]}` : head;
}
