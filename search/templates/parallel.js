"use strict";
// Parallel coordinates: a line a trial, an axis a setting; a range dragged on an axis keeps the trials within it.
// Lines are drawn on a canvas, axes and what is dragged in SVG above it.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const TOP = 48, BOTTOM = 14, LEFT = 54, RIGHT = 50, HEIGHT = 380, LEAST_GAP = 84, LEAST_GAP_ON_PAPER = 40, LEAST_DRAG = 4;
  const RAMP = [[199, 233, 180], [127, 205, 187], [65, 182, 196], [29, 145, 192], [34, 94, 168], [12, 44, 132]];
  const PAPER = window.matchMedia("print");
  const FADED = "rgba(190, 197, 204, 0.25)";

  function element(name, attributes, parent, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    if (parent) parent.append(made);
    return made;
  }

  function colour(share, alpha) {
    const place = Math.max(0, Math.min(1, share)) * (RAMP.length - 1);
    const below = Math.min(Math.floor(place), RAMP.length - 2), part = place - below;
    const mixed = RAMP[below].map((low, at) => Math.round(low + part * (RAMP[below + 1][at] - low)));
    return `rgba(${mixed.join(", ")}, ${alpha})`;
  }

  function shown(number) {
    const size = Math.abs(number);
    if (number !== 0 && (size < 1e-3 || size >= 1e5)) return number.toExponential(0).replace("e+", "e");
    return String(Number(number.toPrecision(3)));
  }

  function ticks(axis) {
    if (axis.kind === "words") return axis.words.map((word, at) => [String(word), at]);
    const few = 5, found = [];
    if (axis.kind === "log") {
      const low = Math.ceil(Math.log10(axis.low) - 1e-9), high = Math.floor(Math.log10(axis.high) + 1e-9);
      const step = Math.max(1, Math.ceil((high - low) / few));
      for (let power = low; power <= high; power += step) found.push([shown(10 ** power), 10 ** power]);
      if (found.length > 1) return found;
      return [[shown(axis.low), axis.low], [shown(axis.high), axis.high]];
    }
    const rough = (axis.high - axis.low) / few || 1, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
    for (let at = Math.ceil(axis.low / step - 1e-9); at * step <= axis.high + 1e-9 * step; at += 1) {
      found.push([shown(at * step), at * step]);
    }
    return found;
  }

  class Parallel {
    constructor(root) {
      this.root = root;
      Object.assign(this, JSON.parse(document.getElementById(root.dataset.parallel).textContent));
      this.count = this.score.length;
      this.ranges = this.axes.map(() => null);
      this.frame = null;
      this.places = this.axes.map((axis, at) => this.values[at].map((value) => this.share(axis, value)));
      const known = this.score.filter((value) => value !== null);
      // The ramp spends its shades on the better nine tenths: a few failures would use it up otherwise.
      this.low = this.quantile(known, this.maximize ? 0.1 : 0.0);
      this.high = this.quantile(known, this.maximize ? 1.0 : 0.9);
      // The best are drawn last, on top; without a score first.
      const rank = (trial) => this.score[trial] === null ? -1 : this.goodness(trial);
      this.order = [...Array(this.count).keys()].sort((a, b) => rank(a) - rank(b));
      this.stage = root.querySelector(".stage");
      this.canvas = document.createElement("canvas");
      this.svg = element("svg", {role: "group", "aria-label": "axes; drag on one to keep a range"});
      this.stage.append(this.canvas, this.svg);
      root.querySelector(".reset").addEventListener("click", () => this.clear());
      document.addEventListener("brush-cleared", (event) => {
        if (event.detail.table === this.table) this.clear();
      });
      new ResizeObserver(() => this.layout()).observe(root);
      window.addEventListener("beforeprint", () => this.layout());
      PAPER.addEventListener("change", () => this.layout());
      this.layout();
    }

    quantile(sorted, share) {
      const values = [...sorted].sort((a, b) => a - b);
      return values.length ? values[Math.round(share * (values.length - 1))] : 0;
    }

    goodness(trial) {
      const share = this.high > this.low ? (this.score[trial] - this.low) / (this.high - this.low) : 1;
      return this.maximize ? share : 1 - share;
    }

    // Where a value lies on its axis, from 0 at the bottom to 1; null for none.
    share(axis, value) {
      if (value === null || value === undefined) return null;
      if (axis.kind === "words") {
        const at = axis.words.indexOf(value);
        return at < 0 ? null : axis.words.length > 1 ? at / (axis.words.length - 1) : 0.5;
      }
      const scale = axis.kind === "log" ? Math.log : Number;
      const [low, high] = [scale(axis.low), scale(axis.high)];
      return high > low ? Math.max(0, Math.min(1, (scale(value) - low) / (high - low))) : 0.5;
    }

    x(at) { return LEFT + at * this.gap; }
    y(share) { return TOP + (1 - share) * (HEIGHT - TOP - BOTTOM); }

    layout() {
      const least = PAPER.matches ? LEAST_GAP_ON_PAPER : LEAST_GAP;
      const width = Math.max(this.root.clientWidth, LEFT + RIGHT + (this.axes.length - 1) * least);
      if (width === this.width) return;
      this.width = width;
      this.gap = (width - LEFT - RIGHT) / (this.axes.length - 1);
      const dense = window.devicePixelRatio || 1;
      this.canvas.width = width * dense;
      this.canvas.height = HEIGHT * dense;
      for (const part of [this.canvas, this.svg]) {
        part.style.width = `${width}px`;
        part.style.height = `${HEIGHT}px`;
      }
      this.stage.style.width = `${width}px`;
      this.stage.style.height = `${HEIGHT}px`;
      this.canvas.getContext("2d").setTransform(dense, 0, 0, dense, 0, 0);
      this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
      this.drawAxes();
      this.drawLines();
    }

    drawAxes() {
      this.svg.replaceChildren();
      const letters = Math.floor(this.gap / 6.1);
      this.axes.forEach((axis, at) => {
        const group = element("g", {class: "axis"}, this.svg);
        const name = element("text", {class: "name", x: this.x(at), y: 14, "text-anchor": "middle"}, group);
        this.wrapped(axis.name, letters).forEach((line, row) => {
          element("tspan", {x: this.x(at), dy: row ? 13 : 0}, name, line);
        });
        element("title", {}, group, axis.name);
        element("line", {x1: this.x(at), x2: this.x(at), y1: this.y(1), y2: this.y(0)}, group);
        for (const [text, value] of ticks(axis)) {
          const place = axis.kind === "words" ? this.share(axis, axis.words[value]) : this.share(axis, value);
          const cut = text.length > letters - 2 ? `${text.slice(0, letters - 3)}…` : text;
          element("text", {class: "tick", x: this.x(at) + 6, y: this.y(place) + 4}, group, cut);
        }
        const area = element("rect", {
          class: "area", x: this.x(at) - 18, y: this.y(1) - 8, width: 36, height: this.y(0) - this.y(1) + 16,
          tabindex: 0, role: "slider", "aria-label": `range of ${axis.name}`, "aria-valuetext": "all",
          "aria-valuemin": 0, "aria-valuemax": 1, "aria-valuenow": 0, "data-axis": axis.name,
        }, group);
        element("rect", {class: "range", x: this.x(at) - 7, width: 14, height: 0, visibility: "hidden"}, group);
        this.listen(area, at);
        this.showRange(at);
      });
    }

    wrapped(name, letters) {
      const parts = name.length > letters ? name.split(/(?<=[.])/) : [name];
      if (parts.length === 1 && name.length > letters) parts.splice(0, 1, ...name.split(/(?<=_)/));
      const lines = [""];
      for (const part of parts) {
        if (lines[lines.length - 1].length + part.length > letters && lines[lines.length - 1]) lines.push("");
        lines[lines.length - 1] += part;
      }
      const cut = lines.map((line) => line.length > letters ? `${line.slice(0, letters - 1)}…` : line);
      return cut.length > 2 ? [cut[0], `${cut[1].slice(0, letters - 1)}…`] : cut;
    }

    listen(area, at) {
      const share = (event) => {
        const box = this.svg.getBoundingClientRect();
        return Math.max(0, Math.min(1, 1 - (event.clientY - box.top - TOP) / (HEIGHT - TOP - BOTTOM)));
      };
      let from = null, pressed = null;
      area.addEventListener("pointerdown", (event) => {
        area.setPointerCapture(event.pointerId);
        [from, pressed] = [share(event), event.clientY];
        event.preventDefault();
      });
      area.addEventListener("pointermove", (event) => {
        if (from === null || Math.abs(event.clientY - pressed) < LEAST_DRAG) return;
        const to = share(event);
        this.ranges[at] = [Math.min(from, to), Math.max(from, to)];
        this.showRange(at);
        if (this.frame === null) {
          this.frame = requestAnimationFrame(() => { this.frame = null; this.follow(); });
        }
      });
      const end = (event) => {
        if (from === null) return;
        from = null;
        this.setRange(at, Math.abs(event.clientY - pressed) < LEAST_DRAG ? null : this.ranges[at]);
      };
      area.addEventListener("pointerup", end);
      area.addEventListener("pointercancel", end);
      area.addEventListener("keydown", (event) => this.key(event, at));
    }

    // With the keyboard: arrows move the lower end, with Shift the upper one; Escape lets all through again.
    key(event, at) {
      const step = {ArrowUp: 0.05, ArrowDown: -0.05}[event.key];
      if (step === undefined && event.key !== "Escape") return;
      event.preventDefault();
      if (step === undefined) return this.setRange(at, null);
      const [low, high] = this.ranges[at] || [0, 1];
      const held = (share) => Math.max(0, Math.min(1, share));
      const next = event.shiftKey ? [low, Math.max(low, held(high + step))] : [Math.min(high, held(low + step)), high];
      this.setRange(at, next);
    }

    setRange(at, range) {
      this.ranges[at] = range;
      this.showRange(at);
      this.follow();
    }

    // Lines and table, once for each picture of the screen however fast a pointer moves.
    follow() {
      if (this.frame !== null) cancelAnimationFrame(this.frame);
      this.frame = null;
      this.drawLines();
      this.announce();
    }

    clear() {
      this.ranges = this.axes.map(() => null);
      this.axes.forEach((_, at) => this.showRange(at));
      this.follow();
    }

    showRange(at) {
      const group = this.svg.children[at], shape = group.querySelector(".range"), range = this.ranges[at];
      shape.setAttribute("visibility", range ? "visible" : "hidden");
      const area = group.querySelector(".area");
      area.setAttribute("aria-valuetext", range ? `${Math.round(100 * range[0])} to ${Math.round(100 * range[1])} % of the axis` : "all");
      if (!range) return;
      shape.setAttribute("y", this.y(range[1]));
      shape.setAttribute("height", Math.max(2, this.y(range[0]) - this.y(range[1])));
    }

    keeps(trial) {
      return this.ranges.every((range, at) => {
        const place = this.places[at][trial];
        return range === null || (place !== null && place >= range[0] - 1e-9 && place <= range[1] + 1e-9);
      });
    }

    announce() {
      const free = this.ranges.every((range) => range === null);
      const kept = free ? null : new Set([...Array(this.count).keys()].filter((trial) => this.keeps(trial)));
      const said = free ? `${this.count} trials` : `${kept.size} of ${this.count} trials`;
      this.root.querySelector(".count").textContent = said;
      document.dispatchEvent(new CustomEvent("rows-brushed", {detail: {table: this.table, rows: kept}}));
    }

    drawLines() {
      const pen = this.canvas.getContext("2d");
      pen.clearRect(0, 0, this.width, HEIGHT);
      const alpha = Math.max(0.15, Math.min(0.9, 30 / Math.sqrt(this.count * 12)));
      const free = this.ranges.every((range) => range === null);
      const kept = this.order.map((trial) => free || this.keeps(trial));
      for (const bright of [false, true]) {
        this.order.forEach((trial, at) => {
          if (kept[at] !== bright) return;
          const scored = this.score[trial] !== null;
          const ink = !bright ? FADED : scored ? colour(this.goodness(trial), alpha) : `rgba(90, 101, 114, ${alpha})`;
          this.drawTrial(pen, trial, ink, bright && !free ? 1.6 : 1.1, scored);
        });
      }
    }

    // A value that is not in force leaves a gap; one between two gaps is a dot.
    drawTrial(pen, trial, ink, thickness, scored) {
      pen.strokeStyle = pen.fillStyle = ink;
      pen.lineWidth = thickness;
      pen.setLineDash(scored ? [] : [3, 3]);
      pen.beginPath();
      let last = null;
      this.places.forEach((places, at) => {
        const place = places[trial];
        if (place === null) { last = null; return; }
        const [x, y] = [this.x(at), this.y(place)];
        if (last === null) pen.moveTo(x, y); else pen.lineTo(x, y);
        const after = at + 1 < this.places.length ? this.places[at + 1][trial] : null;
        if (last === null && after === null) { pen.moveTo(x + 2, y); pen.arc(x, y, 2, 0, 7); }
        last = place;
      });
      pen.stroke();
    }
  }

  for (const root of document.querySelectorAll("[data-parallel]")) new Parallel(root);
})();
