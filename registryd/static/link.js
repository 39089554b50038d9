// The one stream of /watch: opened, listened to, and opened again when it is lost, from where it was.

import { Refusal, Unreachable, ask, askJson } from "./ask.js";
import { EventParser } from "./sse.js";

export const TIMES = {
  silence: 22_000,  // milliseconds without a byte after which a stream is given up: a comment comes every 15 s
  first: 250,  // before the first attempt to come back
  longest: 15_000,  // between two attempts
  others: 2_000,  // between two looks at which services there are
};
const LONGEST_PATH = 7_000;  // characters: the registry takes 8 KiB

export class Link {
  // `state` is one of connecting, live, lost (with `why`, `retryAt`), refused (the same, in the registry's words), token
  // (it wants another token; waits for `again`).
  state = "connecting";
  why = "";
  status = 0;
  failures = 0;
  retryAt = 0;
  heardAt = 0;  // performance.now() when something last came
  heardWall = 0;  // the same on the wall clock
  lastId = "";
  only = null;  // the services that are watched, where not all may be
  unwatched = 0;  // how many do not fit into one request
  #isPaused = false;
  #wake = null;
  #stop = null;
  #tell;
  #take;
  #know;
  #times;

  // `take(events)` gets what comes, `know(status)` what /status says at each beginning; `tell()` is called when the state
  // changes.
  constructor({ take, know, tell }, times = TIMES) {
    this.#take = take;
    this.#know = know;
    this.#tell = tell;
    this.#times = times;
  }

  async run() {
    for (;;) {
      try {
        await this.#watch();
      } catch (error) {
        this.#fail(error);
      }
      do await this.#wait();
      while (this.#isPaused);
    }
  }

  // Tries at once, and from the beginning: who asks may see other things now.
  restart() {
    this.lastId = "";
    this.failures = 0;
    this.#stop?.abort("restart");
    this.again();
  }

  // Lets the connection go while nobody looks: a browser has six for all pages of one registry.
  pause() {
    this.#isPaused = true;
    this.#stop?.abort("paused");
  }

  // Goes on from where it was.
  resume() {
    if (!this.#isPaused) return;
    this.#isPaused = false;
    if (this.state !== "token") this.again();
  }

  // Tries at once.
  again() {
    this.retryAt = 0;
    this.#wake?.();
  }

  async #watch() {
    const { signal } = this.#stop = new AbortController();
    const watch = setInterval(() => {
      if (this.state === "live" && performance.now() - this.heardAt > this.#times.silence) this.#stop.abort("silence");
    }, this.#times.silence / 20);
    try {
      const answer = await this.#open(signal);
      this.#heard();
      this.#become("live", "");
      if (this.only) this.#lookForOthers(signal);
      await this.#read(answer.body);
      this.#become("connecting", "the registry has ended the stream");
    } catch (error) {
      if (signal.reason === "silence") throw new Unreachable("nothing comes any more");
      if (signal.aborted) {
        this.#become("connecting", "");
        return;
      }
      throw error;
    } finally {
      clearInterval(watch);
      this.#stop.abort("over");
    }
  }

  async #read(body) {
    const parser = new EventParser();
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read().catch(() => {
        throw new Unreachable("the connection broke off");
      });
      if (done) return;
      this.#heard();
      this.failures = 0;
      const events = parser.push(value);
      if (!events.length) continue;
      this.lastId = events.at(-1).id ?? this.lastId;
      this.#take(events);
    }
  }

  async #open(signal) {
    const status = await askJson("status", { signal });
    this.#know(status);
    if (!status.access || status.access.caller.services.includes("*")) {
      this.only = null;
      this.unwatched = 0;
      return ask("watch", { headers: this.#since(), signal });
    }
    if (!this.only) await this.#chooseServices(signal);
    return ask(this.#path(), { headers: this.#since(), signal });
  }

  #since() {
    return this.lastId ? { "Last-Event-ID": this.lastId } : {};
  }

  // Not all services may be watched: those that may. Waits until there is one, as no name at all would mean all.
  async #chooseServices(signal) {
    this.lastId = "";
    this.only = await this.#names(signal);
    while (!this.only.length) {
      this.#heard();
      this.#take([{ type: "snapshot", data: '{"instances":[],"count":0}', id: null }]);
      this.#become("live", "");
      await sleep(this.#times.others);
      signal.throwIfAborted();
      this.only = await this.#names(signal);
    }
  }

  async #names(signal) {
    return Object.keys((await askJson("services", { signal })).services);
  }

  #path() {
    let path = "";
    let taken = 0;
    for (const name of this.only) {
      const more = `${path ? "&" : "watch?"}service=${encodeURIComponent(name)}`;
      if (path.length + more.length > LONGEST_PATH) break;
      path += more;
      taken += 1;
    }
    this.unwatched = this.only.length - taken;
    return path;
  }

  // Where only some services are watched, whether there are others is to be asked.
  async #lookForOthers(signal) {
    try {
      for (;;) {
        await sleep(this.#times.others);
        const names = await this.#names(signal);
        if (names.some((name) => !this.only.includes(name))) {
          this.only = null;
          this.#stop.abort("others");
        }
        signal.throwIfAborted();
      }
    } catch (error) {
      if (!signal.aborted && !isExpected(error)) throw error;  // else the stream itself will tell
    }
  }

  #fail(error) {
    if (!isExpected(error)) throw error;
    this.failures += 1;
    this.status = error.status ?? 0;
    this.retryAt = performance.now() + Math.max((error.retryAfter ?? 0) * 1000, this.#backOff());
    const wantsToken = this.status === 401 || this.status === 403;
    if (wantsToken) this.only = null;
    this.#become(wantsToken ? "token" : this.status ? "refused" : "lost", error.message);
  }

  #backOff() {
    const longest = Math.min(this.#times.first * 2 ** this.failures, this.#times.longest);
    return longest * (0.75 + Math.random() / 4);
  }

  // Until it is time to try again; for another token, or while it is paused, until it is told to.
  async #wait() {
    const wait = this.retryAt ? this.retryAt - performance.now() : this.#times.first;
    await new Promise((resolve) => {
      this.#wake = resolve;
      if (this.state !== "token" && !this.#isPaused) setTimeout(resolve, Math.max(0, wait));
    });
    this.#wake = null;
    this.retryAt = 0;
  }

  #heard() {
    this.heardAt = performance.now();
    this.heardWall = Date.now();
  }

  #become(state, why) {
    this.state = state;
    this.why = why;
    this.#tell();
  }
}

const isExpected = (error) => error instanceof Refusal || error instanceof Unreachable;
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
