// What has changed since the page was opened: a list to look at, and now and then a sentence for those who listen.

import { clock, make, many, markOf, show } from "./words.js";

const MOST = 60;  // changes that are listed
const EVERY = 5_000;  // milliseconds between two sentences

export class News {
  #waiting = [];  // changes that are not on the page yet
  #unsaid = [];
  #saidAt = -EVERY;
  #list;
  #voice;
  #open;

  // `list` and `voice` are the elements; `open(id)` is called when a change is chosen.
  constructor(list, voice, open) {
    this.#list = list;
    this.#voice = voice;
    this.#open = open;
  }

  add(kind, data, { before, after }) {
    const what = before !== after && kind === "updated" ? `${before ?? "not there"}, now ${after}` : kind;
    const status = after ?? "gone";
    const change = { id: data.instance_id, service: data.service_name, what, status, heard: new Date() };
    this.#waiting.push(change);
    if (this.#waiting.length > MOST) this.#waiting.shift();
    if (before !== after) this.#unsaid.push(change);
  }

  clear() {
    this.#waiting = [];
    this.#unsaid = [];
    this.#list.replaceChildren();
    this.#voice.textContent = "";
  }

  draw() {
    for (const change of this.#waiting) this.#list.prepend(this.#element(change));
    this.#waiting = [];
    while (this.#list.childElementCount > MOST) this.#list.lastElementChild.remove();
    show(this.#list, this.#list.childElementCount > 0);
  }

  // Says what has changed, not more often than one can listen to.
  announce() {
    const now = performance.now();
    if (!this.#unsaid.length || now - this.#saidAt < EVERY) return;
    this.#saidAt = now;
    const [{ id, service, what }] = this.#unsaid;
    const others = this.#unsaid.length - 1;
    this.#voice.textContent = `${id} of ${service}: ${what}${others ? `, and ${many(others, "other change")}` : ""}`;
    this.#unsaid = [];
  }

  #element({ id, service, what, status, heard }) {
    const button = make("button", { type: "button" }, id);
    button.addEventListener("click", () => this.#open(id));
    return make("li", {},
      make("time", { datetime: heard.toISOString() }, clock(heard)), " ",
      make("span", { class: markOf(status), "aria-hidden": "true" }), " ",
      button, make("span", { class: "quiet" }, ` of ${service} `), make("span", {}, what));
  }
}
