/* A picture enlarged, and those beside it: from its own file where that is at hand, as on the machine
   of the run; else its thumbnail. */
"use strict";

let viewer = null, viewed = [], place = 0;

let originals = null;
function loadOriginals() {
  originals ??= new Promise((done) => {
    document.head.append(el("script", { src: "report/originals.js", onload: done, onerror: done }));
  });
  return originals;
}

function makeViewer() {
  const button = (label, text, by) => el("button", { type: "button", autofocus: !by, "aria-label": label, onclick: () => by ? show(place + by) : viewer.close() }, text);
  const image = el("img", { alt: "" }), caption = el("figcaption", { "aria-live": "polite" });
  const nav = el("nav", { "aria-label": "Pictures" }, button("Previous picture", "←", -1), button("Close", "Close", 0), button("Next picture", "→", 1));
  viewer = el("dialog", { class: "viewer", "aria-label": "Picture, enlarged" }, el("figure", {}, image, caption, nav));
  viewer.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) { event.preventDefault(); show(place + by); }
  });
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("close", () => viewed[place]?.querySelector("button").focus());
  document.body.append(viewer);
}

async function show(number) {
  if (!viewed[number]) return;
  place = number;
  await loadOriginals();
  const tile = viewed[place], image = Number(tile.dataset.image), name = data.images[image];
  const [picture, caption] = viewer.querySelectorAll("img, figcaption"), buttons = viewer.querySelectorAll("button");
  picture.onerror = () => { picture.onerror = null; picture.src = thumbnail(image); };
  picture.src = data.originals?.[image] ?? thumbnail(image);
  picture.alt = name;
  caption.textContent = [name, tile.querySelector("figcaption")?.textContent].filter(Boolean).join(" · ");
  buttons[0].disabled = place === 0;
  buttons[2].disabled = place === viewed.length - 1;
}

/* Opens the viewer on the picture that was chosen, among those of its strip, table or card. */
function enlarge(event) {
  const tile = event.currentTarget.closest(".tile");
  const group = tile.closest(".strip, .answers, .judgements, .ask") ?? tile.parentElement;
  viewed = [...group.querySelectorAll(".tile:has(button)")];
  if (!viewer) makeViewer();
  viewer.showModal();
  show(viewed.indexOf(tile));
}
