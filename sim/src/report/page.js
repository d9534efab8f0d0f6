"use strict";
// The page is whole without this: here are zoom, a cursor that tells the time, faster hints, and a filter.
(() => {
  const root = document.documentElement, frame = document.querySelector(".frame");
  root.classList.add("scripted");
  const tools = document.getElementById("tools");
  const names = 112, seconds = [...document.querySelectorAll(".axis a")];
  let zoom = 1;

  const perSecond = () => {
    const style = frame.style;
    const step = seconds.length < 2 ? 1 : seconds[1].textContent - seconds[0].textContent;
    return parseFloat(style.getPropertyValue("--step")) / step * zoom;
  };
  const each = [...document.querySelectorAll(".band .body *")].map(el => ({
    el, x: parseFloat(el.getAttribute("x")), width: parseFloat(el.getAttribute("width")), path: el.tagName === "path",
  })).filter(it => it.path || !isNaN(it.x));
  const bodies = [...document.querySelectorAll(".band .body")].map(el => [el, parseFloat(el.getAttribute("width"))]);

  const setZoom = to => {
    const middle = (frame.scrollLeft + frame.clientWidth / 2 - names) / zoom;
    zoom = to;
    frame.style.setProperty("--zoom", zoom);
    for (const { el, x, width, path } of each) {
      if (path) { el.setAttribute("transform", `scale(${zoom} 1)`); continue; }
      el.setAttribute("x", x * zoom);
      if (!isNaN(width)) el.setAttribute("width", width * zoom);
    }
    for (const [el, width] of bodies) el.setAttribute("width", width * zoom);
    // Where seconds are too close, every so many is told.
    const every = [1, 2, 5, 10, 20, 50, 100].find(n => n * zoom * parseFloat(frame.style.getPropertyValue("--step")) > 28) || 200;
    frame.style.setProperty("--every", every);
    seconds.forEach((el, i) => { el.style.display = i % every ? "none" : ""; });
    frame.scrollLeft = middle * zoom + names - frame.clientWidth / 2;
  };
  const goTo = second => { frame.scrollLeft = second * perSecond() - (frame.clientWidth - names) / 2; };

  const add = (tag, text, act) => {
    const el = document.createElement(tag);
    el.textContent = text;
    if (act) el.addEventListener("click", act);
    tools.append(el, " ");
    return el;
  };
  add("span", "zoom");
  add("button", "fit", () => setZoom((frame.clientWidth - names) / parseFloat(frame.style.getPropertyValue("--width"))));
  for (const to of [0.5, 1, 2, 4, 8]) add("button", to + "×", () => setZoom(to));
  add("span", " go to second");
  const second = add("input", "");
  second.type = "number";
  second.setAttribute("aria-label", "second");
  second.addEventListener("input", () => { if (second.value) { goTo(+second.value); mark(+second.value); } });
  add("span", " show");
  for (const band of document.querySelectorAll(".band[id^=node-]")) {
    const label = add("label", ""), box = document.createElement("input");
    box.type = "checkbox";
    box.checked = true;
    box.style.width = "auto";
    box.addEventListener("change", () => { band.style.display = box.checked ? "" : "none"; });
    label.append(box, band.id.slice(5));
  }

  const cursor = document.createElement("div"), time = document.createElement("span");
  cursor.className = "cursor";
  cursor.append(time);
  cursor.hidden = true;
  document.querySelector(".lines").append(cursor);
  const mark = at => {
    cursor.hidden = false;
    cursor.style.setProperty("--x", at * perSecond() / zoom);
    time.textContent = at.toFixed(3) + " s";
  };
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);
  frame.addEventListener("pointermove", event => {
    const x = event.clientX - frame.getBoundingClientRect().left + frame.scrollLeft - names;
    if (x >= 0) mark(x / perSecond());
    const el = event.target.closest && event.target.closest(".body rect, .body use");
    if (el && el.firstElementChild) {
      // The hint of the browser would come late, and beside ours.
      el.dataset.tip = el.firstElementChild.textContent;
      el.firstElementChild.remove();
    }
    tip.hidden = !(el && el.dataset.tip);
    if (tip.hidden) return;
    tip.textContent = el.dataset.tip;
    tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
    tip.style.top = Math.min(event.clientY + 16, innerHeight - tip.offsetHeight - 8) + "px";
  });
  frame.addEventListener("pointerleave", () => { tip.hidden = true; });

  const open = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const details = target && target.closest("details");
    if (details && !details.open) { details.open = true; target.scrollIntoView({ block: "center" }); }
  };
  addEventListener("hashchange", open);
  open();
  frame.addEventListener("click", event => {
    const op = event.target.closest && event.target.closest("rect.op");
    const text = op && (op.dataset.tip || op.textContent);
    const number = text && /^#(\d+)/.exec(text);
    if (number && document.getElementById("o" + number[1])) location.hash = "o" + number[1];
  });

  const filter = document.getElementById("filter"), rows = [...document.querySelectorAll("#log tr")].slice(1);
  filter.addEventListener("input", () => {
    const wanted = filter.value.toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
})();
