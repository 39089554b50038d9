// Server-sent events out of text that comes in pieces (WHATWG HTML, 9.2.6). EventSource would do, but cannot show a token.

export class EventParser {
  #rest = [];  // pieces of a line whose end has not come
  #isFirst = true;
  #wasReturn = false;
  #type = "";
  #data = [];
  #id = null;

  // Takes the next piece; gives back the events that are complete with it: type, data, and the last id (null: none yet).
  push(text) {
    const events = [];
    let start = 0;
    if (this.#isFirst && text !== "") {
      this.#isFirst = false;
      if (text.charCodeAt(0) === 0xfeff) start = 1;
    }
    let back = text.indexOf("\r");
    while (start < text.length) {
      if (this.#wasReturn) {
        this.#wasReturn = false;
        if (text[start] === "\n") {
          start += 1;
          continue;
        }
      }
      if (back >= 0 && back < start) back = text.indexOf("\r", start);
      const feed = text.indexOf("\n", start);
      const end = back < 0 || (feed >= 0 && feed < back) ? feed : back;
      if (end < 0) {
        this.#rest.push(text.slice(start));
        break;
      }
      this.#rest.push(text.slice(start, end));
      const line = this.#rest.join("");
      this.#rest = [];
      this.#wasReturn = end === back;
      this.#take(line, events);
      start = end + 1;
    }
    return events;
  }

  #take(line, events) {
    if (line === "") {
      if (this.#data.length) events.push({ type: this.#type || "message", data: this.#data.join("\n"), id: this.#id });
      this.#type = "";
      this.#data = [];
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return;  // a comment
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    if (field === "event") this.#type = value;
    else if (field === "data") this.#data.push(value);
    else if (field === "id" && !value.includes("\0")) this.#id = value;
  }
}
