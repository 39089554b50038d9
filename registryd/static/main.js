// Puts the page together: what comes over the link goes into the model, and once a frame what has changed is drawn.

import { Refusal, Unreachable, askJson, hasToken, useToken } from "./ask.js";
import { Leases } from "./leases.js";
import { Link } from "./link.js";
import { List } from "./list.js";
import { Model, countsOf, filterOf, rowsOf } from "./model.js";
import { News } from "./news.js";
import { Panel } from "./panel.js";
import { clock, duration, give, many, say, show } from "./words.js";

const FEW = 100;  // with so many instances or fewer, all services are open to begin with
const UNSEEN = 30_000;  // milliseconds that a page may be out of sight before it lets its connection go
const STATUS_EVERY = 5_000;  // milliseconds between two looks at how the registry is
const at = (id) => document.getElementById(id);

const model = new Model();
const view = { text: "", filter: null, onlyTrouble: false, sort: "name", descending: false, toggled: new Map(), byDefault: null };
let status = null;  // what /status has said last
let hasBegun = false;  // whether there is a list to show, be it an old one
let typing = false;  // whether the form for a token is open because someone wants to use another
let frame = 0;

const link = new Link({ take, know, tell: drawSoon });
const leases = new Leases(() => [...list.seen(), ...(panel.id ? [panel.id] : [])], tick);
const list = new List(at("grid"), at("rows"), {
  toggle, open: openPanel, leaseOf, selected: () => panel.id, viewed: watchLeases,
});
const panel = new Panel(at("panel"), {
  entryOf: (id) => model.instances.get(id), leaseOf, mayOperate, isLive: () => link.state === "live",
});
const news = new News(at("changes").querySelector("ol"), at("news"), openPanel);

// What is known.

function take(events) {
  for (const { type, data } of events) {
    const told = JSON.parse(data);
    if (type === "snapshot") {
      model.replace(told.instances);
      leases.clear();
      if (!hasBegun) view.byDefault = told.instances.length <= FEW;
      hasBegun = true;
    } else {
      news.add(type, told, model.apply(type, told));
    }
    if (panel.id && (type === "snapshot" || told.instance_id === panel.id)) panel.poke();
  }
  watchLeases();
  drawSoon();
}

function know(told) {
  status = told;
  drawSoon();
}

async function askStatus() {
  if (link.state !== "live" || document.hidden) return;
  try {
    know(await askJson("status"));
  } catch (error) {
    if (!(error instanceof Refusal || error instanceof Unreachable)) throw error;  // else the link will tell
  }
}

// While the registry is lost nothing runs down: nobody knows how long it still runs.
function leaseOf(id) {
  return leases.of(id, performance.now(), link.state === "live");
}

function watchLeases() {
  if (link.state === "live" && !document.hidden) leases.poke();
  else leases.stop();
}

function mayOperate(service) {
  const caller = status?.access?.caller;
  if (!caller) return true;
  return caller.rights.includes("operate") && caller.services.some((pattern) => fits(pattern, service));
}

// Patterns as in a shell: * is any characters, ? any one.
function fits(pattern, service) {
  const parts = pattern.split("").map((one) => (one === "*" ? ".*" : one === "?" ? "." : one.replace(/[.-]/g, "\\$&")));
  return new RegExp(`^${parts.join("")}$`).test(service);
}

// What is shown.

function drawSoon() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    draw();
  });
}

function draw() {
  watchLeases();
  drawLink();
  drawToken();
  drawTrouble();
  drawList();
  news.draw();
  panel.draw();
}

function drawList() {
  show(at("whole"), hasBegun);
  show(at("side"), hasBegun);
  show(at("starting"), !hasBegun && link.state !== "token");
  say(at("starting"), link.failures ? "There is nothing to show yet, as the registry has not answered." : "Asking the registry …");
  if (!hasBegun) return;
  const { rows, found, services } = rowsOf(model, { ...view, isOpen });
  list.take(rows);
  const all = model.instances.size;
  let up = 0;
  for (const group of model.services.values()) up += countsOf(group).up;
  say(at("summary"), `${many(model.services.size, "service")}, ${many(all, "instance")}, ${up.toLocaleString("en")} up`);
  const chooses = view.filter || view.onlyTrouble;
  say(at("found"), chooses ? `${many(found, "instance")} of ${many(services, "service")}` : "");
  say(at("expand"), isAllOpen() ? "Close all" : "Open all");
  drawEmpty(rows.length === 0, chooses);
  const aside = link.state === "live" ? "" : "✕ ";
  document.title = `${aside}${all - up ? `${all - up} of ${all} not up` : `${all} up`} – registryd`;
}

function drawEmpty(isEmpty, chooses) {
  show(at("empty"), isEmpty);
  if (!isEmpty) return;
  const button = at("empty").querySelector("button");
  const word = view.text.trim();
  show(button, chooses && /^[!-~]+$/.test(word) && !word.includes("/"));
  say(button, `Ask the registry about ${word}`);
  say(at("empty").querySelector(".words"), !chooses ? "No service is registered."
    : model.instances.size ? "Nothing that is registered fits." : "Nothing is registered.");
}

const LINK = { connecting: "Connecting", live: "Live", lost: "Lost", refused: "Refused", token: "Not allowed" };

function drawLink() {
  const now = performance.now();
  const age = (now - link.heardAt) / 1000;
  at("link").className = `link ${link.state}`;
  document.body.classList.toggle("stale", hasBegun && link.state !== "live");
  const heard = link.heardAt ? `, last heard ${duration(age)} ago` : "";
  say(at("link").querySelector(".words"), LINK[link.state] + heard);
  drawBanner(now);
}

// Said once for each time that it is lost; the seconds in it go on.
function drawBanner(now) {
  const banner = at("banner");
  const isLost = link.state === "lost" || link.state === "refused";
  show(banner, isLost || (hasBegun && link.state === "token"));
  if (banner.hidden) return;
  const shown = hasBegun ? ` What is shown is as of ${clock(new Date(link.heardWall))}, ${duration((now - link.heardAt) / 1000)} ago,`
    + " and may not be so any more." : "";
  const wait = Math.ceil((link.retryAt - now) / 1000);
  const next = link.state === "token" ? "" : link.retryAt && wait > 0 ? ` Trying again in ${wait} s.` : " Trying again now.";
  const what = link.state === "refused" ? "The registry refuses:" : link.state === "token" ? "The registry lets us in no more:"
    : "The registry is lost:";
  banner.className = "banner bad";
  show(banner.querySelector("button"), link.state !== "token");
  // A screen reader hears what it is once, and not each second.
  give(banner, "aria-live", banner.dataset.said === link.why ? "off" : "assertive");
  banner.dataset.said = link.why;
  say(banner.querySelector(".words"), `${what} ${link.why}.${shown}${next}`);
}

function drawTrouble() {
  const words = [];
  if (link.state === "live" && status?.status === "degraded") words.push(`The registry needs a human: ${status.reasons.join(", ")}.`);
  if (link.unwatched) words.push(`${many(link.unwatched, "service")} more than fit into one request are not shown.`);
  if (link.state === "live" && link.only && status?.access) words.push(`Shown is what your token may read: ${status.access.caller.services.join(", ")}.`);
  show(at("trouble"), words.length > 0);
  say(at("trouble"), words.join(" "));
}

function drawToken() {
  const isWanted = link.state === "token";
  const form = at("token");
  const wasHidden = form.hidden;
  show(form, isWanted || typing);
  if (isWanted) {
    say(at("token-title"), link.status === 403 && hasToken() ? "This token may not see what is registered"
      : "The registry wants a token");
    say(at("token-why"), `${link.why}.`);
  } else if (typing) {
    say(at("token-title"), "Use another token");
    say(at("token-why"), "");
  }
  show(at("token-cancel"), typing && !isWanted);
  if (wasHidden && !form.hidden) at("token-value").focus();
  const caller = status?.access?.caller;
  show(at("caller"), Boolean(caller) && link.state === "live" && !typing);
  say(at("caller").querySelector(".words"), caller?.name ? `Token ${caller.name}` : "No token");
  say(at("caller").querySelector("button"), hasToken() ? "Forget it" : "Use a token");
}

function tick() {
  list.tick();
  panel.tick();
}

// What people do.

function isOpen(name) {
  return view.toggled.get(name) ?? (view.filter !== null || view.onlyTrouble || view.byDefault);
}

const isAllOpen = () => model.services.size > 0 && [...model.services.keys()].every(isOpen);

function toggle(name, open) {
  view.toggled.set(name, open);
  drawSoon();
}

function choose(text, onlyTrouble) {
  view.text = text;
  view.filter = filterOf(text);
  view.onlyTrouble = onlyTrouble;
  view.toggled.clear();
  remember();
  drawSoon();
}

function sortBy(sort) {
  view.descending = view.sort === sort && !view.descending;
  view.sort = sort;
  for (const header of document.querySelectorAll("[data-sort]")) {
    const isIt = header.dataset.sort === sort;
    give(header, "aria-sort", isIt ? (view.descending ? "descending" : "ascending") : "none");
  }
  drawSoon();
}

function openPanel(id) {
  panel.open(id);
  say(at("side-title"), id);
  showSide(true);
  at("side-title").focus({ preventScroll: true });
  leases.poke();
  remember();
  drawSoon();
}

function closeSide() {
  const { id } = panel;
  panel.close();
  say(at("side-title"), "Changes");
  showSide(false);
  document.body.classList.remove("aside");
  remember();
  drawSoon();
  if (id) list.focus(`i:${id}`);
  else at("news-open").focus();
}

function showSide(isPanel) {
  show(at("panel"), isPanel);
  show(at("changes"), !isPanel);
  show(at("side-close"), true);
  document.body.classList.add("aside");
  at("side-close").classList.toggle("narrow", !isPanel);
}

// The address keeps what is looked for and at, for a reload and for others; it does not go over the wire.
function remember() {
  const kept = new URLSearchParams();
  if (view.text) kept.set("filter", view.text);
  if (view.onlyTrouble) kept.set("only", "trouble");
  if (panel.id) kept.set("instance", panel.id);
  history.replaceState(null, "", `#${kept}`);
}

function recall() {
  const kept = new URLSearchParams(location.hash.slice(1));
  at("filter").value = kept.get("filter") ?? "";
  at("only").checked = kept.get("only") === "trouble";
  choose(at("filter").value, at("only").checked);
  const id = kept.get("instance") ?? "";
  if (id && id !== panel.id) openPanel(id);
}

function listen() {
  const filtered = () => choose(at("filter").value, at("only").checked);
  at("filter").addEventListener("input", filtered);
  at("only").addEventListener("change", filtered);
  at("search").addEventListener("submit", (event) => event.preventDefault());
  at("expand").addEventListener("click", () => {
    const open = !isAllOpen();
    for (const name of model.services.keys()) view.toggled.set(name, open);
    drawSoon();
  });
  for (const header of document.querySelectorAll("[data-sort]")) {
    header.querySelector("button").addEventListener("click", () => sortBy(header.dataset.sort));
  }
  at("news-open").addEventListener("click", () => {
    showSide(false);
    at("side-title").focus();
  });
  at("side-close").addEventListener("click", closeSide);
  at("empty").querySelector("button").addEventListener("click", () => openPanel(view.text.trim()));
  at("banner").querySelector("button").addEventListener("click", () => link.again());
  at("caller").querySelector("button").addEventListener("click", () => {
    if (hasToken()) return changeToken("");
    typing = true;
    return drawSoon();
  });
  at("token").addEventListener("submit", (event) => {
    event.preventDefault();
    changeToken(at("token-value").value.trim(), at("token-keep").checked);
  });
  at("token-cancel").addEventListener("click", () => {
    typing = false;
    drawSoon();
  });
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && panel.id && !event.defaultPrevented) closeSide();
    if (event.key === "/" && !event.target.closest("input, select")) {
      event.preventDefault();
      at("filter").focus();
    }
  });
  addEventListener("hashchange", recall);
  addEventListener("online", () => {
    if (link.state === "lost") link.again();
  });
  let unseen = null;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(unseen);
    if (document.hidden) unseen = setTimeout(pause, UNSEEN);
    else link.resume();
    panel.poke();
    drawSoon();
  });
  addEventListener("pagehide", pause);
  addEventListener("pageshow", () => link.resume());
}

function pause() {
  link.pause();
  leases.stop();
  document.title = "registryd";  // what it said may not be so any more
}

// Whoever has another token may see other things: all that is shown goes.
function changeToken(text, keep) {
  useToken(text, keep);
  at("token-value").value = "";
  typing = false;
  hasBegun = false;
  status = null;
  model.replace([]);
  leases.clear();
  news.clear();
  if (panel.id) closeSide();
  link.restart();
  drawSoon();
}

say(at("site"), location.host);
listen();
recall();
setInterval(() => {
  if (document.hidden) return;
  drawLink();
  tick();
  news.announce();
}, 250);
setInterval(askStatus, STATUS_EVERY);
link.run();
