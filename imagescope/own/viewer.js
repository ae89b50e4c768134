// A result in large, with all that is known about it: of the page and of a written page alike.
"use strict";
(() => {
  const dialog = document.getElementById("viewer");
  const image = document.getElementById("viewer-image");
  const file = document.getElementById("viewer-file");
  let cards = [], place = 0;

  function show(index) {
    place = (index + cards.length) % cards.length;
    const card = cards[place], { name, large } = card.dataset;
    const small = card.querySelector("img");
    image.src = small.src; // at once, until the large one is there
    image.alt = small.alt;
    if (large) {
      const loader = new Image();
      loader.onload = () => { if (cards[place] === card) image.src = large; };
      loader.src = large;
      const next = cards[(place + 1) % cards.length].dataset.large;
      if (next && next !== large) new Image().src = next;
    }
    document.getElementById("viewer-name").textContent = name;
    document.getElementById("viewer-place").textContent = `${place + 1} of ${cards.length}`;
    document.getElementById("viewer-details")
      .replaceChildren(...card.querySelector(".details").cloneNode(true).childNodes);
    file.href = card.dataset.file;
    file.setAttribute("aria-label", `${file.textContent}: ${name}`);
  }

  const actions = {
    close: () => dialog.close(),
    previous: () => show(place - 1),
    next: () => show(place + 1),
  };

  document.addEventListener("click", (event) => {
    const card = event.target.closest(".show")?.closest(".result");
    if (card) {
      cards = [...card.parentElement.children];
      show(cards.indexOf(card));
      dialog.showModal();
    }
  });
  dialog.addEventListener("click", (event) => {
    const go = event.target.closest("[data-go]")?.dataset.go;
    if (event.target === dialog) dialog.close(); // beside the window
    else if (go in actions) actions[go]();
    else if (go) { // what only a server can do is the page's
      if (go === "like") dialog.close();
      document.dispatchEvent(new CustomEvent(go, { detail: cards[place].dataset.name }));
    }
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowLeft") show(place - 1);
    else if (event.key === "ArrowRight") show(place + 1);
    else return;
    event.preventDefault();
  });
  dialog.addEventListener("close", () => {
    if (cards[place]?.isConnected) cards[place].querySelector(".show").focus();
  });

  let start = null;
  image.parentElement.addEventListener("touchstart", (event) => {
    start = event.touches.length === 1 ? event.touches[0] : null;
  }, { passive: true });
  image.parentElement.addEventListener("touchend", (event) => {
    if (!start || window.visualViewport?.scale > 1) return;
    const end = event.changedTouches[0];
    const across = end.clientX - start.clientX, down = end.clientY - start.clientY;
    if (Math.abs(across) > 40 && Math.abs(across) > 2 * Math.abs(down)) {
      show(place + (across < 0 ? 1 : -1));
    }
  }, { passive: true });
})();
