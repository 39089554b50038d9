// Requests to the registry that the page came from, with the token that was typed in, if one was.

const KEPT = "registryd-token";
const LONGEST = 10_000;  // milliseconds that an answer may take to begin

let token = sessionStorage.getItem(KEPT) ?? "";

// What the registry has answered instead: its own sentence, and how many seconds to wait, where it says so.
export class Refusal extends Error {
  constructor(status, detail, code, retryAfter) {
    super(detail);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

// Nobody has answered.
export class Unreachable extends Error {}

export const hasToken = () => token !== "";

// Shows this token from now on (none, where it is empty). It stays in memory, unless it is to be kept in this tab.
export function useToken(text, keep = false) {
  token = text;
  if (keep && text) sessionStorage.setItem(KEPT, text);
  else sessionStorage.removeItem(KEPT);
}

// The answer, once its head is there. Raises Refusal, Unreachable; AbortError, where `signal` says so.
export async function ask(path, { method = "GET", body, headers = {}, signal, longest = LONGEST } = {}) {
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), longest);
  const given = { ...headers, ...(token && { Authorization: `Bearer ${token}` }) };
  let answer;
  try {
    answer = await fetch(path, {
      method, headers: given, cache: "no-store", redirect: "error", referrerPolicy: "no-referrer",
      body: body && JSON.stringify(body), signal: signal ? AbortSignal.any([signal, late.signal]) : late.signal,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Unreachable(late.signal.aborted ? `no answer within ${longest / 1000} s` : "the connection failed");
  } finally {
    clearTimeout(timer);
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

// The same, as JSON.
export async function askJson(path, more) {
  const answer = await ask(path, more);
  try {
    return await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable("the answer broke off, or is not the registry's");
  }
}

async function refusal(answer) {
  let problem = {};
  try {
    problem = await answer.json();
  } catch {
    // Somebody else's answer, a proxy's perhaps.
  }
  const detail = typeof problem.detail === "string" ? problem.detail : `HTTP status ${answer.status} ${answer.statusText}`;
  return new Refusal(answer.status, detail, problem.code ?? "", Number(answer.headers.get("Retry-After")) || 0);
}
