/* The list of queries: filters, sorting, pages, and a card per query, filled when it is opened.
   Every text from models and annotation files goes through textContent. */
"use strict";

const data = globalThis.imagescope;
const PER_PAGE = 20;
const FELL_BACK = 1, REPAIRED = 2, VERBATIM = 4;
const missing = new Set(data.missing);
const comparing = data.mode === "compare";

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

// ---------------------------------------------------------------- queries and dialogues as items

const queries = data.queries.map(([id, turn, text, reference, targets, ranks, flags], index) =>
  ({ id, turn, text, reference, targets, ranks, flags, index }));

function makeItems() {
  const groups = new Map();
  for (const query of queries) {
    if (!groups.has(query.id)) groups.set(query.id, []);
    groups.get(query.id).push(query);
  }
  const dialogues = queries.some((query) => query.turn > 0);
  const lists = dialogues ? [...groups.values()] : queries.map((query) => [query]);
  return lists.map((list) => {
    list.sort((a, b) => a.turn - b.turn);
    const names = new Set(list.flatMap((q) => [q.reference, ...q.targets]).filter((i) => i >= 0));
    const words = [list[0].id, ...list.map((q) => q.text), ...[...names].map((i) => data.images[i])];
    return { first: list[0], last: list[list.length - 1], list, words: words.join("\n").toLowerCase() };
  });
}
const items = makeItems();
const dialogues = items.some((item) => item.list.length > 1);

// A step is a pair of columns of ranks; for "all" of a dialogue, from its first round to its last.
const columns = data.columns ?? (queries[0]?.ranks ?? []).map((_, i) => `Stage ${i + 1}`);
const steps = [["all", dialogues && !comparing ? "all rounds and stages" : comparing ? "A to B" : "all stages", 0, columns.length - 1]];
if (!comparing) for (let i = 1; i < columns.length; i++) steps.push([String(i + 1), columns[i].toLowerCase() + (dialogues ? ", last round" : ""), i - 1, i]);

function ends(item) {
  const [name, , from, to] = steps.find(([key]) => key === state.step) ?? steps[0];
  const start = name === "all" && !comparing ? item.first : item.last;
  return [start.ranks[from] ?? null, item.last.ranks[to] ?? null];
}
const gain = (item) => { const [before, after] = ends(item); return before === null || after === null ? null : before - after; };
const outcome = (item) => { const ranks = item.last.ranks; return ranks[ranks.length - 1] ?? null; };

// --------------------------------------------------------------------------- filters and sorting

const within = (rank) => rank !== null && rank !== undefined && rank < Number(state.top);
const finds = (item, column) => within(item.last.ranks[column]);
const FILTERS = comparing ? [
  ["all", "All", () => true],
  ["a", "Only A finds", (item) => finds(item, 0) && !finds(item, 1)],
  ["b", "Only B finds", (item) => !finds(item, 0) && finds(item, 1)],
  ["both", "Both find", (item) => finds(item, 0) && finds(item, 1)],
  ["neither", "Neither finds", (item) => !finds(item, 0) && !finds(item, 1)],
] : [
  ["all", "All", () => true],
  ["helped", "Helped", (item) => gain(item) > 0],
  ["hurt", "Hurt", (item) => gain(item) < 0],
  ["unchanged", "Unchanged", (item) => gain(item) === 0],
  ...(data.reach ? [["lost", "Lost at stage 1", (item) => known && (item.last.ranks[0] ?? Infinity) >= data.reach]] : []),
  ["fallback", "Parse fallback", (item) => item.list.some((query) => query.flags & FELL_BACK)],
];
const known = queries.some((query) => query.targets.length);
const least = (value) => value ?? Infinity;
const SORTS = [
  ["order", "benchmark's order", () => 0],
  ["gain", "most helped first", (a, b) => (gain(b) ?? -Infinity) - (gain(a) ?? -Infinity)],
  ["loss", "most hurt first", (a, b) => (gain(a) ?? Infinity) - (gain(b) ?? Infinity)],
  ["best", "best final rank", (a, b) => least(outcome(a)) - least(outcome(b))],
  ["worst", "worst final rank", (a, b) => least(outcome(b)) - least(outcome(a))],
];
if (comparing) { SORTS[1][1] = "B better first"; SORTS[2][1] = "A better first"; SORTS[3][1] = "best rank in B"; SORTS[4][1] = "worst rank in B"; }
const differs = comparing && items.some((item) => (item.last.ranks[0] < data.top) !== (item.last.ranks[1] < data.top));
const DEFAULTS = { show: differs ? "a" : "all", sort: "order", step: "all", top: String(data.top ?? 10), q: "", page: "1" };
const state = { ...DEFAULTS };

function readHash() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const key of Object.keys(DEFAULTS)) state[key] = given.get(key) ?? DEFAULTS[key];
  if (!FILTERS.some(([key]) => key === state.show)) state.show = DEFAULTS.show;
  if (!SORTS.some(([key]) => key === state.sort)) state.sort = DEFAULTS.sort;
  if (!steps.some(([key]) => key === state.step)) state.step = DEFAULTS.step;
}
function writeHash() {
  const kept = Object.entries(state).filter(([key, value]) => value !== DEFAULTS[key]);
  const hash = new URLSearchParams(kept).toString();
  if (hash || /=/.test(location.hash)) history.replaceState(null, "", "#" + (hash || "queries"));
}

// --------------------------------------------------------------------------------------- images

const thumbnail = (image) => `report/${Math.floor(image / 1000)}/${image}.jpg`;

function tile(image, { kind = "", label = null, target = false, eager = false } = {}) {
  const name = data.images[image] ?? "";
  const small = kind.startsWith("small"); // of a row, which is itself a button
  const picture = image < 0 || missing.has(image)
    ? el("div", { class: "picture none", role: "img", "aria-label": image < 0 ? "no reference image" : `${name}: no image` }, image < 0 ? "no reference" : "no image")
    : el(small ? "div" : "button", { class: "picture", type: small ? null : "button", "aria-label": small ? null : `Enlarge ${name}`, onclick: small ? () => {} : enlarge },
        el("img", { src: thumbnail(image), alt: small ? name : "", width: 112, height: 112, loading: eager ? "eager" : "lazy", decoding: "async" }));
  const node = el("figure", { class: `tile ${kind} ${target ? "target" : ""}`, title: name, "data-image": image }, picture);
  if (label !== null) node.append(el("figcaption", {}, label));
  return node;
}

/* A strip or a table fades out at the side where there is more of it. */
function cue(node) {
  node.classList.toggle("more-left", node.scrollLeft > 2);
  node.classList.toggle("more-right", node.scrollLeft + node.clientWidth < node.scrollWidth - 2);
}
const cues = new ResizeObserver((entries) => entries.forEach((entry) => cue(entry.target)));
function watchStrips(place) {
  for (const node of place.querySelectorAll(".strip, .scroll")) {
    node.addEventListener("scroll", () => cue(node), { passive: true });
    cues.observe(node);
  }
}

/* The same picture elsewhere in the card is outlined while the pointer is on it. */
function linkTiles(card) {
  const mark = (event, on) => {
    const over = event.target.closest?.(".tile");
    for (const node of card.querySelectorAll(".tile.same")) node.classList.remove("same");
    if (on && over && over.dataset.image >= 0)
      for (const node of card.querySelectorAll(`.tile[data-image="${over.dataset.image}"]`)) node.classList.add("same");
  };
  card.addEventListener("pointerover", (event) => mark(event, true));
  card.addEventListener("pointerleave", (event) => mark(event, false));
}

function strip(images, query, rank, label) {
  const targets = new Set(query.targets);
  const tiles = images.map((image, i) => tile(image, { target: targets.has(image), label: targets.has(image) ? `${i + 1} ★ target` : String(i + 1) }));
  if (rank !== null && rank !== undefined && rank >= images.length)
    tiles.push(el("span", { class: "gap", "aria-hidden": "true" }, "…"), tile(query.targets[0], { target: true, label: `${(rank + 1).toLocaleString("en")} ★ target` }));
  return el("div", { class: "strip", tabindex: 0, role: "region", "aria-label": label }, tiles);
}

// ---------------------------------------------------------------------------------------- cards

const position = (rank) => rank === null || rank === undefined ? "–" : (rank + 1).toLocaleString("en");

function step(number, heading, ...content) {
  return el("section", { class: "step" }, el("span", { class: `dot s${(number - 1) % 3 + 1}`, "aria-hidden": "true" }, String(number)),
    el("div", {}, el("h3", { class: "heading" }, ...heading), ...content));
}

function viewOf(view, query, titles, heading) {
  return el("div", { class: "view" }, heading ? el("h3", {}, heading) : null,
    view.top.map(([number, images, pool], i) => {
      const rank = view.ranks[i], findings = view.findings[i];
      const place = rank === null ? null : el("small", {}, `target at rank ${position(rank)} of ${pool.toLocaleString("en")}`);
      const parts = findings.flatMap((found) => RENDERERS[found.kind](found, query, number));
      return step(number, [titles[number - 1], place, ...findings.map((found) => how(found.parse))].filter(Boolean),
        ...parts.filter(Boolean), strip(images, query, rank, `Best images after stage ${number}${heading ? `, ${heading}` : ""}`));
    }));
}

function ask(query) {
  const target = query.targets.length ? tile(query.targets[0], { target: true, label: query.targets.length > 1 ? `★ target, 1 of ${query.targets.length}` : "★ target" }) : null;
  return el("div", { class: "ask" }, query.reference >= 0 ? tile(query.reference, { label: "reference" }) : null,
    el("div", {}, el("h3", { class: "eyebrow" }, query.reference >= 0 ? "Instruction" : query.turn ? `Round ${query.turn}` : "Text"), el("blockquote", {}, query.text)), target);
}

const loading = new Map();
function details(index) {
  const chunk = Math.floor(index / data.chunk);
  if (!loading.has(chunk)) loading.set(chunk, new Promise((done, fail) => {
    document.head.append(el("script", { src: `report/detail-${chunk}.js`, onload: done, onerror: () => fail(new Error(`report/detail-${chunk}.js is missing`)) }));
  }));
  return loading.get(chunk).then(() => data.details[chunk][index % data.chunk]);
}

async function fill(place, query) {
  place.replaceChildren(ask(query), el("p", { class: "said" }, "Loading…"));
  try {
    const found = await details(query.index);
    const views = comparing ? found.map((view, i) => view && viewOf(view, query, data.stages[i], `${"AB"[i]} · ${data.runs[i]}`)) : [viewOf(found, query, data.stages[0])];
    place.replaceChildren(ask(query), ...views.filter(Boolean));
    watchStrips(place);
  } catch (error) {
    place.replaceChildren(ask(query), el("p", { class: "notice" }, String(error.message)));
  }
}

function dialogueCard(item) {
  const place = el("div", { class: "card" });
  const buttons = item.list.map((query) => el("button", { type: "button", "aria-pressed": "false", onclick: () => select(query) },
    el("span", { class: "n" }, String(query.turn)), el("span", {}, query.text), track(query)));
  function select(query) {
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(item.list[i] === query)));
    fill(place, query);
  }
  select(item.last);
  return [el("ol", { class: "rounds", "aria-label": "Rounds" }, buttons.map((button) => el("li", {}, button))), place];
}

// ----------------------------------------------------------------------------------------- rows

function track(query) {
  if (!query.targets.length) return el("span", { class: "track" });
  const shown = query.ranks.map(position), last = shown.pop();
  return el("span", { class: "track", title: columns.map((name, i) => `${name}: rank ${position(query.ranks[i])}`).join(", ") },
    shown.length ? shown.join(" → ") + " → " : "", el("b", {}, last ?? "–"));
}

function spark(item) {
  const ranks = item.list.map((query) => query.ranks[query.ranks.length - 1] ?? null);
  const high = Math.log(Math.max(2, ...ranks.map((rank) => (rank ?? 0) + 1)));
  return el("span", { class: "spark", role: "img", "aria-label": `ranks by round: ${ranks.map(position).join(", ")}`, title: `ranks by round: ${ranks.map(position).join(", ")}` },
    ranks.map((rank) => { const bar = el("i", { class: rank !== null && rank < 10 ? "best" : "" }); bar.style.height = `${2 + 24 * (Math.log((rank ?? 0) + 1) / high)}px`; return bar; }));
}

function badge(item) {
  const change = gain(item);
  if (change === null) return el("span", { class: "badge" }, known ? "not ranked" : "");
  if (change === 0) return el("span", { class: "badge" }, "=");
  const size = Math.abs(change).toLocaleString("en");
  return el("span", { class: `badge ${change > 0 ? "helped" : "hurt"}`, title: `${change > 0 ? "up" : "down"} ${size}` }, `${change > 0 ? "▲" : "▼"} ${size}`);
}

function row(item) {
  const { first, last } = item, many = item.list.length > 1;
  const flags = item.list.reduce((all, query) => all | query.flags, 0);
  const notes = [el("span", {}, first.id), many ? el("span", {}, `${item.list.length} rounds`) : null,
    flags & FELL_BACK ? tag("fallback", "warn") : null, flags & REPAIRED ? tag("repaired") : null,
    first.reference >= 0 && missing.has(first.reference) ? tag("reference missing", "warn") : null];
  const shown = last.targets.length ? tile(last.targets[0], { kind: "small wanted", target: true }) : el("span", { class: "wanted" });
  const summary = el("summary", {}, first.reference >= 0 ? tile(first.reference, { kind: "small" }) : last.targets.length ? tile(last.targets[0], { kind: "small", target: true }) : el("span"),
    el("div", { class: "words" }, el("div", { class: "text" }, first.text), el("div", { class: "sub" }, notes.filter(Boolean))),
    first.reference >= 0 ? shown : el("span", { class: "wanted" }), many && !comparing ? spark(item) : track(last), badge(item));
  const node = el("details", { class: "query" }, summary);
  node.addEventListener("toggle", () => {
    if (!node.open || node.childElementCount > 1) return;
    if (many) node.append(el("div", {}, ...dialogueCard(item)));
    else { const place = el("div", { class: "card" }); node.append(place); fill(place, last); }
    linkTiles(node);
  });
  return node;
}

// ----------------------------------------------------------------------------------------- page

const at = (id) => document.getElementById(id);
let shownPage = null;

function render() {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  const matching = items.filter((item) => words.every((word) => item.words.includes(word)));
  at("filters").replaceChildren(...FILTERS.filter(([key]) => (known && columns.length > 1) || key === "all" || key === "fallback").map(([key, label, test]) =>
    el("button", { type: "button", "data-filter": key, "aria-pressed": String(key === state.show), onclick: () => change({ show: key }, `[data-filter=${key}]`) },
      label, el("span", {}, matching.filter(test).length.toLocaleString("en")))));
  const test = FILTERS.find(([key]) => key === state.show)[2];
  const found = matching.filter(test).sort(SORTS.find(([key]) => key === state.sort)[2]);
  const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
  const page = Math.min(pages, Math.max(1, parseInt(state.page, 10) || 1));
  const start = (page - 1) * PER_PAGE;
  const noun = dialogues ? "dialogues" : "queries";
  at("count").textContent = found.length ? `${start + 1}–${Math.min(start + PER_PAGE, found.length)} of ${found.length.toLocaleString("en")} ${noun}` : `0 ${noun}`;
  at("toggle-all").hidden = !found.length;
  at("toggle-all").textContent = "Open all on this page";
  at("list").replaceChildren(...(found.length ? found.slice(start, start + PER_PAGE).map(row) : [el("p", { class: "empty" }, `No ${noun} here. Another filter, or fewer words?`)]));
  at("pager").replaceChildren(...(pages > 1 ? pager(page, pages) : []));
  shownPage = page;
}

function pager(page, pages) {
  const near = [...new Set([1, page - 1, page, page + 1, pages])].filter((n) => n >= 1 && n <= pages).sort((a, b) => a - b);
  const button = (to, label, text) => el("button", { type: "button", disabled: to < 1 || to > pages, "aria-label": label, "aria-current": to === page && text === String(to) ? "page" : null, onclick: () => { change({ page: String(to) }); at("queries").scrollIntoView(); at("list").querySelector("summary")?.focus({ preventScroll: true }); } }, text);
  const numbers = near.flatMap((n, i) => [i && n - near[i - 1] > 1 ? el("span", { "aria-hidden": "true" }, "…") : null, button(n, `Page ${n}`, String(n))]);
  return [button(page - 1, "Previous page", "←"), ...numbers.filter(Boolean), button(page + 1, "Next page", "→")];
}

function change(values, focus = null) {
  Object.assign(state, { page: "1" }, values);
  writeHash();
  render();
  if (focus) document.querySelector(focus)?.focus();
}

function options(select, choices, chosen, onchange) {
  select.replaceChildren(...choices.map(([key, label]) => el("option", { value: key, selected: key === chosen }, label)));
  select.addEventListener("change", () => onchange(select.value));
}

function start() {
  readHash();
  at("search").value = state.q;
  at("search").addEventListener("input", () => change({ q: at("search").value }));
  at("tools").addEventListener("submit", (event) => event.preventDefault());
  if (comparing) {
    at("step-label").textContent = "Found means";
    options(at("step"), ["1", "5", "10", "50"].map((k) => [k, `in the top ${k}`]), state.top, (top) => change({ top }));
  } else options(at("step"), steps, state.step, (step) => change({ step }));
  if (!known || (!comparing && columns.length < 2)) at("step").closest(".field").hidden = true;
  options(at("sort"), known ? SORTS : SORTS.slice(0, 1), state.sort, (sort) => change({ sort }));
  at("toggle-all").addEventListener("click", () => {
    const open = at("toggle-all").textContent.startsWith("Open");
    for (const node of at("list").querySelectorAll(":scope > details")) node.open = open;
    at("toggle-all").textContent = open ? "Close all" : "Open all on this page";
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) { event.preventDefault(); at("search").focus(); }
  });
  addEventListener("hashchange", () => { if (/=/.test(location.hash)) { readHash(); at("search").value = state.q; at("sort").value = state.sort; render(); at("queries").scrollIntoView(); } });
  render();
}

start();
