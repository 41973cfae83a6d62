"use strict";
/* Stored texts are data: they enter the page through textContent alone. */
(() => {
  const FOLD = { lines: 60, head: 34, tail: 18, characters: 12000 };
  const MARKS = 400, SHORT = 160;
  const byId = (id) => document.getElementById(id);
  const items = [];      // {row, element, facets, summary, body} in the order of the page
  const steps = new Map(); // step number -> item
  const blocks = [...document.querySelectorAll("script.block")].map((element) => ({ element, first: +element.dataset.first, texts: null }));
  const state = { query: null, facets: new Set(), hits: null, round: 0, here: null };

  // ---- small words
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const shown = (text) => text
    .replace(/\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?)/g, "")
    .replace(/\r\n?/g, "\n")
    .replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
  const count = (number) => number.toLocaleString("en-US");
  const time = (seconds) => {
    if (seconds === null || seconds === undefined) return "–";
    if (seconds < 9.95) return `${Math.max(seconds, 0).toFixed(1)} s`;
    const all = Math.round(seconds), minutes = Math.floor(all / 60), hours = Math.floor(minutes / 60);
    const two = (value) => String(value).padStart(2, "0");
    return hours ? `${hours} h ${two(minutes % 60)} min` : minutes ? `${minutes} min ${two(all % 60)} s` : `${all} s`;
  };
  const money = (cost) => cost === null || cost === undefined ? "" : `$${cost < 0.1 ? cost.toFixed(4) : cost.toFixed(2)}`;
  const clock = (at) => new Date(at * 1000).toISOString().slice(0, 19).replace("T", " ") + " UTC";
  const breathe = () => new Promise((resolve) => setTimeout(resolve)); // also in a tab that is not seen

  // ---- what the page carries
  const unpack = async (element) => {
    const letters = atob(element.textContent.trim());
    const bytes = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i += 1) bytes[i] = letters.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  };
  const blockOf = (position) => {
    let low = 0, high = blocks.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (blocks[middle].first <= position) low = middle; else high = middle - 1;
    }
    return blocks[low];
  };
  const load = (block) => { block.texts ??= unpack(block.element); return block.texts; };
  const textsOf = async (step) => {
    const block = blockOf(step - 1);
    return (await load(block))[step - 1 - block.first];
  };

  // ---- text with what was searched for marked
  const write = (element, text) => {
    if (!state.query) { element.textContent = text; return element; }
    let end = 0, marks = 0;
    const parts = [];
    state.query.lastIndex = 0; // where matchAll begins
    for (const match of text.matchAll(state.query)) {
      if (!match[0] || marks >= MARKS) break;
      marks += 1;
      parts.push(text.slice(end, match.index), make("mark", "", match[0]));
      end = match.index + match[0].length;
    }
    element.replaceChildren(...parts, text.slice(end));
    return element;
  };
  const folded = (text, className) => {
    const box = make("div");
    const whole = shown(text);
    const lines = whole.split("\n");
    const long = lines.length > FOLD.lines || whole.length > FOLD.characters;
    if (!long) { box.append(write(make("pre", className), whole)); return box; }
    let head = lines.slice(0, FOLD.head).join("\n"), tail = lines.slice(-FOLD.tail).join("\n");
    if (lines.length <= FOLD.lines || head.length + tail.length > FOLD.characters) {
      head = whole.slice(0, FOLD.characters / 3 * 2);
      tail = whole.slice(-FOLD.characters / 3);
    }
    const button = make("button", "quiet more", `Show all ${count(lines.length)} lines, ${count(whole.length)} characters`);
    button.type = "button";
    button.addEventListener("click", () => {
      const all = write(make("pre", className), whole);
      box.replaceChildren(all);
      all.tabIndex = -1;
      all.focus({ preventScroll: true });
    });
    box.append(write(make("pre", className), head), button, write(make("pre", className), tail));
    return box;
  };

  // ---- lines
  const tag = (text, className = "") => make("span", `tag ${className}`, text);
  const verdict = (label) => tag(shown(label.verdict), `label ${label.tone}`);
  const facts = (pairs) => {
    const list = make("dl", "facts");
    for (const [name, value] of pairs) {
      if (value === "" || value === null || value === undefined) continue;
      const pair = make("div");
      pair.append(make("dt", "", name), make("dd", "", value));
      list.append(pair);
    }
    return list;
  };
  const argument = (name, text) => {
    const old = /^(old|old_str|old_string|search|find)$/.test(name), fresh = /^(new|new_str|new_string|replace|replacement)$/.test(name);
    return [make("h3", "", shown(name)), folded(text, old ? "old" : fresh ? "new" : "")];
  };
  const fill = async (item) => {
    const { row, body } = item;
    const texts = await textsOf(row.step);
    const parts = [];
    if (texts.answer.trim()) parts.push(make("h3", "", "answer"), folded(texts.answer, "answer"));
    const short = make("dl", "short");
    for (const [name, value] of Object.entries(texts.arguments)) {
      const text = typeof value === "string" ? value : JSON.stringify(value);
      if (text.length <= SHORT && !text.includes("\n")) short.append(make("dt", "", shown(name)), write(make("dd"), shown(text)));
    }
    if (short.children.length) parts.push(short);
    for (const [name, value] of Object.entries(texts.arguments)) {
      const text = typeof value === "string" ? value : JSON.stringify(value, null, 2);
      if (text.length > SHORT || text.includes("\n")) parts.push(...argument(name, text));
    }
    if (row.problem) parts.push(make("p", "verdict tag warn", `malformed: ${row.problem}`));
    if (row.clock === undefined || row.clock === null) parts.push(make("p", "aside", "The episode was cut off before this action was observed."));
    else parts.push(make("h3", "", row.boundary ? `observation · error of the ${row.boundary}` : "observation"), folded(texts.observation, row.boundary ? "failed" : ""));
    if (texts.cut) parts.push(make("p", "notice", `${count(texts.cut)} characters in the middle are not on this page; see the note above the steps.`));
    if (row.evaluated !== undefined && row.evaluated !== null) {
      const left = row.left === null || row.left === undefined ? "" : ` · ${row.left} evaluations left`;
      parts.push(make("p", "verdict", `evaluated: ${row.evaluated.toFixed(1)} ${row.said || ""}${left}`));
    }
    for (const label of row.labels || []) parts.push(labelled(label));
    const [prompt = 0, fresh = 0, answer = 0] = row.tokens || [];
    parts.push(facts([
      ["at", row.at ? clock(row.at) : ""], ["model", row.took ? time(row.took) : ""],
      ["prompt", prompt ? `${count(prompt)} tokens, ${count(fresh)} new${row.again ? `, ${count(row.again)} of them attached again` : ""}${row.cached === undefined || row.cached === null ? "" : `, ${count(row.cached)} cached`}` : ""], ["sampled", answer ? `${count(answer)} tokens` : ""], ["cost", money(row.cost)],
    ]));
    body.replaceChildren(...parts);
  };
  const labelled = (label) => {
    const line = make("p", "verdict");
    line.append(verdict(label), ` ${shown(label.reason || "")} `, make("span", "aside", shown(label.by || "")));
    return line;
  };

  const stepItem = (row) => {
    const element = make("li", `item step${row.boundary ? " is-error" : ""}`);
    element.id = `step-${row.step}`;
    const details = make("details"), summary = make("summary"), name = make("span", "name"), tags = make("span", "tags");
    name.append(make("i", `swatch ${row.kind}`), make("span", "", shown(row.name || "")));
    if (row.boundary) tags.append(tag(`error: ${row.boundary}`, "bad"));
    if (row.problem) tags.append(tag("malformed", "warn"));
    if (row.evaluated !== undefined && row.evaluated !== null) tags.append(tag(`score ${row.evaluated.toFixed(1)}`, "good"));
    for (const label of row.labels || []) tags.append(verdict(label));
    tags.append(make("span", "when", time(row.clock)));
    const gist = make("span", "gist"), result = make("span", "result");
    summary.append(make("span", "n", String(row.step)), name, gist, tags, result);
    const body = make("div", "body");
    details.append(summary, body);
    element.append(details);
    const facets = new Set();
    if (row.boundary) facets.add("errors");
    if (row.problem) facets.add("malformed");
    if (row.evaluated !== undefined && row.evaluated !== null) facets.add("evaluations");
    for (const label of row.labels || []) facets.add(`label: ${label.verdict}`);
    const item = { row, element, facets, summary, body, details, gist, result };
    details.addEventListener("toggle", () => { if (details.open) { fill(item); point(item); } });
    summary.addEventListener("focus", () => point(item));
    dress(item);
    steps.set(row.step, item);
    return item;
  };
  const dress = (item, excerpt) => {
    write(item.gist, shown(item.row.gist || ""));
    write(item.result, excerpt ?? shown(item.row.result || ""));
  };

  const link = (step) => {
    const element = make("a", "", String(step));
    element.href = `#step-${step}`;
    return element;
  };
  const note = (row, sign, title, meta) => {
    const element = make("li", `item note ${row.type}`);
    const head = make("p");
    head.append(make("i", `sign ${row.type}`, sign), make("strong", "", title));
    element.append(head);
    if (row.text) element.append(make("p", "said", shown(row.text)));
    const line = make("p", "meta");
    line.append(...meta);
    element.append(line);
    element.tabIndex = 0;
    const item = { row, element, facets: new Set([row.type === "alert" ? "alerts" : "guidance"]), summary: element };
    element.addEventListener("focus", () => point(item));
    const step = steps.get(row.step);
    if (step) step.facets.add(row.type === "alert" ? "alerts" : "guidance");
    return item;
  };
  const alertItem = (row) => {
    const meta = [`${row.kind} · ${clock(row.at)} · ${row.answered ? "answered" : "no answer applied"}`];
    if ((row.evidence || []).length) {
      meta.push(" · see steps ");
      row.evidence.forEach((step, i) => meta.push(i ? ", " : "", link(step)));
    }
    return note(row, "▼", `${shown(row.name)} ${(row.value ?? 0).toFixed(2)} after step ${row.step}`, meta);
  };
  const guidanceItem = (row) => {
    const [asked, delivered, applied] = row.waits;
    const meta = [row.kind];
    if (asked !== null) meta.push(` · replied ${time(asked)} after the alert at step `, link(row.alert));
    meta.push(` · delivered ${time(delivered)}, applied ${time(applied)} after the reply`);
    return note(row, "●", `${shown(row.by)}, applied after step ${row.step}`, meta);
  };
  const plainItem = (row) => {
    const attempt = row.type === "attempt";
    const score = row.value === null || row.value === undefined ? "" : `, score ${row.value.toFixed(1)}`;
    const text = attempt
      ? `attempt ${row.name} on ${row.text}, ${clock(row.at)}`
      : `${row.name} after ${count(row.step)} steps${score}${row.text ? `: ${row.text}` : ""}`;
    const element = make("li", `item ${attempt ? "turn" : "end"}`, shown(text));
    return { row, element, facets: new Set(), summary: null };
  };
  const summaryItem = (row) => {
    const element = make("li", "item note summary"), details = make("details"), head = make("summary");
    const took = [row.by ? `by ${shown(row.by)}` : "", row.took ? time(row.took) : "", money(row.cost)].filter(Boolean).join(" · ");
    head.append(make("i", "sign summary", "≡"), make("strong", "", `Summary ${row.name} took the place of steps 1 to ${count(row.left)}`),
      make("span", "aside", ` after step ${count(row.step)} · ${took}`));
    details.append(head, make("pre", "prose", shown(row.text || "")));
    element.append(details);
    const item = { row, element, facets: new Set(["summaries"]), summary: head };
    head.addEventListener("focus", () => point(item));
    return item;
  };
  const snapshotItem = (row) => {
    const words = row.problem ? `no snapshot of the workspace: ${row.problem}` : `snapshot ${row.id.slice(0, 12)} of the workspace: ${row.text}`;
    return { row, element: make("li", `item turn${row.problem ? " warn" : ""}`, shown(words)), facets: new Set(), summary: null };
  };
  const build = { summary: summaryItem, snapshot: snapshotItem, step: stepItem, alert: alertItem, guidance: guidanceItem, attempt: plainItem, outcome: plainItem };

  // ---- where the reader is, in the picture
  const picture = byId("picture");
  const point = (item) => {
    state.here = item;
    for (const svg of picture.querySelectorAll("svg")) {
      let line = svg.querySelector(".here");
      if (!line) {
        line = document.createElementNS("http://www.w3.org/2000/svg", "line");
        line.setAttribute("class", "here");
        line.setAttribute("y1", "4");
        line.setAttribute("y2", "140");
        svg.append(line);
      }
      const left = +picture.dataset.left, width = svg.viewBox.baseVal.width - left - +picture.dataset.right;
      const x = left + width * (item.row.step - 0.5) / Math.max(+picture.dataset.steps, 1);
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
    }
  };
  picture.addEventListener("click", (event) => {
    const svg = event.target.closest("svg");
    if (!svg) return;
    const box = svg.getBoundingClientRect(), total = svg.viewBox.baseVal.width, left = +picture.dataset.left;
    const share = ((event.clientX - box.left) / box.width * total - left) / (total - left - +picture.dataset.right);
    const step = Math.min(Math.max(Math.ceil(share * +picture.dataset.steps), 1), +picture.dataset.steps);
    if (steps.has(step)) go(steps.get(step));
  });
  const go = (item) => {
    if (item.element.hidden) reset();
    const block = item.details?.open ? "start" : "center";
    item.element.scrollIntoView({ block });
    item.summary.focus({ preventScroll: true });
    requestAnimationFrame(() => item.element.scrollIntoView({ block })); // heights above are known now
  };

  // ---- what is shown
  const FACETS = [["errors", "Errors"], ["alerts", "Alerts"], ["guidance", "Guidance"], ["evaluations", "Evaluations"], ["summaries", "Summaries"], ["malformed", "Malformed"]];
  const chips = byId("chips");
  const chip = (facet, words, number) => {
    const button = make("button", "", `${words} `);
    button.type = "button";
    button.append(make("b", "", count(number)));
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => {
      if (!state.facets.delete(facet)) state.facets.add(facet);
      button.setAttribute("aria-pressed", String(state.facets.has(facet)));
      show();
    });
    chips.append(button);
  };
  const show = () => {
    let visible = 0;
    const all = !state.facets.size && !state.hits;
    for (const item of items) {
      const wanted = !state.facets.size || [...state.facets].some((facet) => item.facets.has(facet));
      const found = !state.hits || state.hits.has(item);
      item.element.hidden = !(wanted && found);
      if (!item.element.hidden && item.row.type === "step") visible += 1;
    }
    const left = items.some((item) => !item.element.hidden);
    byId("none").hidden = left;
    byId("state").textContent = all ? "" : `${count(visible)} of ${count(steps.size)} steps`;
  };
  const reset = () => {
    byId("query").value = "";
    state.facets.clear();
    for (const button of chips.children) button.setAttribute("aria-pressed", "false");
    search("");
  };
  const search = async (words) => {
    const round = state.round += 1;
    const had = state.query;
    state.query = words.trim() ? new RegExp(words.trim().replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "gi") : null;
    if (!state.query && !had) { show(); return; }
    if (!state.query) {
      state.hits = null;
      for (const item of steps.values()) dress(item);
      reopen();
      show();
      return;
    }
    const hits = new Set();
    for (const item of items) if (item.row.type !== "step" && has(item.element.textContent)) hits.add(item);
    let done = 0;
    for (const block of blocks) {
      const texts = await load(block);
      if (round !== state.round) return;
      texts.forEach((text, i) => {
        const item = steps.get(block.first + i + 1);
        if (!item) return;
        const excerpt = find(item.row, text);
        if (excerpt === null) return;
        hits.add(item);
        dress(item, excerpt || undefined);
      });
      done += 1;
      if (done % 8 === 0) {
        byId("state").textContent = `searching … ${Math.round(100 * done / blocks.length)} %`;
        await breathe();
        if (round !== state.round) return;
      }
    }
    state.hits = hits;
    reopen();
    show();
  };
  const has = (text) => { state.query.lastIndex = 0; return state.query.test(text); };
  const find = (row, texts) => { // null: nothing; "": it is in the line itself; else the words around it
    if (has(row.gist || "") || has(row.name || "")) return "";
    for (const text of [texts.observation, texts.answer, ...strings(texts.arguments)]) {
      state.query.lastIndex = 0;
      const match = state.query.exec(text);
      if (match) {
        const start = Math.max(0, match.index - 60);
        return shown((start ? "… " : "") + text.slice(start, match.index + 160)).replace(/\s+/g, " ");
      }
    }
    return null;
  };
  const strings = (value) => typeof value === "string" ? [value] : value && typeof value === "object" ? Object.values(value).flatMap(strings) : [String(value)];
  const reopen = () => { for (const item of steps.values()) if (item.details.open) fill(item); };

  // ---- keys
  const move = (way, facet) => {
    const from = state.here ? items.indexOf(state.here) : way > 0 ? -1 : items.length;
    for (let i = from + way; i >= 0 && i < items.length; i += way) {
      const item = items[i];
      const right = !facet || (item.facets.has(facet) && (item.row.type !== "step" || !["alerts", "guidance"].includes(facet)));
      if (!item.element.hidden && item.summary && right) { go(item); return; }
    }
  };
  const KEYS = {
    j: () => move(1), k: () => move(-1), g: () => move(1, "guidance"), G: () => move(-1, "guidance"),
    a: () => move(1, "alerts"), A: () => move(-1, "alerts"), e: () => move(1, "errors"), E: () => move(-1, "errors"),
    v: () => move(1, "evaluations"), V: () => move(-1, "evaluations"),
    f: () => { for (const item of steps.values()) item.details.open = false; },
    "/": () => byId("query").focus(), "?": () => byId("help").showModal(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
    if (event.key === "Escape") { reset(); byId("query").blur(); return; }
    if (event.target instanceof Element && event.target.matches("input")) return;
    const act = KEYS[event.key];
    if (act) { event.preventDefault(); act(); }
  });

  // ---- begin
  let waiting = 0;
  byId("query").addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => search(event.target.value), 180);
  });
  byId("keys").addEventListener("click", KEYS["?"]);
  byId("clear").addEventListener("click", reset);
  const follow = () => {
    const match = /^#step-(\d+)$/.exec(location.hash);
    const item = match && steps.get(+match[1]);
    if (item) { item.details.open = true; go(item); }
  };
  window.addEventListener("hashchange", follow);
  const begin = async () => {
    const rows = await unpack(byId("rows"));
    const list = byId("items");
    byId("bar").hidden = false;
    for (let start = 0; start < rows.length; start += 600) {
      const part = document.createDocumentFragment();
      for (const row of rows.slice(start, start + 600)) {
        const item = build[row.type](row);
        items.push(item);
        part.append(item.element);
      }
      list.append(part);
      if (start + 600 < rows.length) await breathe();
    }
    const labels = [...new Set(items.flatMap((item) => [...item.facets].filter((facet) => facet.startsWith("label: "))))].sort();
    for (const [facet, words] of [...FACETS, ...labels.map((facet) => [facet, facet.slice(7)])]) {
      const own = facet === "alerts" || facet === "guidance" ? items.filter((item) => item.row.type !== "step") : items;
      const number = own.filter((item) => item.facets.has(facet)).length;
      if (number) chip(facet, words, number);
    }
    document.documentElement.dataset.ready = "yes";
    follow();
  };
  begin().catch((error) => {
    byId("state").textContent = `The steps cannot be unpacked: ${error}`;
    byId("bar").hidden = false;
  });
})();
