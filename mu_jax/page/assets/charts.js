// Charts are drawn when they come into view, and again when the page turns light or dark.
const NARROW = 640; // pixels: below, panels stand under one another
const views = new Map();

// The chart as it fits the width of its place: in a narrow one, panels stand under one another.
// The heading of the section is its title, and remarks stand above it as text.
function fitted(found, width) {
  delete found.title;
  if (width >= NARROW) return found;
  if (found.hconcat) {
    found.vconcat = found.hconcat;
    delete found.hconcat;
  }
  if (found.columns || found.facet) found.columns = 1;
  found.config.legend.orient = "bottom";
  for (const panel of found.vconcat ?? found.concat ?? [found]) fitPanel(panel, width);
  return found;
}

// A panel no wider than its place, with the labels that the first panel of a line has for all.
function fitPanel(panel, width) {
  if (typeof panel.width === "number")
    panel.width = Math.max(Math.min(panel.width, width - 110), 160);
  for (const each of [panel, ...(panel.layer ?? [])])
    if (each.encoding?.y?.axis?.labels === false) each.encoding.y.axis.labels = true;
}

async function themed(spec, look) {
  return { ...structuredClone(spec), config: structuredClone((await unpack("themes"))[look]) };
}

const OPTIONS = { mode: "vega-lite", actions: false, renderer: "canvas" };

async function draw(place, spec, label) {
  const whole = fitted(await themed(spec, isDark() ? "dark" : "light"), place.clientWidth);
  views.get(place)?.finalize();
  const found = await vegaEmbed(place, whole, OPTIONS);
  views.set(place, found);
  place.setAttribute("role", "group"); // the library makes it a graphic, whose parts nobody hears
  place.removeAttribute("aria-roledescription");
  const picture = place.querySelector("canvas, svg");
  picture.setAttribute("role", "img");
  picture.setAttribute("aria-label", label);
  place.dataset.state = "drawn";
  return found.view;
}

// One drawing at a time for each place: the last one asked for counts.
async function drawFigure(place) {
  const wanted = place.dataset.spec;
  try {
    const spec = await unpack(wanted);
    if (place.dataset.spec !== wanted) return;
    const figure = place.closest("figure");
    const words = figure.querySelector(".described");
    words.textContent = spec.description || words.textContent;
    figure.querySelector(".remarks").textContent = [spec.title?.subtitle ?? []].flat().join(" ");
    await draw(place, spec, words.textContent);
    for (const button of document.querySelectorAll(`.save[data-chart="${place.id}"]`))
      button.disabled = false;
  } catch (error) {
    place.dataset.state = "failed";
    place.textContent = `The chart could not be drawn: ${error.message}`;
    console.error(place.id, error);
  }
}

const watching = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      watching.unobserve(target);
      target.dispatchEvent(new Event("seen"));
    }
  },
  { rootMargin: "300px" },
);

function whenSeen(place, act) {
  place.addEventListener("seen", act, { once: true });
  watching.observe(place);
}

for (const place of document.querySelectorAll(".chart[data-spec]"))
  whenSeen(place, () => drawFigure(place));

for (const list of document.querySelectorAll("select.model"))
  list.addEventListener("change", () => {
    const place = document.getElementById(list.dataset.chart);
    place.dataset.spec = list.value;
    drawFigure(place);
  });

for (const button of document.querySelectorAll(".save"))
  button.addEventListener("click", async () => {
    const place = document.getElementById(button.dataset.chart);
    const spec = await themed(await unpack(place.dataset.spec), "light"); // whole, as for a paper
    const { view } = await vegaEmbed(document.createElement("div"), spec, OPTIONS);
    const address = await view.toImageURL(button.dataset.kind, 2);
    save(`${place.id}.${button.dataset.kind}`, await (await fetch(address)).blob());
    view.finalize();
  });

document.addEventListener("look", () => {
  for (const place of document.querySelectorAll('.chart[data-spec][data-state="drawn"]'))
    drawFigure(place);
});
addEventListener("beforeprint", () => {
  for (const place of document.querySelectorAll(".chart[data-spec]:not([data-state])"))
    drawFigure(place);
});
