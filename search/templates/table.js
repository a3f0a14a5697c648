"use strict";
// Tables that sort by a click on a column's head and filter by what is typed. Cells are set as text, never as HTML.
(() => {
  const STEP = 100;
  const COMPARISON = /^(.+?)(<=|>=|!=|=|<|>)(.+)$/;
  const AGAINST = {
    "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b,
  };

  function shown(value, decimals) {
    if (value === null || value === undefined) return "–";
    if (typeof value === "boolean") return value ? "yes" : "no";
    if (typeof value !== "number") return String(value);
    if (Number.isInteger(value) && !decimals) return String(value);
    if (decimals !== null && decimals !== undefined) return value.toFixed(decimals);
    const size = Math.abs(value);
    if (size >= 1e-4 && size < 1e7) {
      return String(Number(value.toFixed(Math.max(0, 3 - Math.floor(Math.log10(size))))));
    }
    const [mantissa, exponent] = value.toExponential(3).split("e");
    return `${Number(mantissa)}e${Number(exponent)}`;
  }

  function columnNamed(columns, name) {
    const wanted = name.toLowerCase();
    const called = (column) => [column.name.toLowerCase(), column.label.toLowerCase()];
    const exact = columns.findIndex((column) => called(column).includes(wanted));
    if (exact >= 0) return exact;
    const ending = columns.map((column, index) => [column, index])
      .filter(([column]) => column.name.toLowerCase().endsWith(wanted));
    return ending.length === 1 ? ending[0][1] : -1;
  }

  // One test a word: `column<number`, `column=word`, `column!=word`, or text that any cell has.
  function testsOf(text, columns) {
    return text.trim().split(/\s+/).filter(Boolean).map((word) => {
      const found = COMPARISON.exec(word);
      const index = found ? columnNamed(columns, found[1]) : -1;
      if (index < 0) {
        const wanted = word.toLowerCase();
        return (row) => row.some((cell) => cell !== null && String(cell).toLowerCase().includes(wanted));
      }
      const [, , sign, given] = found;
      const number = Number(given);
      if (sign in AGAINST) {
        return (row) => typeof row[index] === "number" && AGAINST[sign](row[index], number);
      }
      const same = (cell) => typeof cell === "number" ? cell === number || shown(cell, columns[index].decimals) === given
        : shown(cell).toLowerCase() === given.toLowerCase();
      return sign === "=" ? (row) => same(row[index]) : (row) => !same(row[index]);
    });
  }

  function compare(a, b) {
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), "en", {numeric: true});
  }

  class SortableTable {
    constructor(root) {
      this.root = root;
      Object.assign(this, JSON.parse(document.getElementById(root.dataset.table).textContent));
      this.order = this.rows.map((_, index) => index);
      this.brushed = null;
      this.sorted = null;
      this.limit = STEP;
      this.heads = [...root.querySelectorAll("thead th")];
      this.filter = root.querySelector(".filter");
      this.more = root.querySelector(".more");
      this.heads.forEach((head, index) => head.querySelector("button").addEventListener("click", () => this.sort(index)));
      this.filter.addEventListener("input", () => this.draw());
      this.more.addEventListener("click", () => { this.limit += STEP; this.draw(); });
      root.querySelector(".reset").addEventListener("click", () => {
        this.filter.value = "";
        document.dispatchEvent(new CustomEvent("brush-cleared", {detail: {table: root.id}}));
        this.draw();
      });
      document.addEventListener("rows-brushed", (event) => {
        if (event.detail.table !== root.id) return;
        this.brushed = event.detail.rows;
        this.draw();
      });
      if (this.first) this.sort(this.first.index, this.first.down);
      else this.draw();
    }

    // A second click on a head turns the order round; numbers begin with the largest.
    turned(index) {
      return this.sorted && this.sorted.index === index ? !this.sorted.down : this.columns[index].numeric;
    }

    sort(index, down = this.turned(index)) {
      this.sorted = {index, down};
      const value = (row) => this.rows[row][index];
      // What has no value stays at the end, whichever way.
      this.order.sort((a, b) => value(a) === null || value(b) === null
        ? compare(value(a), value(b)) : (down ? -1 : 1) * compare(value(a), value(b)));
      this.heads.forEach((head, at) => {
        if (at === index) head.setAttribute("aria-sort", down ? "descending" : "ascending");
        else head.removeAttribute("aria-sort");
      });
      this.draw();
    }

    draw() {
      const tests = testsOf(this.filter.value, this.columns);
      const kept = this.order.filter((row) => (this.brushed === null || this.brushed.has(row))
        && tests.every((test) => test(this.rows[row])));
      const body = document.createElement("tbody");
      for (const row of kept.slice(0, this.limit)) {
        const line = body.insertRow();
        this.rows[row].forEach((value, index) => {
          const cell = line.insertCell();
          cell.textContent = shown(value, this.columns[index].decimals);
          if (this.columns[index].numeric) cell.className = "number";
          else if (value !== null) cell.title = cell.textContent;
        });
      }
      this.root.querySelector("tbody").replaceWith(body);
      this.more.hidden = kept.length <= this.limit;
      const brushed = this.brushed === null ? "" : ", brushed";
      this.root.querySelector(".count").textContent = `${kept.length} of ${this.rows.length} rows${brushed}`;
    }
  }

  for (const root of document.querySelectorAll("[data-table]")) new SortableTable(root);
})();
