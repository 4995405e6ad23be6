"use strict";
// Hover values: each chart has marks ("x,y x,y ...", "-" for none) and its figure their texts, in the same order; a confusion
// matrix has a grid ("start,side of a cell") and its figure class names and cells (row, column, count).
(() => {
  const tip = document.getElementById("tip");
  const said = document.getElementById("said");
  const hide = () => { tip.hidden = true; document.querySelectorAll(".cursor").forEach((ring) => ring.remove()); };

  const show = (chart, mark, loud) => {
    hide();
    const ring = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    ring.setAttribute("class", "cursor");
    ring.setAttribute("cx", mark.x);
    ring.setAttribute("cy", mark.y);
    ring.setAttribute("r", mark.r);
    chart.append(ring);
    tip.textContent = mark.text;
    tip.hidden = false;
    const at = ring.getBoundingClientRect();
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    const left = Math.max(8, Math.min(at.left + at.width / 2 - tip.offsetWidth / 2, room));
    const above = at.top - tip.offsetHeight - 8;
    tip.style.left = left + scrollX + "px";
    tip.style.top = (above > 4 ? above : at.bottom + 8) + scrollY + "px";
    if (loud) said.textContent = mark.text;
  };

  const spots = (chart, values) => {
    if (!chart.dataset.grid) return chart.dataset.marks.split(" ").map((pair) => pair === "-" ? null : point(pair.split(",").map(Number)));
    const [start, side] = chart.dataset.grid.split(",").map(Number);
    return values.cells.map(([row, column]) => point([start + (column + 0.5) * side, start + (row + 0.5) * side], Math.max(side / 2, 6)));
  };
  const point = ([x, y], r = 8) => ({ x, y, r });

  const ofMatrix = ({ names, cells }) => {
    const images = names.map(() => 0);
    for (const [row, , count] of cells) images[row] += count;
    const number = (value) => value.toLocaleString("en");
    return cells.map(([row, column, count]) => row === column
      ? `${names[row]}: ${number(count)} of ${number(images[row])} ${images[row] === 1 ? "image" : "images"} right`
      : `${names[row]} taken for ${names[column]}: ${number(count)} ${count === 1 ? "time" : "times"}`);
  };

  for (const figure of document.querySelectorAll("figure.hover")) {
    const values = JSON.parse(figure.querySelector(".texts").textContent);
    const texts = Array.isArray(values) ? values : ofMatrix(values);
    const reach = Number(figure.dataset.reach);
    for (const chart of figure.querySelectorAll("svg[data-marks], svg[data-grid]")) {
      const marks = spots(chart, values).flatMap((mark, index) => mark ? [{ ...mark, text: texts[index] }] : []);
      let current = -1;
      const pick = (index, loud) => { current = index; show(chart, marks[index], loud); };
      const nearest = (event) => {
        const inside = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
        const far = (mark) => Math.hypot(mark.x - inside.x, mark.y - inside.y);
        const best = marks.reduce((found, mark, index) => (far(mark) < far(marks[found]) ? index : found), 0);
        return far(marks[best]) <= reach ? best : -1;
      };
      chart.addEventListener("pointermove", (event) => {
        const index = nearest(event);
        if (index < 0) hide(); else pick(index, false);
      });
      chart.addEventListener("pointerleave", hide);
      chart.addEventListener("blur", hide);
      chart.addEventListener("focus", () => { if (chart.matches(":focus-visible")) pick(Math.max(current, 0), true); });
      chart.addEventListener("keydown", (event) => {
        const moves = { ArrowRight: current + 1, ArrowDown: current + 1, ArrowLeft: current - 1, ArrowUp: current - 1,
          Home: 0, End: marks.length - 1 };
        if (event.key === "Escape") hide();
        if (!(event.key in moves)) return;
        event.preventDefault();
        pick(Math.min(Math.max(moves[event.key], 0), marks.length - 1), true);
      });
    }
  }

  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.addEventListener("click", async () => {
      const source = document.getElementById(button.dataset.copy);
      try {
        await navigator.clipboard.writeText(source.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(source); // no clipboard here: the reader presses the keys
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }
})();
