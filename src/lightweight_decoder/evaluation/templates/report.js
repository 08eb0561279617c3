"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 50;

  // Text only ever enters the page as text nodes: nothing from the data is parsed as HTML.
  const make = (tag, className, ...children) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    node.append(...children);
    return node;
  };
  const collator = new Intl.Collator("en", { numeric: true });
  const percent = (share) => (100 * share).toFixed(1) + "%";
  const decimal = (value, digits = 3) => (value === null ? "" : value.toFixed(digits));
  const rankText = (rank) => (rank === 0 ? "–" : rank.toLocaleString("en"));

  // A table whose columns are {title, key(row), cell(row) -> node or text, number}.
  const makeTable = (section, columns, options = {}) => {
    const head = section.querySelector("thead");
    const body = section.querySelector("tbody");
    let rows = [];
    let shown = PAGE;
    let sort = { column: null, sign: 1 };

    const compare = (a, b) => {
      const [x, y] = [sort.column.key(a), sort.column.key(b)];
      if (x === y) return 0;
      if (x === null || x === undefined) return 1;
      if (y === null || y === undefined) return -1;
      const order = typeof x === "string" ? collator.compare(x, y) : x - y;
      return sort.sign * order;
    };
    const draw = () => {
      const ordered = sort.column ? [...rows].sort(compare) : rows;
      body.replaceChildren(
        ...ordered.slice(0, shown).map((row) =>
          make("tr", "", ...columns.map((column) =>
            make("td", column.number ? "number" : "", column.cell(row))))));
      if (options.onDraw) options.onDraw(Math.min(shown, rows.length), rows.length);
    };
    const headers = columns.map((column) => {
      const button = make("button", "", column.title);
      button.type = "button";
      const header = make("th", column.number ? "number" : "", button);
      button.addEventListener("click", () => {
        const again = sort.column === column;
        sort = { column, sign: again ? -sort.sign : column.first ?? 1 };
        mark();
        draw();
      });
      return header;
    });
    const mark = () => headers.forEach((header, index) => {
      const isSorted = columns[index] === sort.column;
      header.setAttribute("aria-sort",
        isSorted ? (sort.sign > 0 ? "ascending" : "descending") : "none");
    });
    head.replaceChildren(make("tr", "", ...headers));
    mark();
    return {
      set: (next) => { rows = next; shown = PAGE; sort = { column: null, sign: 1 }; mark(); draw(); },
      filter: (next) => { rows = next; shown = PAGE; draw(); },
      more: () => { shown += PAGE; draw(); },
    };
  };

  const bar = (share, mark) => {
    const fill = make("i", "");
    fill.style.width = percent(share);
    const line = make("b", "");
    line.style.left = `calc(${percent(mark)} - 1px)`;
    const node = make("span", "bar", fill, line);
    node.title = `decoder ${percent(share)}, plain search ${percent(mark)}`;
    return node;
  };

  const drawSlices = () => {
    const section = document.getElementById("slices");
    const names = [...new Set(data.slices.map((row) => row.slice))];
    if (names.length === 0) { section.hidden = true; return; }
    const pair = (metric, format) => (row) => make("span", "",
      make("strong", "", format(row[metric])),
      ...(data.compared ? [make("span", "muted", "  " + format(row["baseline_" + metric]))] : []));
    const column = (title, metric, format, first) => ({
      title, number: true, first, key: (row) => row[metric], cell: pair(metric, format) });
    const place = new Map(data.slices.map((row, index) => [row, index]));
    const table = makeTable(section, [
      { title: "Group", key: (row) => place.get(row), cell: (row) => row.group },
      { title: "Queries", number: true, first: -1, key: (row) => row.num_queries,
        cell: (row) => row.num_queries.toLocaleString("en") },
      column("Recall@1", "recall@1", percent, -1),
      column("Recall@10", "recall@10", percent, -1),
      ...(data.compared ? [{ title: "against plain search", number: true, first: -1,
        key: (row) => row["recall@10"] - row["baseline_recall@10"],
        cell: (row) => bar(row["recall@10"], row["baseline_recall@10"]) }] : []),
      column("MRR", "mrr", decimal, -1),
      column("Median rank", "median_rank", (rank) => rank.toLocaleString("en"), 1),
      ...(data.calibrated ? [{ title: "Confidence", number: true, first: -1,
        key: (row) => row.confidence, cell: (row) => decimal(row.confidence, 2) }] : []),
    ]);
    const select = document.getElementById("slice");
    select.append(...names.map((name) => { const o = make("option", "", name); o.value = name; return o; }));
    const choose = () => table.set(data.slices.filter((row) => row.slice === select.value));
    select.addEventListener("change", choose);
    choose();
  };

  const drawExamples = () => {
    const section = document.getElementById("examples");
    const examples = data.examples.map((row) =>
      Object.fromEntries(data.example_columns.map((name, index) => [name, row[index]])));
    examples.forEach((row) => {
      row.words = [row.text ?? "", ...row.targets, ...row.phrases].join("\n").toLowerCase();
    });
    const isRight = (row) => row.rank === 1;
    const isCompared = (row) => row.in_bank && data.compared;
    const gain = (row) => Math.log(row.baseline_rank / row.rank);
    const sureness = (row) => row.confidence ?? row.values[0];
    const surest = (a, b) => sureness(b) - sureness(a);
    const views = [
      ["All", () => true, null],
      ["Surest mistakes", (row) => !isRight(row), surest],
      ["Best gains", (row) => isCompared(row) && row.rank < row.baseline_rank, (a, b) => gain(b) - gain(a)],
      ["Losses", (row) => isCompared(row) && row.rank > row.baseline_rank, (a, b) => gain(a) - gain(b)],
      ["Worst", (row) => row.in_bank && !isRight(row), (a, b) => b.rank - a.rank],
      ["Surest right", isRight, surest],
      ["Abstained", (row) => row.abstained, surest],
      ["Out of bank", (row) => !row.in_bank, surest],
    ].filter(([name, keep]) => name === "All" || examples.some(keep));

    const phrases = (row) => make("div", "", ...row.phrases.map((phrase, index) => {
      const right = row.targets.includes(phrase);
      const chip = make("span", "phrase" + (right ? " right" : "") + (index ? "" : " first"), phrase);
      chip.title = `value ${decimal(row.values[index])}`;
      return chip;
    }));
    const query = (row) => make("span", "", row.text ?? `query ${row.query}`,
      ...(row.abstained ? [" ", make("span", "pill", "abstained")] : []),
      ...(row.in_bank ? [] : [" ", make("span", "pill", "out of bank")]));
    const more = document.getElementById("more");
    const count = document.getElementById("count");
    const ranked = (name) => (row) => row[name] || null;
    const table = makeTable(section, [
      { title: "Query", key: (row) => row.text ?? row.query, cell: query },
      { title: "Wanted", key: (row) => row.targets.join(", "), cell: (row) => row.targets.join(", ") },
      { title: "Decoded", key: (row) => row.phrases[0], cell: phrases },
      { title: "Rank", number: true, key: ranked("rank"), cell: (row) => rankText(row.rank) },
      ...(data.compared ? [{ title: "Plain search", number: true, key: ranked("baseline_rank"),
        cell: (row) => rankText(row.baseline_rank) }] : []),
      data.calibrated
        ? { title: "Confidence", number: true, first: -1, key: (row) => row.confidence,
            cell: (row) => decimal(row.confidence, 2) }
        : { title: "Value", number: true, first: -1, key: (row) => row.values[0],
            cell: (row) => decimal(row.values[0]) },
    ], {
      onDraw: (visible, total) => {
        more.hidden = visible >= total;
        count.textContent = `${total.toLocaleString("en")} of ${examples.length.toLocaleString("en")}`;
      },
    });

    const search = document.getElementById("search");
    let chosen = [];
    const searched = () => {
      const wanted = search.value.trim().toLowerCase();
      return wanted ? chosen.filter((row) => row.words.includes(wanted)) : chosen;
    };
    const buttons = views.map(([name, keep, order]) => {
      const button = make("button", "", name);
      button.type = "button";
      button.addEventListener("click", () => {
        buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
        chosen = examples.filter(keep);
        if (order) chosen.sort(order);
        table.set(searched());
      });
      return button;
    });
    document.getElementById("views").append(...buttons);
    search.addEventListener("input", () => table.filter(searched()));
    more.addEventListener("click", () => table.more());
    (buttons[1] ?? buttons[0]).click();
  };

  document.getElementById("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const isDark = (root.dataset.theme ?? "") === "dark"
      || (!root.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
    root.dataset.theme = isDark ? "light" : "dark";
  });
  drawSlices();
  drawExamples();
})();
