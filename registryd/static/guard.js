// Loaded before all else, and as a plain script: says so on the page where the page itself fails.
"use strict";

addEventListener("error", (event) => {
  const source = event.target instanceof HTMLScriptElement ? event.target.src : "";
  tell(source ? `a part of the page did not load: ${source}` : event.message);
}, true);

addEventListener("unhandledrejection", (event) => tell(String(event.reason)));

function tell(what) {
  const show = () => {
    const failure = document.getElementById("failure");
    failure.hidden = false;
    failure.textContent = `This page has failed, and what it shows may not be so: ${what}. Load it again; the same is to be ` +
      "had as JSON from /services and /status.";
  };
  if (document.getElementById("failure")) show();
  else addEventListener("DOMContentLoaded", show);
}
