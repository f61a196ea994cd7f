// A PDF as its pages: pictures of those in sight, words over them that can be selected, and marks.
import * as api from "./api.js";
import { h } from "./elements.js";

const GAP = 14; // between pages, in pixels
const SCALES = [0.5, 0.75, 1, 1.5, 2, 3, 4]; // pixels a point; few, so that pictures are found again
const measure = document.createElement("canvas").getContext("2d");
const FONT = "sans-serif";

export class PagesView {
  // `info` is the document, `part` the index of its PDF.
  constructor(box, info, part) {
    Object.assign(this, { box, info, part, pages: [], drawn: new Map(), marks: [], active: -1, zoom: 1, words: new Map() });
    this.paper = h("div", { class: "paper" });
    this.onscroll = () => this.draw();
    this.watcher = new ResizeObserver(() => this.place());
  }
  async open() {
    this.pages = (await api.getLayout(this.info.id, this.part)).pages;
    this.box.replaceChildren(this.paper);
    this.box.addEventListener("scroll", this.onscroll, { passive: true });
    this.watcher.observe(this.box);
    this.place();
    return this;
  }
  close() {
    this.watcher.disconnect();
    this.box.removeEventListener("scroll", this.onscroll);
  }
  // The text has been read meanwhile: words can be laid over the pages.
  ready(info) {
    this.info = info;
    for (const [number, page] of this.drawn) this.layWords(number, page);
  }
  get pixelsPerPoint() {
    const widest = Math.max(...this.pages.map((page) => page.width), 1);
    const room = Math.max(this.box.clientWidth - 2 * GAP, 120);
    return Math.min(room / widest, 2.2) * this.zoom;
  }
  setZoom(zoom) {
    this.zoom = zoom;
    this.place();
  }
  // Where each page begins; keeps what is in sight in sight.
  place() {
    const width = this.box.clientWidth;
    if (!width || !this.pages.length) return;
    const k = this.pixelsPerPoint;
    if (k === this.k && width === this.width) return;
    const at = this.k ? this.where() : null;
    Object.assign(this, { k, width });
    this.tops = [];
    let top = GAP;
    for (const page of this.pages) {
      this.tops.push(top);
      top += page.height * k + GAP;
    }
    const widest = Math.max(...this.pages.map((page) => page.width)) * k;
    this.paper.style.height = `${top}px`;
    this.paper.style.width = `${Math.max(widest + 2 * GAP, width)}px`;
    this.paper.style.setProperty("--k", k);
    for (const page of this.drawn.values()) page.element.remove();
    this.drawn.clear();
    if (at) this.box.scrollTop = this.tops[at.index] + at.share * this.pages[at.index].height * k;
    this.draw();
  }
  // The first page in sight and the share of it that is above.
  where() {
    const index = this.indexAt(this.box.scrollTop);
    return { index, share: (this.box.scrollTop - this.tops[index]) / (this.pages[index].height * this.k) };
  }
  indexAt(y) {
    let [low, high] = [0, this.tops.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.tops[middle] <= y) low = middle; else high = middle - 1;
    }
    return low;
  }
  get number() {
    return this.pages.length ? this.pages[this.indexAt(this.box.scrollTop + this.box.clientHeight / 3)].number : 1;
  }
  // Draws pages in sight and one on either side; takes the others away.
  draw() {
    if (!this.k) return;
    const first = Math.max(0, this.indexAt(this.box.scrollTop) - 1);
    const last = Math.min(this.pages.length - 1, this.indexAt(this.box.scrollTop + this.box.clientHeight) + 1);
    for (const [index, page] of this.drawn) {
      if (index >= first && index <= last) continue;
      page.element.remove();
      this.drawn.delete(index);
    }
    for (let index = first; index <= last; index += 1) if (!this.drawn.has(index)) this.drawPage(index);
    this.onmove?.();
  }
  get scale() {
    const wanted = this.k * Math.min(window.devicePixelRatio || 1, 2);
    return SCALES.find((scale) => scale >= wanted - 0.01) || SCALES.at(-1);
  }
  picture(index) {
    return api.pictureOf(this.info.id, this.part, this.pages[index].number, this.scale);
  }
  drawPage(index) {
    const page = this.pages[index];
    const picture = h("img", { src: this.picture(index), alt: "", decoding: "async", draggable: "false" });
    const layer = h("div", { class: "words" });
    const marks = h("div", { class: "marks", "aria-hidden": "true" });
    const element = h("div", { class: "page", role: "group", "aria-label": `Page ${page.number}`, "data-page": page.number }, picture, marks, layer);
    picture.addEventListener("load", () => element.classList.add("drawn"));
    picture.addEventListener("error", () => element.classList.add("broken"));
    element.style.top = `${this.tops[index]}px`;
    element.style.width = `${page.width * this.k}px`;
    element.style.height = `${page.height * this.k}px`;
    const one = { element, layer, marks };
    this.drawn.set(index, one);
    this.paper.append(element);
    this.drawMarks(index, one);
    this.layWords(index, one);
  }
  async layWords(index, one) {
    if (this.info.status !== "ready" || one.laid) return;
    one.laid = true;
    try {
      if (!this.words.has(index)) {
        const found = await api.getWords(this.info.id, this.part, this.pages[index].number);
        this.words.set(index, found);
      }
    } catch {
      one.laid = false; // the picture is there; its words can be had when it is drawn again
      return;
    }
    if (this.drawn.get(index) === one) one.layer.replaceChildren(...this.spans(this.words.get(index), this.pages[index]));
  }
  spans({ words, text, start = null }, page) {
    const letters = Array.from(text);
    const from = start ?? page.start ?? words[0]?.[0] ?? 0;
    return words.map(([begin, end, left, top, right, bottom], i) => {
      const word = letters.slice(begin - from, end - from).join("");
      // What stands between two words in the text stands behind the first: so it is when it is copied.
      const gap = i + 1 < words.length ? letters.slice(end - from, words[i + 1][0] - from).join("") : "";
      const size = Math.max(bottom - top, 1);
      const span = h("span", { "data-start": begin }, word + gap);
      measure.font = `${size}px ${FONT}`;
      span.style.left = `${left}px`;
      span.style.top = `${top}px`;
      span.style.fontSize = `${size}px`;
      span.style.transform = `scaleX(${(right - left) / (measure.measureText(word).width || 1)})`;
      return span;
    });
  }
  setMarks(marks, active) {
    Object.assign(this, { marks, active });
    for (const [index, one] of this.drawn) this.drawMarks(index, one);
  }
  drawMarks(index, one) {
    const { number } = this.pages[index];
    one.marks.replaceChildren(...this.marks.flatMap((mark, i) => (mark.rectangles || [])
      .filter((rectangle) => rectangle.page === number)
      .map((rectangle) => {
        const element = h("div", { class: `mark ${mark.kind}${i === this.active ? " on" : ""}`, "data-mark": i });
        const k = this.k;
        element.style.left = `${(rectangle.left - 1.5) * k}px`;
        element.style.top = `${(rectangle.top - 1) * k}px`;
        element.style.width = `${(rectangle.right - rectangle.left + 3) * k}px`;
        element.style.height = `${(rectangle.bottom - rectangle.top + 2) * k}px`;
        return element;
      })));
  }
  goToPage(number) {
    const index = this.pages.findIndex((page) => page.number === number);
    if (index < 0) return;
    this.box.scrollTop = this.tops[index] - GAP;
    this.draw();
  }
  // Brings a mark into sight, its first line a third from the top; false if it stands nowhere.
  async reveal(mark) {
    const first = mark.rectangles?.[0];
    const index = this.pages.findIndex((page) => page.number === (first ? first.page : mark.page));
    if (index < 0) return false;
    const y = this.tops[index] + (first ? first.top * this.k : 0);
    this.box.scrollTop = first ? y - this.box.clientHeight * 0.33 : y - GAP;
    if (first) this.box.scrollLeft = Math.max(0, first.left * this.k - this.box.clientWidth * 0.3);
    this.draw();
    return Boolean(first);
  }
  // Gets pictures of pages that will be wanted soon.
  prepare(marks) {
    for (const mark of marks) {
      const page = mark.rectangles?.[0]?.page ?? mark.page;
      const index = this.pages.findIndex((one) => one.number === page);
      if (index >= 0 && !this.drawn.has(index)) new Image().src = this.picture(index);
    }
  }
}
