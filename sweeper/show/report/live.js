
// The page of `sweeper watch`: asks every few seconds whether the tables have changed, and then takes over what is new, part by part.

const EVERY_MS = 3000;
let version = document.documentElement.dataset.version;

function keepState(before, after) {
  const inputs = [...before.querySelectorAll("figure.table")].map((figure) => {
    const heads = [...figure.querySelectorAll("th[scope=col]")], sorted = heads.findIndex((head) => head.hasAttribute("aria-sort"));
    return [figure.id, sorted, heads[sorted]?.getAttribute("aria-sort"), figure.querySelector("input")?.value];
  });
  const open = new Set([...before.querySelectorAll("details[open] > summary")].map((summary) => summary.textContent));
  enhance(after);
  for (const [id, sorted, direction, words] of inputs) {
    const figure = after.querySelector(`#${CSS.escape(id)}`);
    if (!figure) continue;
    if (direction) sortRows(figure.querySelector("table"), sorted, direction === "ascending" ? 1 : -1);
    const input = figure.querySelector("input");
    if (input && words) {
      input.value = words;
      filterRows(figure.querySelector("table"), words, figure.querySelector("output"));
    }
  }
  for (const summary of after.querySelectorAll("details > summary")) summary.parentElement.open = open.has(summary.textContent);
}

async function renew() {
  const answer = await fetch("/", { cache: "no-store" });
  if (!answer.ok) throw new Error(await answer.text());
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  version = page.documentElement.dataset.version;
  const anchor = [...document.querySelectorAll("[id]")].find((part) => part.getBoundingClientRect().bottom > 0);
  const top = anchor?.getBoundingClientRect().top;
  const focused = document.activeElement?.closest("input") ? document.activeElement.getAttribute("aria-label") : null;
  for (const name of ["header", "main"]) {
    const before = document.querySelector(name), after = document.importNode(page.querySelector(name), true);
    keepState(before, after);
    before.replaceWith(after);
  }
  if (focused !== null) document.querySelector(`input[aria-label="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  const there = anchor && document.getElementById(anchor.id);
  if (there) scrollBy({ top: there.getBoundingClientRect().top - top, behavior: "instant" });
}

async function look() {
  try {
    const answer = await fetch("/version", { cache: "no-store" });
    if (!answer.ok) throw new Error(await answer.text());
    const now = await answer.json();
    if (now.version !== version) await renew();
    else document.querySelector("#live").textContent = now.live;
  } catch (error) {
    document.querySelector("#live").textContent = `Not up to date: ${error.message}`;
  }
  setTimeout(look, EVERY_MS);
}

setTimeout(look, EVERY_MS);
