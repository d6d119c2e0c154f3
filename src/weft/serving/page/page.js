"use strict";
// The page without leaving it: the form is sent in the background, and what the server draws takes the place of what
// was there. Texts that are written come piece by piece; load is asked for while somebody looks. Nothing is kept: the
// key is read from its field for every request.

const POLL_MS = 2000;
const KEPT = 60;
const byId = (id) => document.getElementById(id);
const form = byId("ask");
let underWay = null;

document.documentElement.classList.add("scripted");

form.addEventListener("submit", (event) => {
  event.preventDefault();
  send(event.submitter);
});
form.addEventListener("change", (event) => {
  const own = event.target;
  if (["expert", "beside", "key"].includes(own.id)) choose();
});
form.addEventListener("click", (event) => {
  if (event.target.id === "stop") underWay?.abort();
});

function choose() {
  const wanted = new URLSearchParams(new FormData(form));
  wanted.set("do", "choose");
  return post(wanted, true);
}

function send(button) {
  const wanted = new URLSearchParams(new FormData(form, button));
  return post(wanted, wanted.get("do") === "choose");
}

async function post(wanted, isChoice) {
  underWay?.abort();
  const own = (underWay = new AbortController());
  wanted.delete("key");
  wanted.set("streams", "1");
  busy(true);
  try {
    const response = await fetch("/", { method: "POST", body: wanted, headers: key(), signal: own.signal });
    if (!isHtml(response)) throw await refusalOf(response);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    if (own.signal.aborted) return;
    if (isChoice && response.ok) swap(page, "fields");
    if (!isChoice || !response.ok || document.querySelector("#answers .refused")) swap(page, "answers");
    if (!byId("load") && page.getElementById("load")) form.parentElement.append(page.getElementById("load"));
    say(isChoice ? byId("facts-1")?.textContent : byId("answers").dataset.said);
    await Promise.all([...document.querySelectorAll("[data-request]")].map((one) => write(one, own.signal)));
  } catch (error) {
    if (error.name === "AbortError") say("Stopped.");
    else refuse(byId("answers"), error);
  } finally {
    if (underWay === own) busy(false);
  }
}

async function write(article, signal) {
  const body = article.dataset.request;
  article.removeAttribute("data-request");
  const text = article.querySelector("[data-written]");
  const said = article.querySelector("[data-said]");
  const about = article.querySelector("[data-about]");
  const headers = { ...key(), "Content-Type": "application/json" };
  const began = performance.now();
  said.textContent = "writing";
  try {
    const response = await fetch("/v1/completions", { method: "POST", body, headers, signal });
    if (!response.ok) throw await refusalOf(response);
    for await (const event of events(response)) {
      if (event.error) throw event.error;
      if (event.choices[0]) text.append(event.choices[0].text);
      if (event.usage) {
        const ms = Math.round(performance.now() - began);
        about.textContent = `${ms} ms, ${event.usage.total_tokens} tokens`;
        said.textContent = `${event.usage.completion_tokens} tokens written`;
      }
    }
    say(`${said.textContent}: ${text.textContent}`);
  } catch (error) {
    said.textContent = error.name === "AbortError" ? "stopped" : "broken off";
    if (error.name === "AbortError") throw error;
    refuse(article, error);
  }
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

// One part of the page for another; what was typed meanwhile, and where, stays.
function swap(page, id) {
  const old = byId(id);
  const fresh = document.adoptNode(page.getElementById(id));
  const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
  for (const one of old.querySelectorAll("input[id], textarea[id], select[id]")) {
    const same = fresh.querySelector(`#${CSS.escape(one.id)}`);
    if (same) same.value = one.value;
  }
  old.replaceWith(fresh);
  if (focused) (byId(focused) ?? byId(id)).focus();
}

function busy(is) {
  byId("answers").setAttribute("aria-busy", String(is));
  const stop = byId("stop");
  if (stop) stop.hidden = !is;
}

function say(words) {
  byId("status").textContent = words ?? "";
}

function key() {
  const own = byId("key")?.value;
  return own ? { Authorization: `Bearer ${own}` } : {};
}

function isHtml(response) {
  return (response.headers.get("content-type") ?? "").startsWith("text/html");
}

async function refusalOf(response) {
  return isHtml(response) ? { message: `status ${response.status}`, code: "" } : (await response.json()).error;
}

function refuse(place, error) {
  const lost = error instanceof TypeError;
  const box = document.createElement("div");
  box.className = "refused";
  box.setAttribute("role", "alert");
  const words = document.createElement("p");
  words.textContent = lost ? "The server cannot be reached; ask again when it runs." : `No answer. ${error.message}`;
  const code = document.createElement("p");
  code.className = "soft";
  code.textContent = lost ? "" : error.code;
  box.append(words, code);
  place.querySelector(".refused")?.remove();
  place.append(box);
}

const seen = [];
let isPolling = false;

async function poll() {
  if (isPolling) return;
  isPolling = true;
  while (!document.hidden) {
    await look();
    await new Promise((done) => setTimeout(done, POLL_MS));
  }
  isPolling = false;
}

async function look() {
  const place = byId("numbers");
  if (!place) return;
  const response = await fetch("/page/load", { headers: key() }).catch(() => null);
  if (!response?.ok) return;
  const found = new DOMParser().parseFromString(await response.text(), "text/html");
  place.replaceChildren(...found.body.childNodes);
  seen.push(Number(place.querySelector("[data-busy]").dataset.busy));
  if (seen.length > KEPT) seen.shift();
  byId("busy").hidden = false;
  const points = seen.map((value, at) => `${KEPT - seen.length + at},${30 - 28 * value}`);
  byId("busy").querySelector("polyline").setAttribute("points", points.join(" "));
}

document.addEventListener("visibilitychange", poll);
poll();
