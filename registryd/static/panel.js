// One instance: what it is, whether it is handed out and why, what has happened to it, and what an operator can do.

import { Refusal, Unreachable, ask, askJson } from "./ask.js";
import { Bar } from "./list.js";
import { addressElement, give, make, markOf, say, show, statusWords, timeElement } from "./words.js";

const EVERY = 3_000;  // milliseconds between two looks at an instance that is open
const ENDS = [["", "until it is resumed"], [600, "for 10 minutes"], [3600, "for an hour"], [14_400, "for 4 hours"],
  [86_400, "for a day"]];
const DOING = { drain: ["Drain it", "drained"], maintenance: ["Take it out", "put into maintenance"] };

export class Panel {
  id = "";
  #story = null;
  #why = "";
  #timer = null;
  #turn = 0;
  #drawnFacts = null;
  #drawnEvents = "";
  #asks;
  #root;
  #parts = {};
  #bar = new Bar();

  // `asks` are entryOf(id), leaseOf(id), mayOperate(service), isLive().
  constructor(root, asks) {
    this.#root = root;
    this.#asks = asks;
    this.#build();
  }

  open(id) {
    if (id === this.id) return;
    this.id = id;
    this.#story = null;
    this.#why = "";
    this.#drawnFacts = null;
    this.#drawnEvents = "";
    this.#choose("");
    this.#tell("", false);
    this.draw();
    this.poke();
  }

  close() {
    this.id = "";
    this.#turn += 1;
    clearTimeout(this.#timer);
  }

  // Asks soon how it is.
  poke() {
    clearTimeout(this.#timer);
    if (this.id) this.#timer = setTimeout(() => this.#look(), 50);
  }

  draw() {
    if (!this.id) return;
    const parts = this.#parts;
    const entry = this.#asks.entryOf(this.id);
    const data = entry?.data;
    const status = data?.status ?? (this.#story ? "gone" : "");
    const service = data?.service_name ?? this.#story?.service_name ?? "";
    show(parts.heading, status !== "");
    parts.mark.className = markOf(status) + (data?.suspect ? " suspect" : "");
    say(parts.status, data ? statusWords(data) : status);
    say(parts.service, service && `of ${service}`);
    say(parts.why, this.#why);
    this.#drawOverride(data);
    show(parts.lease, Boolean(data));
    const may = Boolean(service) && this.#asks.mayOperate(service);
    show(parts.actions, Boolean(data) && may);
    show(parts.mayNot, Boolean(data) && !may);
    show(parts.resume, Boolean(data?.override));
    if (!data || !may) this.#choose("");
    if (data !== this.#drawnFacts) {
      this.#drawnFacts = data;
      parts.facts.replaceChildren(...(data ? factsOf(data) : []));
    }
    this.#drawEvents();
    this.tick();
  }

  tick() {
    if (!this.id) return;
    const lease = this.#asks.leaseOf(this.id);
    this.#bar.show(lease);
    const heard = lease?.heard ?? "";
    if (heard === this.#parts.heard.dataset.drawn) return;
    this.#parts.heard.dataset.drawn = heard;
    this.#parts.heard.replaceChildren(...(heard ? ["last heartbeat ", timeElement(heard)] : []));
  }

  #build() {
    const parts = this.#parts;
    parts.mark = make("span", { class: "mark", "aria-hidden": "true" });
    parts.status = make("strong", {});
    parts.service = make("span", { class: "quiet" });
    parts.heading = make("p", { class: "state" }, parts.mark, parts.status, " ", parts.service);
    parts.why = make("p", { id: "why", class: "why" });
    parts.override = make("p", { class: "override" });
    parts.heard = make("span", { class: "quiet" });
    parts.lease = make("p", { class: "lease-line" }, make("span", { class: "quiet" }, "Lease "), this.#bar.element,
      parts.heard);
    const button = (text, then) => {
      const element = make("button", { type: "button" }, text);
      element.addEventListener("click", then);
      return element;
    };
    parts.drain = button("Drain…", () => this.#choose("drain"));
    parts.maintenance = button("Maintenance…", () => this.#choose("maintenance"));
    parts.resume = button("Resume", () => this.#do("resume", undefined));
    parts.actions = make("p", { class: "buttons" }, parts.drain, parts.maintenance, parts.resume);
    parts.mayNot = make("p", { class: "quiet" }, "Your rights do not allow to drain or resume it.");
    parts.form = this.#form();
    parts.told = make("p", { class: "told", role: "status" });
    parts.facts = make("dl", { class: "facts" });
    parts.handed = make("p", { class: "quiet" });
    parts.events = make("ol", { class: "events" });
    this.#root.append(
      parts.heading, parts.override, make("h3", {}, "Why"), parts.why, parts.handed, parts.lease, parts.actions, parts.mayNot,
      parts.form, parts.told, make("h3", {}, "What it is"), parts.facts, make("h3", {}, "History"), parts.events,
    );
  }

  #form() {
    const parts = this.#parts;
    parts.reason = make("input", { id: "reason", type: "text", autocomplete: "off", maxlength: 256 });
    parts.end = make("select", { id: "end" }, ...ENDS.map(([seconds, words]) => make("option", { value: seconds }, words)));
    parts.submit = make("button", { type: "submit", class: "main" });
    const cancel = make("button", { type: "button" }, "Cancel");
    parts.legend = make("h3", { id: "doing" });
    const form = make("form", { class: "doing", "aria-labelledby": "doing" },
      parts.legend,
      make("p", {}, make("label", { for: "reason" }, "Reason"), parts.reason),
      make("p", {}, make("label", { for: "end" }, "How long"), parts.end),
      make("p", { class: "buttons" }, parts.submit, cancel));
    cancel.addEventListener("click", () => {
      const from = form.dataset.verb;
      this.#choose("");
      this.#parts[from].focus();
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const body = {};
      if (parts.reason.value.trim()) body.reason = parts.reason.value.trim();
      if (parts.end.value) body.for = Number(parts.end.value);
      this.#do(form.dataset.verb, body);
    });
    return form;
  }

  // Shows the form for one thing to do, or none.
  #choose(verb) {
    const { form, legend, submit, reason, end, drain, maintenance } = this.#parts;
    show(form, verb !== "");
    give(drain, "aria-expanded", verb === "drain");
    give(maintenance, "aria-expanded", verb === "maintenance");
    if (!verb) {
      reason.value = "";
      end.value = "";
      return;
    }
    form.dataset.verb = verb;
    say(legend, verb === "drain" ? `Drain ${this.id}: no lookup gives it any more` : `Take ${this.id} out for maintenance`);
    say(submit, DOING[verb][0]);
    reason.focus();
  }

  async #do(verb, body) {
    const id = this.id;
    this.#tell("Asking …", false);
    try {
      await ask(`${verb}/${encodeURIComponent(id)}`, { method: "POST", body });
    } catch (error) {
      if (!(error instanceof Refusal || error instanceof Unreachable)) throw error;
      if (id !== this.id) return;
      const unsure = error instanceof Unreachable ? "; whether it was done is not known" : "";
      this.#tell(`${error instanceof Refusal && error.status === 403 ? "Not allowed" : "Not done"}: ${error.message}${unsure}`, true);
      return;
    }
    if (id !== this.id) return;
    this.#tell(verb === "resume" ? `${id} is resumed.` : `${id} is ${DOING[verb][1]}.`, false);
    this.#choose("");
    if (!this.#root.contains(document.activeElement) || document.activeElement.hidden) document.getElementById("side-title").focus();
    this.poke();
  }

  #tell(text, isBad) {
    this.#parts.told.classList.toggle("bad", isBad);
    say(this.#parts.told, text);
  }

  async #look() {
    const turn = ++this.#turn;
    const id = this.id;
    if (this.#asks.isLive() && !document.hidden) {
      try {
        const told = await askJson(`explain/${encodeURIComponent(id)}`);
        if (turn !== this.#turn) return;
        this.#story = told.instances.find((story) => story.instance_id === id) ?? null;
        this.#why = this.#story?.why ?? told.why ?? "the registry knows of no instance of this name";
      } catch (error) {
        if (!(error instanceof Refusal || error instanceof Unreachable)) throw error;
        if (turn !== this.#turn) return;
        if (!this.#story) this.#why = `not known: ${error.message}`;
      }
      this.draw();
    }
    if (turn === this.#turn && this.id) this.#timer = setTimeout(() => this.#look(), EVERY);
  }

  #drawOverride(data) {
    const { override, handed } = this.#parts;
    const laid = data?.override;
    const key = laid ? JSON.stringify(laid) : "";
    if (override.dataset.drawn !== key) {
      override.dataset.drawn = key;
      override.replaceChildren(...(laid ? overrideWords(laid) : []));
    }
    show(override, Boolean(laid));
    const last = this.#story?.last_handed_out_at ?? "";
    show(handed, Boolean(data) && this.#story !== null);
    if (handed.dataset.drawn !== last || !handed.textContent) {
      handed.dataset.drawn = last;
      handed.replaceChildren(...(last ? ["Last given to a reader at ", timeElement(last)] : ["No reader has been given it."]));
    }
  }

  #drawEvents() {
    const events = this.#story?.events ?? [];
    const drawn = events.map((event) => event.index).join();
    if (drawn === this.#drawnEvents && this.#parts.events.childElementCount) return;
    this.#drawnEvents = drawn;
    const items = events.toReversed().map(eventElement);
    this.#parts.events.replaceChildren(...(items.length ? items : [make("li", { class: "quiet" }, "Nothing is known.")]));
  }
}

function overrideWords(laid) {
  const until = laid.until ? [" until ", timeElement(laid.until)] : [" until it is resumed"];
  const reason = laid.reason ? [": ", make("q", {}, laid.reason)] : [", no reason given"];
  return [make("strong", {}, laid.status), " since ", timeElement(laid.since), ...until, ...reason];
}

function factsOf(data) {
  const tags = data.tags.map((tag) => make("span", { class: "tag" }, tag));
  const pairs = Object.entries(data.metadata).map(([key, value]) => make("div", {}, make("code", {}, key), " ", value));
  const facts = [
    ["Address", [addressElement(data.base_url)]],
    ["Service", [data.service_name]],
    ["Zone", [data.zone]],
    ["Version", [data.version]],
    ["Tags", tags],
    ["Weight", [String(data.weight)]],
    ["Lease", [`${data.ttl} s`]],
    ["Registered", [timeElement(data.registered_at)]],
    ["Generation", [String(data.generation)]],
    ["Metadata", pairs],
  ];
  return facts
    .filter(([, values]) => values.some((value) => value !== ""))
    .flatMap(([name, values]) => [make("dt", {}, name), make("dd", {}, ...values)]);
}

function eventElement(event) {
  const by = [event.token && `token ${event.token}`, event.address, event.user_agent].filter(Boolean).join(", ");
  return make("li", {},
    timeElement(event.at), " ", make("strong", {}, event.event), event.why ? ` ${event.why}` : "",
    ...(by ? [make("div", { class: "quiet by" }, by)] : []));
}
