/* What explains a ranking: one renderer a kind of finding. page.js has the rest of the page. */
"use strict";

const tag = (text, kind = "") => el("span", { class: `tag ${kind}` }, text);
const how = (parse) => !parse || parse === "ok" ? null : tag(parse, parse.startsWith("fallback") ? "warn" : "");
const raw = (text, title) => text ? el("details", { class: "raw" }, el("summary", {}, title), el("pre", {}, text)) : null;

/* One renderer a kind of finding (findings.py): its nodes, of which null ones are left out. */
const RENDERERS = {
  synthesis(found, query) {
    if (query.flags & VERBATIM) return [el("p", { class: "said" }, "The text itself is the description; no model was asked.")];
    const edits = found.edits.map(([type, text]) => el("li", {}, tag(type), text));
    const described = found.descriptions.map((text) => el("li", {}, text));
    return [
      found.reference && query.reference >= 0 ? el("p", { class: "said" }, `Reference, as captioned: ${found.reference}`)
        : found.reference && query.turn > 0 ? el("p", { class: "said" }, `Known before this round: ${found.reference}`) : null,
      el("div", { class: "pair" },
        edits.length ? el("div", {}, el("h4", {}, "Edits"), el("ul", {}, edits)) : null,
        described.length ? el("div", {}, el("h4", {}, "Target, as described"), el("ol", {}, described)) : null),
      raw(found.text, "The reasoner's words"),
    ];
  },

  verification(found, query, number) {
    const words = raw(found.text, "The reasoner's words");
    if (!found.candidates) return [el("p", { class: "said" }, `No question to ask: the order of stage ${number - 1} stands.`), words];
    return [answersTable(found, query),
      el("p", { class: "key" }, "P(yes), percent", el("i"), el("span", {}, el("u"), " as expected"), `candidates in the order of stage ${number - 1}`), words];
  },

  evaluation(found, query, number) {
    if (!found.judgements.length) return [el("p", { class: "said" }, `Nothing was compared: the order of stage ${number - 1} stands.`)];
    const marks = { accepted: ["✓", "helped"], rejected: ["✕", "hurt"] };
    return [el("div", { class: "judgements" }, found.judgements.map(([image, verdict, text]) => {
      const [mark, colour] = marks[verdict] ?? ["?", ""];
      return el("article", { class: `judgement ${verdict === "accepted" ? "yes" : ""}` },
        el("div", { class: "tiles" }, query.reference >= 0 ? tile(query.reference) : null, tile(image, { target: query.targets.includes(image) })),
        el("span", { class: `verdict ${colour}` }, `${mark} ${verdict}`),
        el("p", {}, text.trim()));
    }))];
  },

  texts(found) {
    return [el("h4", {}, found.title), el("ul", {}, found.rows.map(([label, text]) => el("li", {}, label ? tag(label) : null, text)))];
  },

  images(found, query) {
    return [el("h4", {}, found.title), el("div", { class: "strip", tabindex: 0, role: "region", "aria-label": found.title },
      found.rows.map(([image, note]) => tile(image, { label: note, target: query.targets.includes(image) })))];
  },

  tables(found, query) {
    const rows = found.columns.map(([text, expected], column) => [text, expected,
      found.rows.map(([, cells]) => { const [said, met] = cells[column]; return el("td", { class: `p ${met === null ? "" : met ? "met" : "off"}` }, said); })]);
    return [el("h4", {}, found.title), candidatesTable(found.title, rows, found.rows.map(([image]) => image), query)];
  },
};

/* Questions, or parts of a score, by candidates. rows: [text, expected answer or null, cells]. */
function candidatesTable(label, rows, candidates, query, ...more) {
  const asked = rows.some(([, expected]) => expected !== null);
  const want = (expected) => expected === null ? "" : expected ? "yes" : "no";
  const head = el("tr", {}, el("th", { class: "q", scope: "col" }, asked ? "Question" : "Part"), el("th", { class: "want", scope: "col" }, asked ? "Expected" : ""),
    candidates.map((image, i) => { const target = query.targets.includes(image); return el("th", { scope: "col" }, tile(image, { kind: "tiny", target, label: target ? `${i + 1} ★` : String(i + 1) })); }));
  const body = rows.map(([text, expected, cells]) => el("tr", {}, el("th", { class: "q", scope: "row" }, text), el("td", { class: "want" }, want(expected)), cells));
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label },
    el("table", { class: "answers" }, el("thead", {}, head), el("tbody", {}, body, more)));
}

function answersTable({ questions, candidates, yes, answers, scores, unread }, query) {
  const words = new Map(unread.map(([row, column, text]) => [`${row} ${column}`, text]));
  const rows = questions.map(([text, expected], column) => [text, expected,
    candidates.map((_, i) => answerCell(yes[i][column], answers[i][column], expected, words.get(`${i} ${column}`)))]);
  const total = el("tr", {}, el("th", { class: "q", scope: "row" }, "As expected"), el("td", { class: "want" }, `of ${questions.length}`),
    scores.map((score) => el("td", { class: "score" }, String(score))));
  return candidatesTable("Questions by candidates", rows, candidates, query, total);
}

function answerCell(p, answer, expected, words) {
  if (answer === null) return el("td", { class: "p unread", title: words === undefined ? "no answer" : `not understood: ${words}` }, words === undefined ? "–" : "?");
  const shade = p ?? (answer ? 1 : 0), met = answer === expected;
  const cell = el("td", { class: `p ${shade > 0.78 ? "deep" : ""} ${met ? "met" : "off"}`, title: `${answer ? "yes" : "no"}, ${met ? "as expected" : "not as expected"}` },
    p === null ? (answer ? "yes" : "no") : String(Math.round(100 * p)));
  cell.style.setProperty("--p", (0.02 + 0.93 * shade).toFixed(3));
  return cell;
}
