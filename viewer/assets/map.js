// The map of view.py: thousands of points drawn into pixels directly, because a frame of 50,000 must not need a graphics card.
// Dash tells what to draw (scene, visible groups); the map tells what was pointed at (dash_clientside.set_props).
"use strict";
(() => {
  const SHAPES = [  // symbol: does it cover (u, v), both from -1 to 1? The same eight as .symbol-N in view.css.
    (u, v) => u * u + v * v <= 1,
    (u, v) => Math.max(Math.abs(u), Math.abs(v)) <= 0.86,
    (u, v) => Math.abs(u) + Math.abs(v) <= 1.15,
    (u, v) => v <= 0.8 && v >= -1 + 2 * Math.abs(u),
    (u, v) => Math.min(Math.abs(u), Math.abs(v)) <= 0.36 && Math.max(Math.abs(u), Math.abs(v)) <= 1,
    (u, v) => Math.min(Math.abs(u + v), Math.abs(u - v)) <= 0.5 && Math.max(Math.abs(u), Math.abs(v)) <= 0.9,
    (u, v) => u * u + v * v <= 1.1 && u * u + v * v >= 0.36,
    (u, v) => Math.max(Math.abs(u), Math.abs(v)) <= 0.92 && Math.max(Math.abs(u), Math.abs(v)) >= 0.5,
  ];
  const DEPTHS = 4, ZOOM = 1.25, NEAR = 14, PAD = 36;  // PAD: pixels around the picture, so that a symbol at its edge needs no clipping
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const maps = {};
  const shared = {visible: null, hidden: new Set(), names: [], focus: null, near: [], selected: null};  // selected: {rows, keys} of crops, and the map where they were
  const decode = (text, Type) => new Type(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const mix = (a, b, share) => a.map((v, at) => Math.round(v + (b[at] - v) * share));
  const pack = (c) => (255 << 24 | c[2] << 16 | c[1] << 8 | c[0]) >>> 0;
  const tell = (id, data) => window.dash_clientside.set_props(id, {data: {...data, at: Date.now()}});
  const redrawAll = () => Object.values(maps).forEach((map) => map.redraw());

  class EmbeddingMap {
    constructor(box) {
      this.box = box;
      box.replaceChildren();
      const add = (tag, name) => box.appendChild(Object.assign(document.createElement(tag), {className: name}));
      this.points = add("canvas", "points");
      this.marks = add("canvas", "marks");
      this.tip = add("div", "tip");
      this.tip.hidden = true;
      this.tool = (document.querySelector("#tool-lasso[aria-pressed=true]") ? "lasso" : "move");
      this.pointers = new Map();
      this.frames = [];
      this.tick = this.tick.bind(this);
      for (const [name, handler] of Object.entries({pointerdown: this.down, pointermove: this.move, pointerup: this.up,
        pointercancel: this.up, wheel: this.wheel, keydown: this.key, dblclick: this.reset}))
        box.addEventListener(name, handler.bind(this), {passive: false});
      box.addEventListener("pointerleave", () => this.hover(-1));
      new ResizeObserver(() => this.redraw()).observe(box);
    }

    show(scene) {
      const old = this.scene;
      this.scene = scene;
      this.n = scene.n;
      this.rows = decode(scene.rows, Int32Array);
      this.keys = decode(scene.keys, Int32Array);
      this.groups = decode(scene.groups, Uint8Array);
      this.x = decode(scene.x, Float32Array);
      this.y = decode(scene.y, Float32Array);
      this.z = scene.three ? decode(scene.z, Float32Array) : new Float32Array(this.n);
      this.px = new Float32Array(this.n);
      this.py = new Float32Array(this.n);
      this.depth = new Uint8Array(this.n);
      this.at = -1;
      if (!old || old.frame !== scene.frame) this.reset();
      this.redraw();
    }

    reset() {
      Object.assign(this, {scale: 1, dx: 0, dy: 0, yaw: 0.6, pitch: 0.45});
      this.redraw();
    }

    redraw() {
      if (!this.waiting && this.scene) this.waiting = requestAnimationFrame(this.tick);
    }

    tick() {
      this.waiting = 0;
      const start = performance.now();
      this.draw();
      this.overlay();
      this.frames.push(performance.now() - start);
      if (this.frames.length > 500) this.frames.shift();
    }

    size() {
      const ratio = Math.min(window.devicePixelRatio || 1, 2);
      const width = Math.round(this.box.clientWidth * ratio), height = Math.round(this.box.clientHeight * ratio);
      for (const canvas of [this.points, this.marks])
        if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
      return [width, height, ratio];
    }

    // Place every point: coordinates come scaled to -1..1; the third axis is turned to the eye and seen in perspective.
    place(width, height) {
      const half = 0.46 * Math.min(width, height) * this.scale;
      const cx = width / 2 + this.dx * width, cy = height / 2 + this.dy * height;
      const {n, x, y, z, px, py, depth} = this;
      if (!this.scene.three) {
        const wide = 0.46 * width * this.scale, high = 0.46 * height * this.scale;
        for (let i = 0; i < n; i++) { px[i] = cx + x[i] * wide; py[i] = cy - y[i] * high; depth[i] = 0; }
        this.project = (p) => [cx + p[0] * wide, cy - p[1] * high];
        return;
      }
      const a = Math.cos(this.yaw), b = Math.sin(this.yaw), c = Math.cos(this.pitch), d = Math.sin(this.pitch);
      for (let i = 0; i < n; i++) {
        const u = a * x[i] + b * z[i], w = a * z[i] - b * x[i];
        const v = c * y[i] - d * w, far = c * w + d * y[i];
        const s = 0.62 * half * 3.2 / (3.2 + far);
        px[i] = cx + u * s; py[i] = cy - v * s;
        depth[i] = Math.max(0, Math.min(255, 128 + far * 85));
      }
      this.project = (p) => {
        const u = a * p[0] + b * p[2], w = a * p[2] - b * p[0], s = 0.62 * half * 3.2 / (3.2 + c * w + d * p[1]);
        return [cx + u * s, cy - (c * p[1] - d * w) * s];
      };
    }

    draw() {
      const [width, height, ratio] = this.size();
      if (!width || !height) return;
      this.place(width, height);
      const back = rgb(getComputedStyle(this.box).getPropertyValue("--canvas").trim());
      const stride = width + 2 * PAD, rows = height + 2 * PAD;
      if (!this.pixels || this.pixels.width !== stride || this.pixels.height !== rows) this.pixels = new ImageData(stride, rows);
      const buffer = new Uint32Array(this.pixels.data.buffer);
      buffer.fill(pack(back));
      const radius = ratio * (this.box.clientWidth < 450 ? 0.8 : 1) * (this.n > 20000 ? 2.2 : this.n > 5000 ? 2.9 : this.n > 1500 ? 3.8 : 5) * Math.min(1.8, Math.max(1, Math.sqrt(this.scale)));
      const sprites = this.sprites(radius, stride, back);
      const {px, py, groups, depth} = this, visible = shared.visible, selected = shared.selected;
      const order = this.order(), rear = this.scene.palette.map((group) => group.rear);
      for (const [pass, back] of [[0, true], [0, false], [1, true], [1, false]]) {  // what is not selected, and OTHER, lies below
        if (pass === 0 && !selected) continue;
        for (let at = 0; at < this.n; at++) {
          const i = order ? order[at] : at, group = groups[i];
          if (rear[group] !== back || visible && !visible[group]) continue;
          if (selected && this.chosen(i) !== (pass === 1)) continue;
          const gx = Math.round(px[i]) + PAD, gy = Math.round(py[i]) + PAD;
          if (gx < PAD / 2 || gy < PAD / 2 || gx >= stride - PAD / 2 || gy >= rows - PAD / 2) continue;
          const sprite = sprites[(group * DEPTHS + (depth[i] * DEPTHS >> 8)) * 2 + pass];
          const base = gy * stride + gx, {offsets, inks} = sprite;
          for (let k = 0; k < offsets.length; k++) buffer[base + offsets[k]] = inks[k];
        }
      }
      const context = this.points.getContext("2d");
      context.putImageData(this.pixels, -PAD, -PAD);
    }

    // Far points first; a counting sort, as there are only 256 depths.
    order() {
      if (!this.scene.three) return null;
      const start = new Uint32Array(257), {depth} = this, order = new Uint32Array(this.n);
      for (let i = 0; i < this.n; i++) start[256 - depth[i]]++;
      for (let k = 1; k < 257; k++) start[k] += start[k - 1];
      const next = new Uint32Array(257);
      next.set(start.subarray(0, 256), 1);
      for (let i = 0; i < this.n; i++) order[next[256 - depth[i]]++] = i;
      return order;
    }

    // The pixels of every symbol in its colour: a rim in the ground's colour keeps neighbours apart.
    sprites(radius, stride, back) {
      const key = [radius.toFixed(1), stride, back, dark.matches].join();
      if (this.made && this.made.key === key && this.made.scene === this.scene) return this.made.list;
      const made = [];
      this.scene.palette.forEach((group) => {
        const ink = rgb(dark.matches ? group.dark : group.light);
        for (let depth = 0; depth < DEPTHS; depth++) for (const pass of [0, 1]) {
          const far = this.scene.three ? depth / DEPTHS : 0;
          const color = mix(pass ? ink : mix(ink, back, 0.8), back, 0.5 * far);
          const r = radius * (1 - 0.35 * far) * (pass ? 1 : 0.8);
          const offsets = [], inks = [], reach = Math.min(PAD / 2 - 1, Math.ceil(r));
          for (let dy = -reach; dy <= reach; dy++) for (let dx = -reach; dx <= reach; dx++) {
            let cover = 0;
            for (let s = 0; s < 16; s++) cover += SHAPES[group.symbol]((dx + (s % 4) / 4 - 0.375) / r, (dy + (s >> 2) / 4 - 0.375) / r);
            if (cover < 4) continue;
            offsets.push(dy * stride + dx);
            inks.push(pack(mix(back, color, Math.min(1, cover / 14))));
          }
          made.push({offsets, inks});
        }
      });
      this.made = {key, scene: this.scene, list: made};
      return made;
    }

    // Marks above the points: the frame of a solid map, the chosen point and its neighbours, the cursor, the lasso.
    overlay() {
      const context = this.marks.getContext("2d"), ratio = this.marks.width / Math.max(1, this.box.clientWidth);
      const style = getComputedStyle(this.box), ink = style.getPropertyValue("--ink"), line = style.getPropertyValue("--dot");
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.clearRect(0, 0, this.marks.width, this.marks.height);
      context.lineWidth = ratio;
      if (this.scene.three) {
        context.strokeStyle = line; context.globalAlpha = 0.45;
        const corners = [...Array(8).keys()].map((c) => this.project([c & 1 ? 1 : -1, c & 2 ? 1 : -1, c & 4 ? 1 : -1]));
        context.beginPath();
        for (let c = 0; c < 8; c++) for (const bit of [1, 2, 4]) if (!(c & bit)) { context.moveTo(...corners[c]); context.lineTo(...corners[c | bit]); }
        context.stroke(); context.globalAlpha = 1;
      }
      const chosen = this.find(shared.focus);
      context.strokeStyle = ink; context.fillStyle = ink;
      if (chosen >= 0) {
        context.lineWidth = 1.2 * ratio; context.globalAlpha = 0.55;
        for (const one of shared.near) {
          const other = this.find(one);
          if (other < 0) continue;
          context.beginPath(); context.moveTo(this.px[chosen], this.py[chosen]); context.lineTo(this.px[other], this.py[other]); context.stroke();
          this.ring(context, other, 6.5 * ratio);
        }
        context.globalAlpha = 1; context.lineWidth = 2.5 * ratio;
        this.ring(context, chosen, 9 * ratio);
      }
      if (this.at >= 0) { context.lineWidth = 2 * ratio; context.setLineDash([4 * ratio, 3 * ratio]); this.ring(context, this.at, 11 * ratio); context.setLineDash([]); }
      if (this.lasso) {
        context.lineWidth = 2 * ratio; context.setLineDash([6 * ratio, 4 * ratio]);
        context.beginPath(); this.lasso.forEach(([x, y], at) => at ? context.lineTo(x, y) : context.moveTo(x, y)); context.closePath();
        context.stroke(); context.setLineDash([]); context.globalAlpha = 0.08; context.fill(); context.globalAlpha = 1;
      }
    }

    ring(context, i, r) { context.beginPath(); context.arc(this.px[i], this.py[i], r, 0, 7); context.stroke(); }

    // The place of {file, row, key}: the row itself, on another map the same crop.
    find(one) {
      if (!one) return -1;
      if (one.file === this.scene.file) { const i = this.rows.indexOf(one.row); if (i >= 0 && this.drawn(i)) return i; }
      const i = one.key === undefined ? -1 : this.keys.indexOf(one.key);
      return i >= 0 && this.drawn(i) ? i : -1;
    }

    // Is the point selected: the row itself, or on another map the same crop?
    chosen(i) {
      const {map, file, rows, keys} = shared.selected;
      return map === this.box.id && file === this.scene.file ? rows.has(this.rows[i]) : keys.has(this.keys[i]);
    }

    drawn(i) { return !shared.visible || shared.visible[this.groups[i]]; }

    spot(event) {
      const box = this.box.getBoundingClientRect(), ratio = this.points.width / Math.max(1, box.width);
      return [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio, ratio];
    }

    nearest(x, y, ratio) {
      let best = -1, least = (NEAR * ratio) ** 2;
      for (let i = 0; i < this.n; i++) {
        const distance = (this.px[i] - x) ** 2 + (this.py[i] - y) ** 2 + (this.scene.three ? this.depth[i] * 0.05 : 0);
        if (distance < least && this.drawn(i)) { least = distance; best = i; }
      }
      return best;
    }

    down(event) {
      if (event.button) return;
      event.preventDefault(); this.box.focus({preventScroll: true}); this.box.setPointerCapture(event.pointerId);
      const [x, y] = this.spot(event);
      this.pointers.set(event.pointerId, [x, y]);
      this.moved = 0;
      this.lasso = this.pointers.size === 1 && (this.tool === "lasso" || event.shiftKey) ? [[x, y]] : null;
    }

    move(event) {
      const [x, y, ratio] = this.spot(event), last = this.pointers.get(event.pointerId);
      if (!last) return event.pointerType === "touch" ? undefined : this.hover(this.nearest(x, y, ratio), event);
      const mx = x - last[0], my = y - last[1];
      this.moved += Math.abs(mx) + Math.abs(my);
      if (this.lasso) {  // a browser merges the moves of one frame into one event: a quick lasso keeps its corners by their list
        const merged = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
        for (const one of merged.length ? merged : [event]) this.lasso.push(this.spot(one).slice(0, 2));
      }
      else if (this.pointers.size === 2) {
        const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
        const before = Math.hypot(last[0] - other[0], last[1] - other[1]), after = Math.hypot(x - other[0], y - other[1]);
        this.zoom(after / Math.max(1, before), other[0], other[1]);
      } else if (this.scene.three && !event.ctrlKey) this.turn(mx / ratio / 160, my / ratio / 160);
      else this.shift(mx / this.points.width, my / this.points.height);
      this.pointers.set(event.pointerId, [x, y]);
      this.hover(-1);
      this.redraw();
    }

    up(event) {
      if (!this.pointers.delete(event.pointerId)) return;
      const [x, y, ratio] = this.spot(event), loop = this.lasso;
      this.lasso = null;
      if (this.moved < 5 * ratio && event.type === "pointerup") this.choose(this.nearest(x, y, ratio));
      else if (loop && loop.length > 2) this.enclose(loop);
      this.redraw();
    }

    shift(x, y) { this.dx += x; this.dy += y; }
    turn(x, y) { this.yaw += x; this.pitch = Math.max(-1.57, Math.min(1.57, this.pitch + y)); }

    zoom(factor, x, y) {
      const [width, height] = [this.points.width, this.points.height], old = this.scale;
      this.scale = Math.max(0.5, Math.min(200, this.scale * factor));
      const by = this.scale / old, cx = x / width - 0.5, cy = y / height - 0.5;
      this.dx = cx + (this.dx - cx) * by; this.dy = cy + (this.dy - cy) * by;
      this.redraw();
    }

    wheel(event) {
      event.preventDefault();
      const [x, y] = this.spot(event);
      this.zoom(Math.exp(-Math.max(-120, Math.min(120, event.deltaY)) / 500), x, y);
    }

    key(event) {
      const step = 0.05, {key} = event, arrow = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[key];
      if (event.ctrlKey || event.metaKey || event.altKey || !this.scene) return;
      if (arrow) this.scene.three ? this.turn(arrow[0] * 0.12, arrow[1] * 0.12) : this.shift(-arrow[0] * step, -arrow[1] * step);
      else if (key === "+" || key === "=") this.zoom(ZOOM, this.points.width / 2, this.points.height / 2);
      else if (key === "-") this.zoom(1 / ZOOM, this.points.width / 2, this.points.height / 2);
      else if (key === "0") this.reset();
      else if (key === "n" || key === "p") this.step(key === "n" ? 1 : -1);
      else if (key === "Enter" && this.at >= 0) this.choose(this.at);
      else if (key === "Escape") { select(null, []); this.hover(-1); }
      else return;
      event.preventDefault();
      this.redraw();
    }

    step(by) {
      for (let tried = 0, i = this.at; tried < this.n; tried++) {
        i = (i + by + this.n) % this.n;
        if (this.drawn(i) && (!shared.selected || this.chosen(i))) return this.hover(i);
      }
    }

    hover(i) {
      if (i === this.at) return;
      this.at = i;
      this.box.classList.toggle("pointing", i >= 0);
      clearTimeout(this.soon);
      this.tip.hidden = true;
      if (i >= 0) this.soon = setTimeout(() => this.describe(i), 40);
      for (const map of Object.values(maps)) if (map !== this && map.scene) map.at = i < 0 ? -1 : map.keys.indexOf(this.keys[i]);
      redrawAll();
    }

    async describe(i) {
      const file = this.scene.file, row = this.rows[i], answer = await fetch(`about/${file}/${row}`);
      if (!answer.ok || this.at !== i) return;
      const told = await answer.json(), add = (tag, text, name) => {
        const part = this.tip.appendChild(document.createElement(tag));
        part.textContent = text || ""; part.className = name || "";
        return part;
      };
      this.tip.replaceChildren();
      const picture = add("img"); picture.alt = ""; picture.src = `picture/${file}/${row}`; picture.onerror = () => picture.remove();
      add("b", told.label); told.lines.forEach(([text, name]) => add("span", text, name));
      this.tip.hidden = false;
      const ratio = this.points.width / Math.max(1, this.box.clientWidth), x = this.px[i] / ratio, y = this.py[i] / ratio;
      const [w, h] = [this.tip.offsetWidth, this.tip.offsetHeight], room = this.box.clientWidth - w - 6;
      this.tip.style.left = `${Math.max(6, Math.min(room, x + w + 26 > this.box.clientWidth ? x - w - 18 : x + 18))}px`;
      this.tip.style.top = `${Math.max(6, Math.min(this.box.clientHeight - h - 6, y - h / 2))}px`;
      const said = document.getElementById("said");
      if (said) said.textContent = [told.label, ...told.lines.map((line) => line[0])].join(", ");
    }

    choose(i) {
      if (i >= 0) tell("focus", {file: this.scene.file, row: this.rows[i], key: this.keys[i]});
    }

    enclose(loop) {
      const inside = new Set();
      for (let i = 0; i < this.n; i++) {
        if (!this.drawn(i)) continue;
        let odd = false;
        for (let a = 0, b = loop.length - 1; a < loop.length; b = a++) {
          const [ax, ay] = loop[a], [bx, by] = loop[b], x = this.px[i], y = this.py[i];
          if (ay > y !== by > y && x < (bx - ax) * (y - ay) / (by - ay) + ax) odd = !odd;
        }
        if (odd) inside.add(i);
      }
      select(this, [...inside]);
    }
  }

  function select(map, points) {
    const rows = points.map((i) => map.rows[i]), file = map && map.scene.file;
    shared.selected = points.length ? {map: map.box.id, file, rows: new Set(rows), keys: new Set(points.map((i) => map.keys[i]))} : null;
    tell("selection", {file, rows});
    redrawAll();
  }

  // The legend: a checkbox for each group; what is switched off stays off until another column gives the colours.
  function legend(told) {
    if (told.column !== shared.column) shared.hidden = new Set();
    Object.assign(shared, {column: told.column, names: told.groups.map((group) => group.name)});
    const box = document.getElementById("legend"), make = (tag, name, text) => Object.assign(document.createElement(tag), {className: name, textContent: text});
    box.replaceChildren(...told.groups.map((group) => {
      const label = make("label", "", ""), tick = make("input", "", ""), symbol = make("i", `symbol symbol-${group.symbol}`, "");
      Object.assign(tick, {type: "checkbox", checked: !shared.hidden.has(group.name)});
      tick.addEventListener("change", () => { shared.hidden[tick.checked ? "delete" : "add"](group.name); show(); });
      symbol.style.setProperty("--l", group.light); symbol.style.setProperty("--d", group.dark);
      const name = make("span", "name", group.name); name.title = group.name;
      label.append(tick, symbol, name, make("span", "count", group.count.toLocaleString("en")));
      return label;
    }));
    show();
  }

  function show() {
    shared.visible = shared.names.map((name) => !shared.hidden.has(name));
    document.querySelectorAll("#legend input").forEach((tick, at) => { tick.checked = shared.visible[at]; });
    redrawAll();
  }

  function tool(name) {
    for (const map of Object.values(maps)) map.tool = name;
    for (const one of ["move", "lasso"]) document.getElementById(`tool-${one}`).setAttribute("aria-pressed", String(one === name));
  }

  dark.addEventListener("change", redrawAll);
  for (const name of ["error", "load"])  // a picture that is not there says so, by view.css; they do not bubble
    document.addEventListener(name, (event) => { if (event.target.tagName === "IMG") event.target.classList.toggle("lost", name === "error"); }, true);
  document.addEventListener("click", (event) => {
    const go = event.target.closest("button[data-row]");
    if (go) {
      tab("tab-map");
      tell("focus", {file: Number(go.dataset.file), row: Number(go.dataset.row), key: Number(go.dataset.key)});
      if (!go.closest("#detail")) document.getElementById("detail").scrollIntoView({block: "nearest"});
      return;
    }
    const button = event.target.closest("button[id]"), act = button && button.id;
    const centre = (factor) => Object.values(maps).forEach((map) => map.zoom(factor, map.points.width / 2, map.points.height / 2));
    if (act === "tool-move" || act === "tool-lasso") tool(act.slice(5));
    else if (act === "zoom-in") centre(ZOOM);
    else if (act === "zoom-out") centre(1 / ZOOM);
    else if (act === "zoom-reset") Object.values(maps).forEach((map) => map.reset());
    else if (act === "clear") select(null, []);
    else if (act === "legend-all" || act === "legend-none") { shared.hidden = new Set(act === "legend-all" ? [] : shared.names); show(); }
    else if (act === "tab-map" || act === "tab-upload") tab(act);
  });
  document.addEventListener("keydown", (event) => {
    if (!event.target.matches || !event.target.matches("[role=tab]") || !/^Arrow(Left|Right)$/.test(event.key)) return;
    const tabs = [...document.querySelectorAll("[role=tab]")], next = tabs[(tabs.indexOf(event.target) + 1) % tabs.length];
    tab(next.id); next.focus();
  });

  function tab(id) {
    document.querySelectorAll("[role=tab]").forEach((one) => {
      const on = one.id === id;
      one.setAttribute("aria-selected", String(on)); one.tabIndex = on ? 0 : -1;
      document.getElementById(one.getAttribute("aria-controls")).hidden = !on;
    });
    redrawAll();
  }

  // Upload: the picture goes to this page's own server, and nowhere else.
  const MOST = 20 * 1024 * 1024;
  function uploader(box) {
    box.innerHTML = '<label class="drop"><input type="file" id="upload-file" class="sr" accept="image/*"><b>Choose a picture</b><span>or drop it here, or paste it. Up to 20 MB; it is compared on this machine and not kept.</span></label>';
    const input = box.querySelector("input"), drop = box.querySelector("label");
    const take = (file) => {
      if (!file) return;
      const say = (text) => { document.getElementById("upload-said").textContent = text; };
      if (file.size > MOST) { window.dash_clientside.set_props("upload-found", {children: []}); return say(`${file.name} has ${(file.size / 1048576).toFixed(1)} MB; choose a picture of at most 20 MB.`); }
      const reader = new FileReader();
      reader.onload = () => { say(`Comparing ${file.name} … the first picture takes some seconds, as the model has to be loaded.`); tell("upload", {name: file.name, content: String(reader.result).split(",")[1] || ""}); };
      reader.onerror = () => say(`${file.name} cannot be read; choose another picture.`);
      reader.readAsDataURL(file);
    };
    input.addEventListener("change", () => { take(input.files[0]); input.value = ""; });
    for (const name of ["dragenter", "dragover", "dragleave", "drop"]) drop.addEventListener(name, (event) => {
      event.preventDefault(); drop.classList.toggle("over", name === "dragenter" || name === "dragover");
      if (name === "drop") take(event.dataTransfer.files[0]);
    });
    document.addEventListener("paste", (event) => { if (!document.getElementById("panel-upload").hidden) take(event.clipboardData.files[0]); });
  }

  window.embeddingMaps = maps;
  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    view: {
      show: (scene, id) => {
        const box = document.getElementById(id), drop = document.getElementById("drop");
        if (drop && !drop.firstChild) uploader(drop);
        if (!scene || !box) { if (box) delete maps[id]; return ""; }
        if (!maps[id] || maps[id].box !== box) maps[id] = new EmbeddingMap(box);
        maps[id].show(scene);
        return "";
      },
      legend: (told) => { if (told) legend(told); return ""; },
      mark: (near, focus) => { shared.focus = focus; shared.near = near || []; redrawAll(); return ""; },
    },
  });
})();
