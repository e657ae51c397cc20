// One example as a card: what it is, what both models say, and where they stand to retraining.
const WORDS = {
  forget: { 0: "forgotten", 1: "under-forgotten", [-1]: "over-forgotten" },
  other: { 0: "as retrained", 1: "known better than retrained", [-1]: "known less than retrained" },
};
const CLASSES = { 0: "forgotten", 1: "under", [-1]: "over" };

// Where a row stands to the band of retrained models: 1 known better, 0 in it, -1 known less.
function standing(found, set, row, k) {
  return found.sets[set].rows[row].stands?.[k] ?? null;
}

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function picture(found, place, label) {
  const [height, width, channels] = found.shown.shape;
  found.pixels ??= Uint8Array.from(atob(found.shown.bytes), (sign) => sign.charCodeAt(0));
  const canvas = element("canvas");
  Object.assign(canvas, { width, height });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  const image = new ImageData(width, height);
  const start = place * width * height * channels;
  for (let k = 0; k < width * height; k++) {
    for (let c = 0; c < 3; c++)
      image.data[4 * k + c] = found.pixels[start + channels * k + (channels < 3 ? 0 : c)];
    image.data[4 * k + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// A margin or a loss as people read it: two decimals, or two digits of what is smaller.
function shortly(value) {
  return Math.abs(value) >= 0.1 || value === 0 ? value.toFixed(2) : value.toPrecision(2);
}

function saysOf(found, set, row, k) {
  const part = found.sets[set].rows[row];
  const line = element("p");
  line.append(element("span", `${row}: `, "who"));
  const share = part.share ? ` (${Math.round(100 * part.share[k])} % of ${part.models} models)` : "";
  if (part.says) line.append(`predicts ${part.says[k]}${share}; `);
  const mean = part.mean[k];
  line.append(mean === null ? "NaN or infinite" : `${found.measure} ${shortly(mean)}`);
  const stands = standing(found, set, row, k);
  if (stands !== null) {
    const words = WORDS[set === "forget" ? "forget" : "other"][stands];
    line.append(", ", element("b", words, CLASSES[stands]));
  }
  return line;
}

function card(found, set, rows, k) {
  const part = found.sets[set];
  const id = part.ids[k];
  const name = `example ${id}${part.targets[k] ? `, target ${part.targets[k]}` : ""}`;
  const item = element("li");
  const text = element("div");
  const place = found.shown?.sets.includes(set) ? found.places.get(id) : undefined;
  if (place !== undefined && found.shown.kind === "image") item.append(picture(found, place, name));
  text.append(element("p", name));
  if (place !== undefined && found.shown.kind !== "image")
    text.append(element("pre", found.shown.texts[place]));
  for (const row of new Set(rows)) text.append(saysOf(found, set, row, k));
  if (part.band)
    text.append(
      element("p", `retrained: ${shortly(part.band.low[k])} to ${shortly(part.band.high[k])}`, "who"),
    );
  item.append(text);
  return item;
}
