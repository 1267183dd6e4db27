// A table that is filled anew each second: rows keep their elements, so that focus and selection stay where they are.

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export function setText(where, text) {
  if (where.textContent !== text) where.textContent = text;
}

export class Table {
  // columns: {name, title?, value(row), text(row) or fill(cell, row), number?}. The first names the row.
  constructor(where, columns, { key = (row) => row.name, empty, listed }) {
    this.columns = columns;
    this.key = key;
    this.listed = listed;
    this.rows = new Map();
    this.order = null;
    this.shown = [];
    // Roles are said, as the narrow layout takes rows and cells out of the table's own.
    this.body = element("tbody", { role: "rowgroup" });
    this.heads = columns.map((column, index) => this.head(column, index));
    const head = element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...this.heads));
    this.table = element("table", { role: "table", "aria-labelledby": `${where.id}-title` }, head, this.body);
    this.note = element("p", { class: "muted note" });
    this.empty = element("p", { class: "muted empty" }, empty);
    where.append(this.table, this.empty, this.note);
  }

  head(column, index) {
    const button = element("button", { type: "button" }, column.name);
    if (column.title) button.title = column.title;
    button.addEventListener("click", () => this.sort(index));
    return element("th", { role: "columnheader", scope: "col", "aria-sort": "none", class: column.number ? "number" : "" }, button);
  }

  // Numbers begin with the largest, names with the first; a third click gives the order back that they came in.
  sort(index) {
    const first = this.columns[index].number ? -1 : 1;
    if (this.order?.index !== index) this.order = { index, sign: first };
    else this.order = this.order.sign === first ? { index, sign: -first } : null;
    this.heads.forEach((head, at) => {
      const sign = this.order?.index === at ? this.order.sign : 0;
      head.setAttribute("aria-sort", sign ? (sign > 0 ? "ascending" : "descending") : "none");
    });
    this.fill();
  }

  update({ rows, found }) {
    this.shown = rows;
    this.found = found;
    this.fill();
  }

  fill() {
    const rows = this.order ? this.sorted() : this.shown;
    const left = new Set(this.rows.keys());
    rows.forEach((row, at) => {
      const key = this.key(row);
      left.delete(key);
      if (!this.rows.has(key)) this.rows.set(key, this.make());
      const line = this.rows.get(key);
      this.columns.forEach((column, index) => {
        const cell = line.cells[index];
        if (column.fill) column.fill(cell, row);
        else setText(cell, column.text ? column.text(row) : String(column.value(row)));
      });
      if (this.body.children[at] !== line) this.place(line, at);
    });
    for (const key of left) {
      this.rows.get(key).remove();
      this.rows.delete(key);
    }
    this.table.hidden = !rows.length;
    this.empty.hidden = rows.length > 0;
    this.note.hidden = !(this.found > rows.length);
    setText(this.note, `Shows ${rows.length} of ${this.found}, ${this.listed}. Use Find to see others.`);
  }

  // Moving an element takes the focus from it.
  place(line, at) {
    const focused = line.contains(document.activeElement) ? document.activeElement : null;
    this.body.insertBefore(line, this.body.children[at] ?? null);
    focused?.focus({ preventScroll: true });
  }

  sorted() {
    const { index, sign } = this.order;
    const { value } = this.columns[index];
    const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
    const known = (one) => one ?? -1;
    return [...this.shown].sort((a, b) => sign * compare(known(value(a)), known(value(b))));
  }

  make() {
    const cells = this.columns.map((column, index) =>
      element(index ? "td" : "th", {
        role: index ? "cell" : "rowheader",
        "data-name": column.name,
        class: [column.number ? "number" : "", column.wide ? "wide" : ""].join(" ").trim(),
        ...(index ? {} : { scope: "row" }),
      }),
    );
    return element("tr", { role: "row" }, ...cells);
  }
}
