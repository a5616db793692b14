const data = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const colours = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7b61b8", "#8c6d31", "#4c9f50", "#c44e52", "#3aa6a6", "#a05195"];
const noise = "#9aa3ad";
const plots = [];

function colourOf(name) { return getComputedStyle(root).getPropertyValue(name).trim(); }

function layoutOf(extra) {
  const axis = { showgrid: false, zeroline: false, showticklabels: false, fixedrange: false };
  return Object.assign({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colourOf("--ink"), size: 13 },
    margin: { l: 10, r: 10, t: 10, b: 10 }, showlegend: false, hovermode: "closest", dragmode: "pan",
    hoverlabel: { align: "left", font: { size: 13 } }, xaxis: { ...axis }, yaxis: { ...axis, scaleanchor: "x" },
  }, extra || {});
}

function draw(id, traces, layout) {
  const place = document.getElementById(id);
  if (!place) return null;
  Plotly.newPlot(place, traces, layout, { responsive: true, displaylogo: false, scrollZoom: true, modeBarButtonsToRemove: ["lasso2d", "select2d"] });
  plots.push(place);
  return place;
}

function wrapped(text) {
  const escaped = text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  return (escaped.match(/.{1,70}(\s|$)|\S{70}/g) || [escaped]).map((line) => line.trim()).slice(0, 6).join("<br>");
}

// Points of a map: one trace, so that ten thousand stay fluent.
function mapOf(id, x, y) {
  const hover = data.clusters.map((cluster, i) => {
    const name = `<b>${wrapped(data.names[cluster])}</b>`;
    return data.texts ? `${name}<br>${wrapped(data.texts[i])}` : name;
  });
  const marker = { color: data.clusters.map(colourAt), size: data.clusters.length > 3000 ? 4 : 6, opacity: 0.8, line: { width: 0 } };
  return draw(id, [{ type: "scattergl", mode: "markers", x, y, marker, text: hover, hovertemplate: "%{text}<extra></extra>" }], layoutOf());
}

function colourAt(cluster) { return cluster < 0 ? noise : colours[cluster % colours.length]; }

function highlight(chosen) {
  const some = chosen !== null;
  const opacity = data.clusters.map((_, i) => (!some ? 0.8 : chosen.has(i) ? 1 : 0.08));
  const size = data.clusters.map((_, i) => (some && chosen.has(i) ? 9 : data.clusters.length > 3000 ? 4 : 6));
  plots.filter((place) => place.dataset.map).forEach((place) => Plotly.restyle(place, { "marker.opacity": [opacity], "marker.size": [size] }));
}

function setUpSearch() {
  const search = document.getElementById("search"), theme = document.getElementById("theme"), found = document.getElementById("found");
  const list = document.getElementById("matches");
  if (!theme) return;
  const lower = data.texts ? data.texts.map((text) => text.toLowerCase()) : null;
  let waiting;
  const apply = () => {
    const wanted = search ? search.value.trim().toLowerCase() : "", cluster = theme.value;
    if (!wanted && cluster === "") { highlight(null); found.textContent = ""; list.replaceChildren(); return; }
    const chosen = new Set();
    data.clusters.forEach((own, i) => {
      if ((cluster === "" || String(own) === cluster) && (!wanted || lower[i].includes(wanted))) chosen.add(i);
    });
    highlight(chosen);
    found.textContent = `${chosen.size.toLocaleString("en")} of ${data.clusters.length.toLocaleString("en")} texts`;
    list.replaceChildren(...(data.texts ? [...chosen].slice(0, 8) : []).map((i) => {
      const item = document.createElement("li");
      item.textContent = data.texts[i];
      return item;
    }));
  };
  const later = () => { clearTimeout(waiting); waiting = setTimeout(apply, 150); };
  if (search) search.addEventListener("input", later);
  theme.addEventListener("change", apply);
}

// Columns sort by a click on their heading; rows are filtered by words.
function setUpTables() {
  document.querySelectorAll("table[data-sortable]").forEach((table) => {
    const body = table.tBodies[0], headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      const button = heading.querySelector("button");
      if (!button) return;
      button.addEventListener("click", () => {
        const up = heading.getAttribute("aria-sort") !== "ascending";
        headings.forEach((other) => other.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", up ? "ascending" : "descending");
        const value = (row) => row.cells[column].dataset.value || row.cells[column].textContent;
        const numeric = heading.classList.contains("number");
        const compare = numeric ? (a, b) => Number(value(a)) - Number(value(b)) : (a, b) => value(a).localeCompare(value(b));
        body.append(...[...body.rows].sort((a, b) => (up ? compare(a, b) : compare(b, a))));
      });
    });
    const filter = document.getElementById(table.dataset.filter);
    if (filter) filter.addEventListener("input", () => {
      const wanted = filter.value.trim().toLowerCase();
      [...body.rows].forEach((row) => { row.hidden = !row.textContent.toLowerCase().includes(wanted); });
    });
  });
}

// A sequential test like that of kedro ask: when do answers decide, and for which side?
function decision(answers, weight, bound) {
  let evidence = 0;
  for (const answer of answers) {
    evidence += weight * ((answer === "adapted") - (answer === "base"));
    if (Math.abs(evidence) >= bound) return evidence > 0 ? "adapted" : "base";
  }
  return null;
}

function setUpQuestions() {
  const asked = data.asked;
  if (!asked) return;
  const { questions, weight, bound, words } = asked, choices = [];
  const part = (name) => document.getElementById(`judge-${name}`);
  const section = part("open").closest("section"), buttons = [...section.querySelectorAll("[data-choice]")];
  const sides = () => choices.map((choice, i) => {
    const first = questions[i].first_is, other = first === "base" ? "adapted" : "base";
    return choice === "neither" ? "neither" : choice === "first" ? first : other;
  });
  const show = () => {
    const question = questions[choices.length];
    part("count").textContent = `Question ${choices.length + 1} of at most ${questions.length}`;
    part("text").textContent = question.text;
    buttons.forEach((button) => {
      if (button.dataset.choice !== "neither") button.querySelector("span").textContent = question[button.dataset.choice];
    });
    // A disabled button would lose the focus, and with it the keys.
    if (!choices.length && [part("back"), part("stop")].includes(document.activeElement)) buttons[0].focus();
    part("back").disabled = part("stop").disabled = !choices.length;
  };
  const close = () => {
    const answers = sides(), count = (side) => answers.filter((answer) => answer === side).length;
    const counted = words.counted.replace(/\{(\w+)\}/g, (_, side) => count(side)), better = decision(answers, weight, bound);
    part("result").textContent = better ? `${counted[0].toUpperCase()}${counted.slice(1)}: ${words[better]}.` : `${counted[0].toUpperCase()}${counted.slice(1)}, ${words.undecided}.`;
    part("open").hidden = true;
    part("closed").hidden = false;
    part("closed").focus();
  };
  const answer = (choice) => {
    choices.push(choice);
    if (choices.length === questions.length || decision(sides(), weight, bound)) close(); else show();
  };
  buttons.forEach((button) => button.addEventListener("click", () => answer(button.dataset.choice)));
  part("back").addEventListener("click", () => { choices.pop(); show(); });
  part("stop").addEventListener("click", close);
  part("open").addEventListener("keydown", (event) => {
    const choice = { a: "first", b: "second", n: "neither" }[event.key.toLowerCase()];
    if (choice && !event.repeat && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); answer(choice); }
  });
  part("download").addEventListener("click", () => {
    const rows = questions.map((question, i) => (i < choices.length ? { ...question, answer: choices[i] } : question));
    save(JSON.stringify({ adapter: asked.adapter, questions: rows }, null, 2) + "\n", "application/json", asked.file);
  });
  show();
}

function save(content, type, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

function useTheme(theme) {
  root.dataset.theme = theme;
  document.getElementById("dark").setAttribute("aria-pressed", String(theme === "dark"));
  plots.forEach((place) => Plotly.relayout(place, { "font.color": colourOf("--ink") }));
}

function setUpTheme() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  useTheme(system.matches ? "dark" : "light");
  system.addEventListener("change", () => useTheme(system.matches ? "dark" : "light"));
  document.getElementById("dark").addEventListener("click", () => useTheme(root.dataset.theme === "dark" ? "light" : "dark"));
}

// On paper: light, and nothing folded.
function setUpPrint() {
  const media = matchMedia("print"), folded = [];
  let theme;
  const before = () => {
    if (theme) return;
    theme = root.dataset.theme;
    useTheme("light");
    folded.push(...document.querySelectorAll("details:not([open])"));
    folded.forEach((part) => { part.open = true; });
  };
  const after = () => {
    if (!theme) return;
    useTheme(theme);
    folded.splice(0).forEach((part) => { part.open = false; });
    theme = undefined;
  };
  addEventListener("beforeprint", before);
  addEventListener("afterprint", after);
  media.addEventListener("change", () => (media.matches ? before() : after()));
}

setUpTheme();
setUpTables();
setUpPrint();
