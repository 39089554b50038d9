// How long the leases in view still run. A heartbeat is no change, so /watch does not tell of it: this asks, again and
// again, for those that can be seen, and no others.

import { Refusal, Unreachable, askJson } from "./ask.js";

const SOONEST = 1_000;  // milliseconds between two questions
const LATEST = 3_000;
const STALE = 10_000;  // milliseconds after which what was answered is shown as old
const LONGEST_PATH = 7_000;

export class Leases {
  #known = new Map();  // id -> { left, ttl, heard, at }: seconds, as the registry's clock had it at `at`
  #timer = null;
  #isAsking = false;
  #isWanted = false;
  #wanted;
  #told;

  // `wanted()` gives the ids; `told()` is called when there is an answer.
  constructor(wanted, told) {
    this.#wanted = wanted;
    this.#told = told;
  }

  // Nothing is known any more.
  clear() {
    this.#known.clear();
  }

  // What is known of a lease now: seconds `left` of `ttl`, and `heard` (when the last heartbeat came). Where that is too old
  // to go by, or nothing `runs`, `left` is what was said at the time, and `old` says how many milliseconds ago that was.
  // Null: nothing is known. `now` is that of performance.now().
  of(id, now, runs) {
    const known = this.#known.get(id);
    if (!known) return null;
    const age = now - known.at;
    const isOld = !runs || age > STALE;
    return { ...known, left: isOld ? known.left : Math.max(0, known.left - age / 1000), old: isOld ? age : 0 };
  }

  // Asks soon: something else is in view, or has changed.
  poke() {
    clearTimeout(this.#timer);
    this.#isWanted = true;
    this.#timer = setTimeout(() => this.#ask(), 100);
  }

  // Asks no more, until it is poked.
  stop() {
    clearTimeout(this.#timer);
    this.#isWanted = false;
  }

  async #ask() {
    if (this.#isAsking) return;
    this.#isAsking = true;
    let pause = SOONEST;
    try {
      pause = await this.#askAll([...new Set(this.#wanted())]);
    } catch (error) {
      if (!(error instanceof Refusal || error instanceof Unreachable)) throw error;
      pause = LATEST;  // what was known grows old, and says so
    } finally {
      this.#isAsking = false;
      if (this.#isWanted) {
        clearTimeout(this.#timer);
        this.#timer = setTimeout(() => this.#ask(), pause);
      }
    }
  }

  async #askAll(ids) {
    const known = new Map();
    let shortest = Infinity;
    while (ids.length) {
      let path = "leases";
      while (ids.length && path.length < LONGEST_PATH) {
        path += `${path === "leases" ? "?" : "&"}instance_id=${encodeURIComponent(ids.pop())}`;
      }
      const at = performance.now();  // not later: what is left is never more than what is shown
      for (const lease of (await askJson(path)).leases) {
        known.set(lease.instance_id, { left: lease.seconds_left, ttl: lease.ttl, heard: lease.last_heartbeat, at });
        shortest = Math.min(shortest, lease.ttl);
      }
    }
    this.#known = known;
    this.#told();
    return Math.min(LATEST, Math.max(SOONEST, (shortest * 1000) / 3));
  }
}
