// The list: a tree of services and their instances, of which only those rows exist that can be seen, so that it is as fast
// with ten thousand as with ten. One row is the current one: the keys move it, and it stays where it is while others come
// and go.

import { countsOf, STATUSES } from "./model.js";
import { duration, give, make, markOf, say, show, statusWords } from "./words.js";

const BEYOND = 6;  // rows that exist above and below what can be seen

export class List {
  rows = [];
  #shown = new Map();  // key -> row on the page
  #current = 0;
  #currentKey = "";
  #height = 0;  // of a row; 0: it is not known yet
  #frame = 0;
  #grid;
  #body;
  #asks;

  // `asks` are toggle(name), open(id), leaseOf(id), selected(), viewed().
  constructor(grid, body, asks) {
    this.#grid = grid;
    this.#body = body;
    this.#asks = asks;
    body.addEventListener("keydown", (event) => this.#key(event));
    body.addEventListener("click", (event) => this.#click(event));
    addEventListener("scroll", () => this.#soon(), { passive: true });
    addEventListener("resize", () => this.#measure());
  }

  // Takes how high a row is from the style sheet.
  #measure() {
    const probe = make("div", { class: "probe", "aria-hidden": "true" });
    this.#body.append(probe);
    this.#height = probe.offsetHeight;
    probe.remove();
    this.#soon();
  }

  take(rows) {
    this.rows = rows;
    const index = this.#currentKey ? rows.findIndex((row) => row.key === this.#currentKey) : -1;
    const hadFocus = this.#body.contains(document.activeElement);
    this.#current = index >= 0 ? index : Math.min(this.#current, Math.max(0, rows.length - 1));
    this.#currentKey = rows[this.#current]?.key ?? "";
    give(this.#grid, "aria-rowcount", rows.length + 1);
    this.draw();
    if (!hadFocus || !rows.length) return;
    const { element } = this.#shown.get(this.#currentKey);
    if (document.activeElement !== element) element.focus({ preventScroll: true });
  }

  // The ids of the instances in view.
  seen() {
    const { from, to } = this.#view(0);
    return this.rows.slice(from, to).filter((row) => row.kind === "instance").map((row) => row.entry.id);
  }

  draw() {
    if (!this.#height) this.#measure();
    if (!this.#height) return;  // it is not shown
    const height = `${this.rows.length * this.#height}px`;
    if (this.#body.style.height !== height) this.#body.style.height = height;
    const { from, to } = this.#view(BEYOND);
    const wanted = new Set();
    for (let at = from; at < to; at += 1) wanted.add(at);
    if (this.rows.length) wanted.add(this.#current);  // it may have the focus
    const keys = new Set([...wanted].map((at) => this.rows[at].key));
    for (const [key, row] of this.#shown) {
      if (keys.has(key)) continue;
      row.element.remove();
      this.#shown.delete(key);
    }
    // In the order in which they are read out; those that are in it are not touched, as one may have the focus.
    let next = this.#body.firstElementChild;
    for (const at of [...wanted].sort((a, b) => a - b)) {
      const element = this.#place(at);
      if (element === next) next = next.nextElementSibling;
      else this.#body.insertBefore(element, next);
    }
  }

  // Has the bars run down.
  tick() {
    for (const row of this.#shown.values()) row.tick?.(this.#asks.leaseOf);
  }

  focus(key) {
    const index = this.rows.findIndex((row) => row.key === key);
    this.#go(index < 0 ? this.#current : index);
  }

  #soon() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.draw();
      this.#asks.viewed();
    });
  }

  #view(beyond) {
    const top = -this.#body.getBoundingClientRect().top;
    const from = Math.max(0, Math.floor(top / this.#height) - beyond);
    const to = Math.min(this.rows.length, Math.ceil((top + innerHeight) / this.#height) + beyond);
    return { from: Math.min(from, this.rows.length), to: Math.max(to, 0) };
  }

  #place(at) {
    const row = this.rows[at];
    let shown = this.#shown.get(row.key);
    if (!shown) {
      shown = row.kind === "service" ? new ServiceRow() : new InstanceRow();
      shown.element.dataset.key = row.key;
      this.#shown.set(row.key, shown);
    }
    const { element } = shown;
    const top = `translateY(${at * this.#height}px)`;
    if (element.style.transform !== top) element.style.transform = top;
    give(element, "aria-rowindex", at + 2);
    give(element, "aria-posinset", row.place);
    give(element, "aria-setsize", row.of);
    give(element, "tabindex", at === this.#current ? 0 : -1);
    shown.take(row);
    if (row.kind === "instance") {
      give(element, "aria-selected", row.entry.id === this.#asks.selected());
      shown.tick(this.#asks.leaseOf);
    }
    return element;
  }

  #go(index) {
    if (!this.rows.length) return;
    this.#current = Math.max(0, Math.min(index, this.rows.length - 1));
    this.#currentKey = this.rows[this.#current].key;
    this.#scrollTo(this.#current);
    this.draw();
    this.#shown.get(this.#currentKey).element.focus({ preventScroll: true });
  }

  #scrollTo(index) {
    const head = this.#grid.querySelector(".head").getBoundingClientRect().bottom;
    const top = this.#body.getBoundingClientRect().top + index * this.#height;
    if (top < Math.max(0, head)) scrollBy(0, top - Math.max(0, head));
    else if (top + this.#height > innerHeight) scrollBy(0, top + this.#height - innerHeight);
  }

  #click(event) {
    const element = event.target.closest("[role=row]");
    if (!element) return;
    const index = this.rows.findIndex((row) => row.key === element.dataset.key);
    if (index < 0) return;
    this.#go(index);
    this.#act(this.rows[index]);
  }

  #act(row) {
    if (row.kind === "service") this.#asks.toggle(row.group.name, !row.open);
    else this.#asks.open(row.entry.id);
  }

  #key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const row = this.rows[this.#current];
    if (!row) return;
    const page = Math.max(1, Math.floor(innerHeight / this.#height) - 3);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.key in moves) this.#go(Math.max(0, Math.min(this.#current + moves[event.key], this.rows.length - 1)));
    else if (event.key === "Enter" || event.key === " ") this.#act(row);
    else if (event.key === "ArrowRight" && row.kind === "service") {
      if (row.open) this.#go(this.#current + 1);
      else this.#asks.toggle(row.group.name, true);
    } else if (event.key === "ArrowLeft" && row.kind === "service") this.#asks.toggle(row.group.name, false);
    else if (event.key === "ArrowLeft") this.#go(this.#current - row.place);
    else return;
    event.preventDefault();
  }
}

const cell = (name, ...children) => make("div", { role: "gridcell", class: name }, ...children);

class ServiceRow {
  #name = make("span", { class: "name" });
  #share = make("span", { class: "share" });
  #parts = make("span", { class: "parts", "aria-hidden": "true" });
  #state = make("span", { class: "mark", "aria-hidden": "true" });
  #rest = make("span", { class: "quiet" });
  #drawn = "";

  constructor() {
    this.element = make(
      "div",
      { role: "row", class: "cells service", "aria-level": 1 },
      cell("what", make("span", { class: "twist", "aria-hidden": "true" }), this.#name),
      cell("status", this.#state, this.#share, this.#parts),
      make("div", { role: "gridcell", class: "rest", "aria-colspan": 4 }, this.#rest),
    );
  }

  take({ group, shown, open }) {
    give(this.element, "aria-expanded", open);
    say(this.#name, group.name);
    const counts = countsOf(group);
    const chosen = shown && shown.length < counts.all ? `${shown.length} shown` : "";
    const drawn = JSON.stringify(counts) + chosen;
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    say(this.#share, `${counts.up} of ${counts.all} up`);
    this.#state.className = markOf(counts.up === counts.all ? "up" : counts.up ? "draining" : "down");
    const others = [...STATUSES.slice(1), "suspect"].filter((status) => counts[status]);
    const words = others.map((status) => `${counts[status]} ${status}`);
    say(this.#rest, [...words, ...(chosen ? [chosen] : [])].join(", "));
    this.#parts.replaceChildren(...STATUSES.filter((status) => counts[status]).map((status) => {
      const part = make("span", { class: `part ${status}` });
      part.style.flexGrow = counts[status];
      return part;
    }));
  }
}

class InstanceRow {
  #id = make("span", { class: "name" });
  #mark = make("span", { class: "mark", "aria-hidden": "true" });
  #status = make("span", { class: "word" });
  #lease = new Bar();
  #address = cell("address");
  #zone = cell("zone");
  #version = cell("version");
  #rev = 0;
  #entry = null;

  constructor() {
    this.element = make(
      "div",
      { role: "row", class: "cells instance", "aria-level": 2 },
      cell("what", this.#id),
      cell("status", this.#mark, this.#status),
      cell("lease", this.#lease.element),
      this.#address,
      this.#zone,
      this.#version,
    );
  }

  take({ entry }) {
    if (this.#entry === entry && this.#rev === entry.rev) return;
    this.#entry = entry;
    this.#rev = entry.rev;
    const { data } = entry;
    say(this.#id, entry.id);
    this.#mark.className = markOf(data.status) + (data.suspect ? " suspect" : "");
    say(this.#status, statusWords(data));
    say(this.#address, data.base_url);  // no link: the row opens the panel, which has one
    say(this.#zone, data.zone);
    say(this.#version, data.version);
  }

  tick(leaseOf) {
    this.#lease.show(leaseOf(this.#entry.id));
  }
}

// A lease that runs down: a bar, and the same in words.
export class Bar {
  #fill = make("span", { class: "fill" });
  #track = make("span", { class: "track", "aria-hidden": "true" }, this.#fill);
  #words = make("span", { class: "left" });

  constructor() {
    this.element = make("span", { class: "bar" }, this.#track, this.#words);
  }

  // `lease` as Leases.of() has it; null where nothing is known.
  show(lease) {
    show(this.#track, lease !== null);
    if (!lease) {
      say(this.#words, "not known");
      return;
    }
    const share = Math.max(0, Math.min(1, lease.left / lease.ttl));
    const width = `scaleX(${share.toFixed(3)})`;
    if (this.#fill.style.transform !== width) this.#fill.style.transform = width;
    this.element.classList.toggle("low", share < 1 / 3);
    this.element.classList.toggle("old", lease.old > 0);
    say(this.#words, lease.old ? `was ${duration(lease.left)}` : duration(lease.left));
  }
}
