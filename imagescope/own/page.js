// The page of an index. What is looked for is in the address: a link, and the way back, hold it.
"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const FILTERS = ["folder", "format", "since", "until"];
  const touch = matchMedia("(pointer: coarse)").matches;
  const KEPT = 30; // searches in the history
  const store = `imagescope ${document.body.dataset.index}`;
  const results = at("results"), text = at("text"), status = at("status");
  const empty = { q: "", like: "", after: "", trail: [], folder: "", format: "", since: "", until: "" };
  let state = empty; // of the last search
  let draft = { like: "", after: "" }; // what the next one starts from
  let carried = "", offset = 0, running = null;

  // -- state and address

  const address = (given) => {
    const known = ["q", "like", "after", ...FILTERS].filter((name) => given[name]);
    const query = new URLSearchParams(known.map((name) => [name, given[name]])).toString();
    return query ? `?${query}` : location.pathname;
  };
  const fromAddress = () => {
    const query = new URLSearchParams(location.search);
    const found = Object.keys(empty).filter((name) => query.has(name));
    const given = Object.fromEntries(found.map((name) => [name, query.get(name)]));
    return { ...empty, ...given, trail: history.state?.trail ?? [] };
  };
  const filters = () => Object.fromEntries(FILTERS.map((name) => [name, at(name).value]));
  const where = (given) => Object.fromEntries(FILTERS.filter((n) => given[n]).map((n) => [n, given[n]]));

  function go(change) { // to another search, which the way back leads from
    const next = { ...state, ...change };
    history.pushState({ trail: next.trail }, "", address(next));
    show(next);
  }

  async function show(next) { // what a state says
    running?.abort();
    const own = running = new AbortController();
    state = next;
    carried = "";
    text.value = state.q;
    draft = { like: state.like, after: state.after };
    for (const name of FILTERS) at(name).value = state[name];
    drawChips();
    drawTrail();
    at("filtered").textContent = FILTERS.filter((name) => state[name]).length || "";
    at("refine").hidden = true;
    at("again").hidden = !(state.q || state.like || state.after);
    if (at("examples")) at("examples").hidden = Boolean(state.q || state.like);
    at("notice").hidden = at("meaning").hidden = at("more").hidden = true;
    document.title = [state.q, document.body.dataset.index, "ImageScope"].filter(Boolean).join(" · ");
    results.setAttribute("aria-busy", "true");
    try {
      await (state.q ? search(own.signal) : browse(own.signal, 0));
    } catch (error) {
      if (own.signal.aborted) return; // something else is looked for meanwhile
      status.textContent = "Nothing was searched";
      if (state.q) results.replaceChildren();
      notice(error.message);
    }
    if (running === own) results.removeAttribute("aria-busy");
  }

  // -- the server

  async function call(path, options) {
    let answer;
    try {
      answer = await fetch(path, options);
    } catch (error) {
      throw error.name === "AbortError" ? error : new Error("The server does not answer: is it still running?");
    }
    if (answer.ok) return answer;
    const said = await answer.text();
    let why = said;
    try {
      const { detail } = JSON.parse(said);
      why = typeof detail === "string" ? detail : detail.map((part) => part.msg).join("; ");
    } catch { /* plain words */ }
    throw new Error(why || `error ${answer.status}`);
  }
  const post = (path, body, signal) => call(path, {
    method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" }, signal,
  });

  async function browse(signal, from) {
    const query = new URLSearchParams({ ...where(state), offset: from });
    const page = await (await call(`/page/pictures?${query}`, { signal })).json();
    if (from) results.insertAdjacentHTML("beforeend", page.html); // escaped by the server
    else results.innerHTML = page.html;
    results.classList.add("all");
    offset = page.next;
    at("more").hidden = offset >= page.count;
    status.textContent = `${page.count} ${page.count === 1 ? "picture" : "pictures"}, newest first`;
    if (!page.count) notice("No picture matches the filters.");
  }

  async function search(signal) {
    status.textContent = "Looking …";
    remember();
    const question = { text: state.q, reference: state.like, previous: state.after, where: where(state) };
    const answer = await post("/page/search", question, signal);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) draw(JSON.parse(line));
    }
  }

  function draw(answer) {
    if (answer.error) throw new Error(answer.error);
    const focused = document.activeElement?.closest("#results .result")?.dataset.name;
    results.innerHTML = answer.html; // escaped by the server
    results.classList.remove("all");
    if (focused) results.querySelector(`[data-name="${CSS.escape(focused)}"] button`)?.focus();
    status.textContent = answer.status;
    carried = answer.carried;
    at("meaning").lastElementChild.innerHTML = answer.meaning;
    at("meaning").hidden = !at("meaning").querySelector("li");
    if (answer.done && answer.verdict) notice(answer.verdict);
    at("refine").hidden = !answer.done;
  }

  const notice = (words) => { at("notice").textContent = words; at("notice").hidden = !words; };

  // -- what is drawn here

  function element(tag, attributes, ...children) {
    const made = Object.assign(document.createElement(tag), attributes);
    made.append(...children);
    return made;
  }

  function drawChips() {
    const chips = [];
    const chip = (label, drop, ...content) => {
      const remove = element("button", { type: "button", textContent: "✕", ariaLabel: `Remove: ${label}`, onclick: drop });
      chips.push(element("span", { className: "chip", title: label }, ...content, remove));
    };
    if (draft.like) {
      const picture = element("img", { src: `/api/thumbnail?name=${encodeURIComponent(draft.like)}`, alt: "" });
      const name = draft.like.startsWith("upload-") ? "your picture" : draft.like;
      chip(`like ${name}`, () => start({ like: "" }), picture, element("span", {}, name));
    }
    if (draft.after) chip(`refines: ${draft.after}`, () => start({ after: "" }), element("span", {}, draft.after));
    at("chips").replaceChildren(...chips);
    text.placeholder = draft.like || draft.after ? "… but what is to be different?" : "Describe a picture";
  }

  function start(change) { // what the next search starts from; it is still to be said
    draft = { ...draft, ...change };
    drawChips();
    text.focus();
  }

  function drawTrail() {
    at("trail").hidden = !state.trail.length;
    const links = state.trail.map(({ q, href }, place) => element("a", {
      href, textContent: q, onclick: (event) => {
        event.preventDefault();
        history.pushState({ trail: state.trail.slice(0, place) }, "", href);
        show(fromAddress());
      },
    }));
    const steps = [...links, element("b", {}, state.q)].map((step) => element("li", {}, step));
    at("trail").replaceChildren(element("ol", {}, ...steps));
  }

  // -- history: in this browser alone

  const past = () => { try { return JSON.parse(localStorage.getItem(store)) ?? []; } catch { return []; } };
  function remember() {
    const entry = { q: state.q, like: state.like, href: address(state) };
    const others = past().filter((old) => old.href !== entry.href);
    try { localStorage.setItem(store, JSON.stringify([entry, ...others].slice(0, KEPT))); } catch { /* full, or forbidden */ }
    drawHistory();
  }
  function drawHistory() {
    const rows = past().map(({ q, like, href }) => {
      const words = like ? `${q} (from a picture)` : q;
      return element("li", {}, element("a", { href: href.startsWith("?") ? href : "?", textContent: words }));
    });
    at("history").replaceChildren(...rows);
    at("past").hidden = !rows.length;
  }

  // -- what a visitor does

  at("search").addEventListener("submit", (event) => {
    event.preventDefault();
    const q = text.value.trim();
    if (!q && (draft.like || draft.after)) return text.focus(); // what is to be different?
    const goesOn = draft.after && draft.after === (carried || state.after);
    const said = goesOn && state.q && carried ? [...state.trail, { q: state.q, href: address(state) }] : [];
    go({ ...filters(), q, ...draft, trail: draft.after ? said.length ? said : state.trail : [] });
    if (touch) text.blur(); // the keyboard hides the results
  });
  at("refine").addEventListener("click", () => { text.value = ""; start({ like: "", after: carried }); });
  at("again").addEventListener("click", () => { go({ ...empty, ...filters() }); text.focus(); });
  at("more").addEventListener("click", () => browse(running?.signal, offset).catch((error) => notice(error.message)));
  at("examples")?.addEventListener("click", ({ target }) => {
    if (target.type === "button") go({ q: target.textContent, like: "", after: "", trail: [] });
  });
  for (const name of FILTERS) at(name).addEventListener("change", () => go(filters()));
  at("unfilter").addEventListener("click", () => go({ folder: "", format: "", since: "", until: "" }));
  at("forget").addEventListener("click", () => { localStorage.removeItem(store); drawHistory(); at("past").open = false; });
  for (const panel of document.querySelectorAll(".under details")) {
    panel.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { panel.open = false; panel.firstElementChild.focus(); }
    });
    document.addEventListener("click", ({ target }) => { if (!panel.contains(target)) panel.open = false; });
  }

  const like = (name) => { text.value = ""; start({ like: name, after: "" }); scrollTo({ top: 0 }); };
  results.addEventListener("click", ({ target }) => {
    if (target.matches(".like")) like(target.closest(".result").dataset.name);
  });
  document.addEventListener("like", (event) => like(event.detail));
  document.addEventListener("reveal", (event) => {
    post("/api/open", { name: event.detail }).catch((error) => {
      at("viewer").close();
      notice(error.message);
    });
  });

  async function take(file) {
    if (!file) return;
    status.textContent = `Taking ${file.name} …`;
    try {
      const answer = await (await call("/api/references", { method: "POST", body: file })).json();
      status.textContent = "What is to be different from your picture?";
      start({ like: answer.reference, after: "" });
      text.value = "";
    } catch (error) {
      status.textContent = "";
      notice(`The reference picture was not taken: ${error.message}`);
    }
  }
  at("upload").addEventListener("change", ({ target }) => { take(target.files[0]); target.value = ""; });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => { event.preventDefault(); take(event.dataTransfer.files[0]); });
  addEventListener("paste", (event) => { if (event.clipboardData.files.length) take(event.clipboardData.files[0]); });
  addEventListener("popstate", () => show(fromAddress()));

  drawHistory();
  show(fromAddress());
  if (!touch && !state.q) text.focus();
})();
