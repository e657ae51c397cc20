// Any two models side by side: a cloud of examples with a brush, and the cards of what is chosen.
const PAGE = 12; // cards at once
const HUES = {
  light: { forgotten: "#00734d", "under-forgotten": "#a83a12", "over-forgotten": "#6a3fb5", "not told": "#565d65" },
  dark: { forgotten: "#56d0a5", "under-forgotten": "#ff9d72", "over-forgotten": "#c3a6ff", "not told": "#a5adb5" },
};

function cloudOf(found, chosen, set) {
  const words = WORDS[set === "forget" ? "forget" : "other"];
  const hues = Object.values(HUES[isDark() ? "dark" : "light"]);
  const domain = [words[0], words[1], words[-1], "not told"];
  const axis = (row) => ({ type: "quantitative", title: `mean ${found.measure}, ${row}`, scale: scaleOf(found) });
  const points = chosen.points.map((point) => ({ ...point, stands: words[point.stands] ?? "not told" }));
  const used = domain.map((word) => points.some((point) => point.stands === word));
  const ends = points.flatMap(({ x, y }) => [x, y]);
  const corners = [Math.min(...ends), Math.max(...ends)].map((end) => ({ x: end, y: end }));
  const color = {
    field: "stands", type: "nominal", title: `${chosen.rows[1]}, against retrained`,
    scale: { domain: domain.filter((_, k) => used[k]), range: hues.filter((_, k) => used[k]) },
  };
  const shapes = ["circle", "triangle-up", "triangle-down", "cross"].filter((_, k) => used[k]);
  const cloud = {
    data: { values: points },
    params: [{ name: "brush", select: { type: "interval" } }],
    mark: { type: "point", filled: true, size: 34, aria: false },
    encoding: {
      x: { field: "x", ...axis(chosen.rows[0]) },
      y: { field: "y", ...axis(chosen.rows[1]) },
      color,
      shape: { ...color, scale: { domain: color.scale.domain, range: shapes } },
      opacity: { condition: { param: "brush", value: 0.8 }, value: 0.15 },
      tooltip: [{ field: "id" }, { field: "target" }, { field: "x", title: chosen.rows[0] }, { field: "y", title: chosen.rows[1] }],
    },
  };
  const line = {
    data: { values: corners },
    mark: { type: "line", strokeDash: [3, 3], color: "#888888" },
    encoding: { x: { field: "x", type: "quantitative" }, y: { field: "y", type: "quantitative" } },
  };
  return { width: 560, height: 400, layer: [line, cloud] };
}

function scaleOf(found) {
  return found.measure === "loss" ? { type: "symlog", constant: 0.01 } : { zero: false };
}

class Explorer {
  constructor(root) {
    this.root = root;
    this.within = null; // the brushed range, or null
    this.number = PAGE;
    const lists = "select, input";
    for (const each of root.querySelectorAll(lists))
      each.addEventListener("input", () => this.restart());
    this.part(".more").addEventListener("click", () => this.turn());
    this.part(".clear").addEventListener("click", () => this.restart());
    document.addEventListener("look", () => this.found && this.drawCloud());
  }

  part(name) {
    return this.root.querySelector(name);
  }

  async start() {
    this.found = await unpack(this.root.dataset.examples);
    const shown = this.found.shown;
    this.found.places = new Map((shown?.ids ?? []).map((id, place) => [id, place]));
    await this.restart();
  }

  restart() {
    this.within = null;
    this.number = PAGE;
    this.choose();
    this.showCards();
    return this.drawCloud();
  }

  // The examples of the chosen set as points, and which of them the lists ask for.
  choose() {
    const [set, wanted, id] = [".set", ".verdicts", ".id"].map((name) => this.part(name).value);
    const rows = [this.part(".first").value, this.part(".second").value];
    const part = this.found.sets[set];
    const [one, other] = rows.map((row) => part.rows[row]);
    const points = part.ids.map((each, k) => ({
      k, id: each, target: part.targets[k], x: one.mean[k], y: other.mean[k],
      stands: standing(this.found, set, rows[1], k),
    }));
    const asked = (point) =>
      (!id.trim() || String(point.id) === id.trim()) &&
      (!wanted || (wanted === "differ"
        ? one.says && one.says[point.k] !== other.says?.[point.k]
        : point.stands === Number(wanted)));
    this.all = points;
    const listed = points.filter((point) => asked(point));
    this.chosen = { set, rows, listed, points: listed.filter(({ x, y }) => x !== null && y !== null) };
  }

  async drawCloud() {
    const place = this.part(".cloud");
    const { points, rows, set } = this.chosen;
    if (!points.length) {
      views.get(place)?.finalize();
      views.delete(place);
      place.replaceChildren(element("p", "No example is as the lists ask, so there is no cloud.", "nothing"));
      place.dataset.state = "drawn";
      return;
    }
    const label = `Cloud of ${points.length} examples of the ${set} set: ${rows.join(" against ")}. The cards below list them.`;
    try {
      const view = await draw(place, cloudOf(this.found, this.chosen, set), label);
      view.addSignalListener("brush", (_, range) => this.brush(range));
    } catch (error) {
      place.textContent = `The cloud could not be drawn: ${error.message}`;
      place.dataset.state = "failed";
      console.error(error);
    }
  }

  brush(range) {
    this.within = range.x && range.y ? range : null;
    this.number = PAGE;
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.showCards(), 120);
  }

  turn() {
    const before = this.number;
    this.number += PAGE;
    this.showCards();
    const next = this.part(".cards").children[before];
    next.tabIndex = -1;
    next.focus();
  }

  inBrush({ x, y }) {
    const inside = (value, [low, high]) => value !== null && value >= Math.min(low, high) && value <= Math.max(low, high);
    return !this.within || (inside(x, this.within.x) && inside(y, this.within.y));
  }

  showCards() {
    const { set, rows, listed } = this.chosen;
    const away = ({ x, y }) => (x === null || y === null ? Infinity : Math.abs(x - y));
    const shown = listed.filter((point) => this.inBrush(point)).sort((a, b) => away(b) - away(a));
    this.part(".counts").textContent = this.counted(set, rows, shown);
    this.part(".cards").replaceChildren(
      ...shown.slice(0, this.number).map(({ k }) => card(this.found, set, rows, k)),
    );
    this.part(".more").hidden = shown.length <= this.number;
    this.part(".clear").hidden = !this.within;
  }

  counted(set, rows, shown) {
    const words = WORDS[set === "forget" ? "forget" : "other"];
    const start = `${shown.length} of ${this.all.length} examples of the ${set} set${this.within ? " in the brush" : ""}.`;
    if (!this.found.sets[set].band) return start;
    const counts = rows.map((row) => {
      const stands = shown.map(({ k }) => standing(this.found, set, row, k));
      const told = [0, 1, -1].map((each) => `${stands.filter((s) => s === each).length} ${words[each]}`);
      return ` ${row}: ${told.join(", ")}.`;
    });
    return start + [...new Set(counts)].join("") + " Cards come by how far both models differ.";
  }
}

for (const root of document.querySelectorAll(".explorer"))
  whenSeen(root, () => new Explorer(root).start());
