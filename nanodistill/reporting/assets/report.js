// Draws the curves and browses the rows. Texts of models and users become text nodes and
// nothing else: no markup is ever made from a string here.
"use strict";
(() => {
  const DATA = JSON.parse(document.getElementById("data-of-the-report").textContent);
  const PAGE = innerWidth < 740 ? 10 : 25, LONG = 700, COMPARED = 400;

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name === "class") element.className = value;
      else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value !== null) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  }

  // Curves

  const hue = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function axis(shown, size) {
    return {
      label: shown, labelSize: shown ? 18 : 0, size, stroke: hue("--muted"), font: "12px system-ui, sans-serif",
      labelFont: "12px system-ui, sans-serif", grid: { stroke: hue("--grid"), width: 1 },
      ticks: { stroke: hue("--line"), width: 1, size: 4 },
    };
  }

  const figures = (digits) => (_, value) => (value === null || value === undefined ? "" : value.toPrecision(digits));

  function line(label, colour, width, extra) {
    return { label, stroke: colour, width, spanGaps: true, points: { show: false }, value: figures(4), ...extra };
  }

  const update = { label: "step", value: (_, at) => (at === null || at === undefined ? "" : String(at)) };

  function lossChart(curves) {
    const series = [
      update,
      line("training loss", hue("--base"), 1, { alpha: 0.45 }),
      line("smoothed", hue("--base"), 2.5),
      line("validation loss", hue("--student"), 2, {
        dash: [6, 3], points: { show: true, size: 8, fill: hue("--page"), stroke: hue("--student"), width: 2 },
      }),
    ];
    const data = [curves.steps, curves.loss, curves.smoothed, curves.valid];
    return { data, options: { series, scales: { y: { range: (_, low, high) => [0, high * 1.05 || 1] } } }, height: 300, title: "loss" };
  }

  function rateChart(curves) {
    const series = [update, line("learning rate", hue("--teacher"), 2, { value: (_, v) => (v === null || v === undefined ? "" : v.toExponential(2)) })];
    return { data: [curves.steps, curves.rate], options: { series, scales: { y: { range: (_, low, high) => [0, high * 1.15 || 1] } } }, height: 170, title: "learning rate" };
  }

  // A line where the weights that were taken come from.
  function markChosen(plot, at) {
    if (at === null || plot.series.length < 3) return;
    const { ctx, bbox } = plot, x = plot.valToPos(at, "x", true), scale = devicePixelRatio;
    const late = x > bbox.left + bbox.width * 0.7;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = hue("--student");
    ctx.font = `${12 * scale}px system-ui, sans-serif`;
    ctx.textAlign = late ? "right" : "left";
    ctx.fillText("weights taken", x + (late ? -6 : 6) * scale, bbox.top + 14 * scale);
    ctx.setLineDash([2 * scale, 3 * scale]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.restore();
  }

  function draw(holder, chart, run) {
    const left = { ...axis(chart.title, 52), values: (_, ticks) => ticks.map((t) => (t !== 0 && t < 0.001 ? t.toExponential(0) : String(+t.toPrecision(3)))) };
    const bottom = { ...axis("", 28), values: (_, ticks) => ticks.map((t) => (Number.isInteger(t) ? t.toLocaleString("en") : "")) };
    const options = {
      width: holder.clientWidth, height: chart.height, ...chart.options,
      scales: { x: { time: false }, ...chart.options.scales },
      axes: [bottom, left], cursor: { sync: { key: run }, y: false }, hooks: { draw: [(plot) => markChosen(plot, DATA.curves[run].chosen)] },
    };
    holder.replaceChildren();
    return new uPlot(options, chart.data, holder);
  }

  function drawAll() {
    for (const figure of document.querySelectorAll(".curves")) {
      const curves = DATA.curves[figure.dataset.run];
      for (const holder of figure.querySelectorAll(".curve")) {
        if (!holder.clientWidth) continue;
        const chart = holder.dataset.curve === "loss" ? lossChart(curves) : rateChart(curves);
        holder.plot = draw(holder, chart, figure.dataset.run);
        holder.drawnAt = holder.clientWidth;
      }
    }
  }

  function followWidth() {
    const watch = new ResizeObserver((entries) => {
      for (const { target } of entries) {
        if (!target.clientWidth || target.drawnAt === target.clientWidth) continue;
        if (!target.plot) return void drawAll();
        target.drawnAt = target.clientWidth;
        target.plot.setSize({ width: target.clientWidth, height: target.dataset.curve === "loss" ? 300 : 170 });
      }
    });
    document.querySelectorAll(".curve").forEach((holder) => watch.observe(holder));
  }

  drawAll();
  followWidth();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  matchMedia("print").addEventListener("change", drawAll);

  // Rows

  const rows = DATA.rows;
  const browser = document.getElementById("browser");
  if (!rows || !browser) return;
  browser.hidden = false;

  const everything = rows.input.map((_, at) => at);
  const state = { view: 0, text: "", gold: "", predicted: "", outcome: "", mark: "", page: 0, shown: {} };
  const view = () => rows.views[state.view];
  const answersOf = (model) => {
    const column = view().columns.find((one) => one.model === model);
    return column ? rows.answers[column.answers] : null;
  };
  for (const one of rows.views) for (const { model } of one.columns) state.shown[model] ??= model !== "base_few_shot";

  const isRight = (answers, at) => answers.score[at] >= 1;
  const OUTCOMES = {
    fixed: { label: rows.graded ? "student did better" : "student fixed it", holds: (s, b) => s > b },
    broke: { label: rows.graded ? "student did worse" : "student broke it", holds: (s, b) => s < b },
    right: { label: rows.graded ? "both fully right" : "both right", holds: (s, b) => s >= 1 && b >= 1 },
    wrong: { label: rows.graded ? "equal, not fully right" : "both wrong", holds: (s, b) => s === b && s < 1 },
  };

  function outcomeOf(at) {
    const student = answersOf("student"), base = answersOf("base");
    if (!student || !base) return null;
    return Object.keys(OUTCOMES).find((name) => OUTCOMES[name].holds(student.score[at], base.score[at])) || null;
  }

  const folded = new Map(); // the searchable text of a row, made when it is first searched
  function haystack(at) {
    const key = `${state.view}:${at}`;
    if (!folded.has(key)) {
      const outputs = view().columns.map(({ answers }) => rows.answers[answers]).flatMap((a) => [a.output[at], a.raw[at], a.thinking[at]]);
      folded.set(key, [rows.input[at], rows.gold[at], rows.gold_thinking[at], ...outputs].filter(Boolean).join("\n").toLowerCase());
    }
    return folded.get(key);
  }

  const canonical = (text) => (text ?? "").normalize("NFC").trim().replace(/\s+/g, " ").toLowerCase();
  const plain = (text) => canonical(text).replace(/^["'`*]+|["'`*.!]+$/g, "");

  function isPrediction(answers, at, label) {
    if (label === "(unreadable)") return answers.output[at] === null;
    if (answers.output[at] === null) return false;
    if (label === "(other)") return !golds.has(plain(answers.output[at]));
    return plain(answers.output[at]) === plain(label);
  }
  const golds = new Set([...document.querySelectorAll(".matrix tbody th")].map((th) => plain(th.textContent)));
  rows.labels.forEach((label) => golds.add(plain(label)));

  function matchesMark(at) {
    if (!state.mark) return true;
    const [model, wanted] = JSON.parse(state.mark);
    const answers = answersOf(model);
    if (!answers) return false;
    if (wanted === "unreadable") return answers.output[at] === null;
    return isRight(answers, at) === (wanted === "right");
  }

  function matchesPrediction(at) {
    if (!state.predicted) return true;
    const [model, label] = JSON.parse(state.predicted);
    const answers = answersOf(model);
    return answers !== null && isPrediction(answers, at, label);
  }

  const withoutOutcome = (at) =>
    (!state.gold || plain(rows.gold[at]) === plain(state.gold)) && matchesMark(at) && matchesPrediction(at) &&
    (!state.text || haystack(at).includes(state.text.toLowerCase()));

  // What is in one text and not in the other, by words: the longest common subsequence.
  const words = (text) => text.match(/[\p{L}\p{N}_]+|\s+|[^\p{L}\p{N}_\s]/gu) || [];

  function marked(text, gold) {
    if (text === gold) return [text];
    const mine = words(text), theirs = words(gold);
    if (mine.length > COMPARED || theirs.length > COMPARED) return [text];
    const common = kept(mine, theirs);
    const pieces = [];
    mine.forEach((word, place) => {
      const isOdd = !common.has(place);
      const last = pieces[pieces.length - 1];
      if (last && (last.odd === isOdd || /^\s+$/.test(word))) last.text += word;
      else pieces.push({ odd: isOdd, text: word });
    });
    return pieces.flatMap(({ odd, text: piece }) => {
      const word = piece.trimEnd();
      return odd && word ? [make("mark", null, word), piece.slice(word.length)] : [piece];
    });
  }

  function kept(mine, theirs) {
    const width = theirs.length + 1;
    const best = new Uint16Array((mine.length + 1) * width);
    for (let i = mine.length - 1; i >= 0; i--)
      for (let j = theirs.length - 1; j >= 0; j--)
        best[i * width + j] = mine[i].toLowerCase() === theirs[j].toLowerCase()
          ? best[(i + 1) * width + j + 1] + 1
          : Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
    const common = new Set();
    for (let i = 0, j = 0; i < mine.length && j < theirs.length; ) {
      if (mine[i].toLowerCase() === theirs[j].toLowerCase()) { common.add(i); i++; j++; }
      else if (best[(i + 1) * width + j] >= best[i * width + j + 1]) i++;
      else j++;
    }
    return common;
  }

  function textBlock(pieces, text) {
    const block = make("div", { class: "answer-text", dir: "auto" }, ...pieces);
    if (text.length <= LONG) return [block];
    block.replaceChildren(`${text.slice(0, LONG)} …`);
    const button = make("button", { class: "all", type: "button", onclick: () => { block.replaceChildren(...pieces); button.remove(); } }, "Show all");
    return [block, button];
  }

  function thinkingBlock(text) {
    if (!text) return null;
    return make("details", null, make("summary", null, "thinking"), make("div", { class: "answer-text", dir: "auto" }, text));
  }

  function mark(score) {
    if (score >= 1) return make("span", { class: "verdict-right" }, "✓ right");
    if (score > 0) return make("span", { class: "verdict-part" }, `◐ ${Math.round(100 * score)}%`);
    return make("span", { class: "verdict-wrong" }, "✗ wrong");
  }

  function answerCell(column, at) {
    const answers = rows.answers[column.answers];
    const output = answers.output[at];
    const attributes = { class: `answer model-${column.model}`, "data-column": column.display_name };
    const read = output === null
      ? [make("div", { class: "unread" }, "unreadable:"), ...textBlock([answers.raw[at]], answers.raw[at])]
      : textBlock(marked(output, rows.gold[at]), output);
    return make("td", attributes, mark(answers.score[at]), ...read, thinkingBlock(answers.thinking[at]));
  }

  function rowOf(at) {
    const outcome = outcomeOf(at);
    const noted = outcome === "fixed" || outcome === "broke" ? make("span", { class: "outcome" }, OUTCOMES[outcome].label) : null;
    return make("tr", { "data-row": at },
      make("th", { class: "place", scope: "row" }, String(at + 1)),
      make("td", { class: "input", "data-column": "input" }, ...textBlock([rows.input[at]], rows.input[at]), noted),
      make("td", { class: "gold", "data-column": "gold answer" }, ...textBlock([rows.gold[at]], rows.gold[at]), thinkingBlock(rows.gold_thinking[at])),
      ...shownColumns().map((column) => answerCell(column, at)));
  }

  const shownColumns = () => view().columns.filter(({ model }) => state.shown[model]);

  function select(label, options, chosen, changed) {
    const box = make("select", { "aria-label": label, onchange: () => changed(box.value) },
      ...options.map(([value, label]) => make("option", { value, selected: value === chosen }, label)));
    return make("label", null, label, box);
  }

  function change(values) {
    Object.assign(state, { page: 0 }, values);
    show();
  }

  const models = () => view().columns.map(({ model, display_name }) => [model, display_name]);
  const narrow = (text) => (text.length > 60 ? `${text.slice(0, 59)}…` : text);

  function controls() {
    const search = make("input", { type: "search", placeholder: "inputs, answers and thinking", autocomplete: "off", oninput: () => change({ text: search.value }) });
    search.value = state.text;
    const marks = models().flatMap(([model, name]) => [
      [JSON.stringify([model, "right"]), `${name} ${rows.graded ? "fully right" : "right"}`],
      [JSON.stringify([model, "wrong"]), `${name} ${rows.graded ? "not fully right" : "wrong"}`],
      ...(answersOf(model).output.includes(null) ? [[JSON.stringify([model, "unreadable"]), `${name} unreadable`]] : []),
    ]);
    const predictions = rows.labels.map((label) => [JSON.stringify(["student", label]), narrow(label)]);
    if (state.predicted && !predictions.some(([value]) => value === state.predicted)) {
      const [model, label] = JSON.parse(state.predicted);
      const column = view().columns.find((one) => one.model === model);
      predictions.push([state.predicted, `${column ? column.display_name : model}: ${label}`]);
    }
    return make("div", { class: "controls" },
      make("label", { class: "search" }, "Search", search),
      rows.views.length > 1 ? select("Student", rows.views.map(({ name }, at) => [String(at), name]), String(state.view), (value) => { change({ view: Number(value) }); build(); }) : null,
      rows.labels.length ? select("Gold answer", [["", "any"], ...rows.labels.map((label) => [label, narrow(label)])], state.gold, (gold) => change({ gold })) : null,
      predictions.length ? select("Student output", [["", "anything"], ...predictions], state.predicted, (value) => change({ predicted: value })) : null,
      select("Right or wrong", [["", "either"], ...marks], state.mark, (value) => change({ mark: value })),
      make("fieldset", { class: "shown" }, make("legend", null, "Columns"), ...models().map(([model, shown]) => {
        const box = make("input", { type: "checkbox", onchange: () => { state.shown[model] = box.checked; show(); } });
        box.checked = state.shown[model];
        return make("label", null, box, shown);
      })));
  }

  function chips(candidates) {
    const counts = { "": candidates.length };
    for (const at of candidates) { const outcome = outcomeOf(at); if (outcome) counts[outcome] = (counts[outcome] || 0) + 1; }
    const names = ["", ...Object.keys(OUTCOMES)];
    return names.map((name) => make("button", { type: "button", "data-outcome": name, "aria-pressed": String(state.outcome === name), onclick: () => { change({ outcome: name }); chipsHolder.querySelector(`[data-outcome="${name}"]`).focus(); } },
      make("b", null, (counts[name] || 0).toLocaleString("en")), name ? OUTCOMES[name].label : "all"));
  }

  const chipsHolder = make("div", { class: "chips", role: "group", "aria-label": "Student against base" });
  const status = make("span", { role: "status" });
  const reset = make("button", { class: "reset", type: "button", onclick: () => { change({ text: "", gold: "", predicted: "", outcome: "", mark: "" }); build(); } }, "Clear filters");
  const turn = (step) => { state.page += step; show(); browser.scrollIntoView({ block: "start" }); };
  const before = make("button", { type: "button", onclick: () => turn(-1) }, "Previous");
  const after = make("button", { type: "button", onclick: () => turn(1) }, "Next");
  const top = make("div", { class: "bar-of-pages" }, status, reset);
  const bottom = make("div", { class: "bar-of-pages" }, make("span", null, "Highlighted: words that differ from the gold answer."), make("div", { class: "pages" }, before, after));
  const table = make("div", { class: rows.labels.length ? "rows labelled" : "rows" });

  function show() {
    const candidates = everything.filter(withoutOutcome);
    const found = state.outcome ? candidates.filter((at) => outcomeOf(at) === state.outcome) : candidates;
    const first = state.page * PAGE, page = found.slice(first, first + PAGE);
    chipsHolder.replaceChildren(...chips(candidates));
    status.textContent = found.length
      ? `${first + 1}–${first + page.length} of ${found.length.toLocaleString("en")} rows${found.length < everything.length ? ` (${everything.length.toLocaleString("en")} total)` : ""}`
      : "No matching rows";
    reset.hidden = !(state.text || state.gold || state.predicted || state.outcome || state.mark);
    before.disabled = state.page === 0;
    after.disabled = first + PAGE >= found.length;
    const head = ["input", "gold answer"].map((name) => make("th", { scope: "col", class: name === "input" ? "input" : "gold" }, name));
    const heads = shownColumns().map((column) => make("th", { scope: "col", class: `model-${column.model}` }, column.display_name));
    table.replaceChildren(found.length
      ? make("table", null, make("caption", { class: "hidden" }, "Rows with the gold answer and every model's answer"),
          make("thead", null, make("tr", null, make("th", { class: "place", scope: "col" }, "row"), ...head, ...heads)), make("tbody", null, ...page.map(rowOf)))
      : make("p", { class: "none" }, "No row matches all of these filters."));
  }

  function build() {
    browser.replaceChildren(controls(), chipsHolder, top, table, bottom);
    show();
  }

  build();

  for (const cell of document.querySelectorAll(".square"))
    cell.addEventListener("click", () => {
      const { model, gold, predicted } = cell.dataset;
      state.shown[model] = true;
      change({ view: 0, text: "", outcome: "", mark: "", gold, predicted: JSON.stringify([model, predicted]) });
      build();
      document.getElementById("rows").scrollIntoView();
    });
})();
