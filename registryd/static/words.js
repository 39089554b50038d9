// How things are put on the page: words, times, and elements. All that comes from outside goes in as text.

// An element with attributes, and children that are elements or text.
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// Has an element say this; does nothing where it does.
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function give(element, attribute, value) {
  if (value === null) element.removeAttribute(attribute);
  else if (element.getAttribute(attribute) !== String(value)) element.setAttribute(attribute, value);
}

export function show(element, isShown) {
  if (element.hidden === isShown) element.hidden = !isShown;
}

export const many = (number, what) => `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;

// 4 s, 2 min, 3 h, 5 d
export function duration(seconds) {
  if (seconds < 120) return `${Math.max(0, Math.floor(seconds))} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

const two = (number) => String(number).padStart(2, "0");

// A time as a clock on the wall here shows it, with the day where it is not today.
export function clock(date) {
  const time = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  if (date.toDateString() === new Date().toDateString()) return time;
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${time}`;
}

// The same of a time that the registry gives, with its own form on it.
export function timeElement(text) {
  if (!text) return document.createTextNode("");
  const date = new Date(text);
  return make("time", { datetime: text, title: text }, Number.isNaN(date.getTime()) ? text : clock(date));
}

// An address, as a link where a browser can go there and nothing else can come of it.
export function addressElement(text) {
  let url = null;
  try {
    url = new URL(text);
  } catch {
    // It is what an instance said of itself.
  }
  if (url?.protocol !== "http:" && url?.protocol !== "https:") return make("span", {}, text);
  return make("a", { href: url.href, rel: "noopener noreferrer", target: "_blank" }, text);
}

const KNOWN = new Set(["up", "starting", "down", "draining", "maintenance", "gone"]);

// The class that draws a status.
export const markOf = (status) => (KNOWN.has(status) ? `mark ${status}` : "mark");

// A status with all that is to be known about it at a glance.
export function statusWords(data) {
  return data.suspect ? `${data.status}, suspect` : data.status;
}
