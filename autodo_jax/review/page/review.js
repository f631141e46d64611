"use strict";
const token = new URLSearchParams(location.search).get("token");
const address = (path) => `${path}?token=${encodeURIComponent(token)}`;
const byId = (id) => document.getElementById(id);
let points = [], classes = [], cards = [], current = 0;

function element(name, text, parent, className) {
  const made = document.createElement(name);
  made.textContent = text;  // Names stay text, whatever is in them.
  if (className) made.className = className;
  parent.append(made);
  return made;
}

function say(text) { byId("problem").textContent = text; }

async function send(path, body) {
  try {
    const answer = await fetch(address(path), {method: "POST", body: JSON.stringify(body)});
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.error || "refused");
    say("");
    return found;
  } catch (error) {
    say(`not saved: ${error.message}`);
    return null;
  }
}

// One request after the other, in the order of the keys.
let queue = Promise.resolve();
const inTurn = (work) => { queue = queue.then(work); return queue; };

function decide(number, decision, label = null) {
  inTurn(async () => {
    const point = points[number];
    if (!await send("/decide", {id: point.id, decision, label})) return;
    point.decision = {kind: decision, label};
    show(number);
  });
  move(Math.min(number + 1, points.length - 1));
}

function undo() {
  inTurn(async () => {
    const found = await send("/undo", {});
    if (!found || found.undone === null) return;
    await load();
    const number = points.findIndex((point) => point.id === found.undone);
    if (number >= 0) move(number);
  });
}

function show(number) {
  const {decision} = points[number], card = cards[number];
  const words = {keep: "kept", drop: "dropped", relabel: `now ${decision && decision.label}`};
  card.querySelector(".decision").textContent = decision ? words[decision.kind] : "not decided";
  card.classList.toggle("decided", Boolean(decision));
  const done = points.filter((point) => point.decision).length;
  byId("count").textContent = `${done} of ${points.length} decided`;
}

function move(number) {
  if (!cards.length) return;
  cards[current].classList.remove("current");
  current = number;
  cards[current].classList.add("current");
  cards[current].scrollIntoView({block: "nearest"});
}

function build(point, number) {
  const card = element("article", "", byId("grid"));
  const image = element("img", "", card);
  image.alt = point.id;
  image.loading = "lazy";
  image.src = address(`/image/${number}`);
  element("p", `given ${point.given}, suggested ${point.suggested}`, card);
  element("p", `noise score ${point.score.toFixed(3)}`, card);
  if (point.reason) element("p", point.reason, card, "reason");
  element("p", point.id, card, "id");
  element("p", "", card, "decision");
  const buttons = element("div", "", card, "buttons");
  const button = (text, action) => {
    const made = element("button", text, buttons);
    made.type = "button";
    made.addEventListener("click", action);
  };
  button("keep", () => decide(number, "keep"));
  button("suggestion", () => decide(number, "relabel", point.suggested));
  button("drop", () => decide(number, "drop"));
  const select = element("select", "", buttons);
  select.setAttribute("aria-label", `class of ${point.id}`);
  element("option", "class ...", select).value = "";
  classes.forEach((name, i) => { element("option", name, select).value = String(i); });
  select.addEventListener("change", () => {
    if (select.value !== "") decide(number, "relabel", classes[Number(select.value)]);
    select.blur();
  });
  return card;
}

async function load() {
  const state = await (await fetch(address("/state"))).json();
  points = state.points;
  if (!cards.length) {
    classes = state.classes;
    cards = points.map(build);
    byId("count").textContent = points.length ? "" : "no suspects";
    const open = points.findIndex((point) => !point.decision);
    if (points.length) move(open < 0 ? 0 : open);
  }
  points.forEach((_, number) => show(number));
}

const keys = {
  k: () => decide(current, "keep"),
  s: () => decide(current, "relabel", points[current].suggested),
  d: () => decide(current, "drop"),
  c: () => cards[current].querySelector("select").focus(),
  u: undo,
  ArrowRight: () => move(Math.min(current + 1, points.length - 1)),
  ArrowLeft: () => move(Math.max(current - 1, 0)),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target instanceof HTMLSelectElement) return;
  const action = keys[event.key];
  if (!action || !points.length && event.key !== "u") return;
  event.preventDefault();
  action();
});
byId("undo").addEventListener("click", undo);
load().catch((error) => say(`the server does not answer: ${error.message}`));
