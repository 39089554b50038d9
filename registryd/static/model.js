// What is registered, as far as it has been heard: a copy that events keep up to date, and how to choose from it.

export const STATUSES = ["up", "starting", "down", "draining", "maintenance"];

export class Model {
  services = new Map();  // name -> { name, instances: Map, counts, sorted }; the latter two null until asked for
  instances = new Map();  // id -> { id, service, data, rev, text, order }; text and order null until asked for
  #rev = 0;

  // All that there is, in place of what was.
  replace(instances) {
    this.services.clear();
    this.instances.clear();
    for (const data of instances) this.#put(data);
  }

  // One change. Gives back what it has done to the instance: its status before and after (null: not there).
  apply(kind, data) {
    const known = this.instances.get(data.instance_id);
    const before = known ? known.data.status : null;
    if (kind === "registered" || kind === "updated") {
      this.#put(data);
      return { before, after: data.status };
    }
    if (known && known.service === data.service_name) this.#remove(known);
    return { before, after: null };
  }

  #put(data) {
    const { instance_id: id, service_name: service } = data;
    let entry = this.instances.get(id);
    if (entry && entry.service !== service) {
      this.#remove(entry);
      entry = undefined;
    }
    let group = this.services.get(service);
    if (!group) this.services.set(service, group = { name: service, instances: new Map(), counts: null, sorted: null });
    group.counts = null;
    if (entry) {
      entry.data = data;
      entry.text = null;
      entry.rev = ++this.#rev;
    } else {
      entry = { id, service, data, rev: ++this.#rev, text: null, order: null };
      this.instances.set(id, entry);
      group.instances.set(id, entry);
      group.sorted = null;
    }
  }

  #remove(entry) {
    this.instances.delete(entry.id);
    const group = this.services.get(entry.service);
    group.instances.delete(entry.id);
    group.counts = group.sorted = null;
    if (!group.instances.size) this.services.delete(group.name);
  }
}

// How many of a service there are in all, of each status, and suspect.
export function countsOf(group) {
  if (group.counts) return group.counts;
  const counts = { all: group.instances.size, suspect: 0 };
  for (const status of STATUSES) counts[status] = 0;
  for (const { data } of group.instances.values()) {
    counts[data.status] = (counts[data.status] ?? 0) + 1;
    if (data.suspect) counts.suspect += 1;
  }
  return group.counts = counts;
}

// Its instances by their ids, numbers in them by their value.
export function sortedOf(group) {
  if (!group.sorted) {
    for (const entry of group.instances.values()) entry.order ??= sortable(entry.id);
    group.sorted = [...group.instances.values()].sort((a, b) => (a.order < b.order ? -1 : a.order > b.order ? 1 : 0));
  }
  return group.sorted;
}

const sortable = (id) => id.replace(/\d+/g, (number) => number.padStart(20, "0"));

const FIELDS = {
  service: (data) => [data.service_name],
  id: (data) => [data.instance_id],
  url: (data) => [data.base_url],
  status: (data) => (data.suspect ? [data.status, "suspect"] : [data.status]),
  zone: (data) => [data.zone],
  version: (data) => [data.version],
  tag: (data) => data.tags,
  meta: (data) => Object.entries(data.metadata).map(([key, value]) => `${key}=${value}`),
  reason: (data) => (data.override ? [data.override.reason] : []),
};

// A filter as it is typed: words that must all be found in an instance, whatever their case; FIELD:WORD in that field
// only; with - before it, not found. Gives back a function of an entry, or null where nothing is asked for.
export function filterOf(text) {
  const tests = text.toLowerCase().split(/\s+/).filter((word) => word !== "" && word !== "-").map(testOf);
  return tests.length ? (entry) => tests.every((test) => test(entry)) : null;
}

function testOf(word) {
  if (word.startsWith("-")) {
    const test = testOf(word.slice(1));
    return (entry) => !test(entry);
  }
  const [field, ...rest] = word.split(":");
  if (rest.length && Object.hasOwn(FIELDS, field)) {
    const wanted = rest.join(":");
    return ({ data }) => FIELDS[field](data).some((value) => value.toLowerCase().includes(wanted));
  }
  return (entry) => (entry.text ??= textOf(entry.data)).includes(word);
}

const textOf = (data) => Object.values(FIELDS).flatMap((of) => of(data)).join("\n").toLowerCase();

// The rows of the list: services in order, each with `shown` instances of it, and those themselves where it is open.
export function rowsOf(model, { filter, onlyTrouble, sort, descending, isOpen }) {
  const fits = (entry) => (!onlyTrouble || entry.data.status !== "up" || entry.data.suspect) && (!filter || filter(entry));
  const chooses = Boolean(filter || onlyTrouble);
  const groups = [];
  let found = 0;
  for (const group of model.services.values()) {
    const shown = chooses ? sortedOf(group).filter(fits) : null;
    if (shown && !shown.length) continue;
    found += shown ? shown.length : group.instances.size;
    groups.push({ kind: "service", key: `s:${group.name}`, group, shown });
  }
  groups.sort(sort === "up" ? byShare : byName);
  if (descending) groups.reverse();
  const rows = [];
  groups.forEach((row, place) => {
    row.place = place + 1;
    row.of = groups.length;
    row.open = isOpen(row.group.name);
    rows.push(row);
    if (!row.open) return;
    const entries = row.shown ?? sortedOf(row.group);
    entries.forEach((entry, at) => {
      rows.push({ kind: "instance", key: `i:${entry.id}`, entry, place: at + 1, of: entries.length });
    });
  });
  return { rows, found, services: groups.length };
}

const byName = (a, b) => (a.group.name < b.group.name ? -1 : a.group.name > b.group.name ? 1 : 0);

// Those with the smallest share of instances that are up come first.
function byShare(a, b) {
  const [one, other] = [countsOf(a.group), countsOf(b.group)];
  return one.up / one.all - other.up / other.all || byName(a, b);
}
