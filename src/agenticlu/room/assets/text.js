// A text as it was read, in chunks: those in sight and near are fetched, the others keep their room.
import * as api from "./api.js";
import { frame, h, length, slicer } from "./elements.js";

const CHUNK = 6000; // characters
const TAIL = 1500; // a chunk ends with the line that it breaks, if that ends within so many
const CODE = /\.(c|cc|cpp|h|hpp|css|csv|go|java|js|json|jsonl|kt|lua|mjs|php|pl|py|r|rb|rs|sh|sql|swift|toml|ts|tsv|xml|yaml|yml)$/i;

export class TextView {
  // `part` is that of the document which is shown.
  constructor(box, info, part) {
    Object.assign(this, { box, info, part, marks: [], active: -1, chunks: [], pages: [], zoom: 1 });
    this.from = part.start;
    this.to = part.end;
    this.paper = h("div", { class: `reading${CODE.test(part.name) ? " code" : ""}` });
    this.watcher = new IntersectionObserver((seen) => {
      for (const one of seen) if (one.isIntersecting) this.load(Number(one.target.dataset.chunk));
    }, { root: box, rootMargin: "1200px 0px" });
    this.onscroll = () => this.onmove?.();
  }
  async open() {
    const { pages } = await api.getLayout(this.info.id, this.part.index);
    this.pages = pages.filter((page) => page.start < this.to);
    this.box.replaceChildren(this.paper);
    this.box.addEventListener("scroll", this.onscroll, { passive: true });
    const num = Math.max(1, Math.ceil((this.to - this.from) / CHUNK));
    const perLine = Math.max(20, Math.min(72, this.box.clientWidth / 9));
    for (let index = 0; index < num; index += 1) {
      const element = h("div", { class: "chunk", "data-chunk": index });
      const size = Math.min(CHUNK, this.to - this.from - index * CHUNK);
      element.style.minHeight = `${Math.round((size / perLine) * 28)}px`;
      this.chunks.push({ element, loading: null, text: null });
    }
    this.paper.replaceChildren(...this.chunks.map((chunk) => chunk.element));
    for (const chunk of this.chunks) this.watcher.observe(chunk.element);
    if (this.to <= this.from) this.paper.append(h("p", { class: "quiet" }, "There is no text in it."));
    return this;
  }
  close() {
    this.watcher.disconnect();
    this.box.removeEventListener("scroll", this.onscroll);
  }
  ready() {}
  setZoom(zoom) {
    this.zoom = zoom;
    this.paper.style.fontSize = `${zoom}em`;
  }
  // Fetches and draws a chunk, once.
  load(index) {
    const chunk = this.chunks[index];
    if (!chunk) return Promise.resolve();
    chunk.loading ??= this.fetch(index).catch(() => { chunk.loading = null; });
    return chunk.loading;
  }
  async fetch(index) {
    const chunk = this.chunks[index];
    const begin = this.from + index * CHUNK;
    const end = Math.min(begin + CHUNK, this.to);
    const { text } = await api.getText(this.info.id, begin, Math.min(end + TAIL, this.to));
    const slice = slicer(text);
    // Both neighbours find the same boundary: behind the first line break at or after the nominal one.
    const boundary = (at) => {
      const tail = slice(at - begin, at - begin + TAIL);
      const found = tail.indexOf("\n");
      return found < 0 ? at : at + length(tail.slice(0, found)) + 1;
    };
    chunk.start = index === 0 ? begin : Math.min(boundary(begin), end + TAIL);
    chunk.end = end >= this.to ? this.to : boundary(end);
    chunk.text = slice(chunk.start - begin, chunk.end - begin);
    chunk.slice = slicer(chunk.text);
    this.drawChunk(index);
    chunk.element.style.minHeight = "";
    this.watcher.unobserve(chunk.element);
  }
  // The chunk's text, cut where pages begin and where marks do.
  drawChunk(index) {
    const chunk = this.chunks[index];
    const { start, end, slice } = chunk;
    const cuts = new Set([start, end]);
    const within = this.marks.map((mark, i) => ({ ...mark, i })).filter((mark) => mark.start < end && mark.end > start);
    for (const mark of within) cuts.add(Math.max(mark.start, start)).add(Math.min(mark.end, end));
    const breaks = this.pages.length > 1 ? this.pages.filter((page) => page.start >= start && page.start < end) : [];
    for (const page of breaks) cuts.add(page.start);
    const points = [...cuts].sort((a, b) => a - b);
    const nodes = [];
    for (let i = 0; i < points.length; i += 1) {
      const [from, to] = [points[i], points[i + 1]];
      for (const page of breaks) {
        if (page.start === from) nodes.push(h("div", { class: "page-break", "data-page": page.number }, page.name || `Page ${page.number}`));
      }
      if (to === undefined) break;
      const text = slice(from - start, to - start);
      const over = within.filter((mark) => mark.start <= from && mark.end >= to);
      const top = over.find((mark) => mark.i === this.active) || over[0];
      nodes.push(top ? h("mark", { class: `mark ${top.kind}${top.i === this.active ? " on" : ""}`, "data-mark": top.i }, text) : text);
    }
    chunk.element.replaceChildren(...nodes);
  }
  setMarks(marks, active) {
    const before = this.marks;
    Object.assign(this, { marks, active });
    const touched = (chunk) => [...before, ...marks].some((mark) => mark.start < chunk.end && mark.end > chunk.start);
    this.chunks.forEach((chunk, index) => { if (chunk.text !== null && touched(chunk)) this.drawChunk(index); });
  }
  chunkAt(position) {
    return Math.max(0, Math.min(this.chunks.length - 1, Math.floor((position - this.from) / CHUNK)));
  }
  // Fetches the chunk that holds a character: the nominal one, or the one before it.
  async holding(position) {
    const index = this.chunkAt(position);
    await this.load(index);
    if (position >= (this.chunks[index].start ?? 0) || index === 0) return index;
    await this.load(index - 1);
    return index - 1;
  }
  async reveal(mark) {
    const index = await this.holding(mark.start);
    const aim = () => {
      const target = this.box.querySelector(".mark.on") || this.chunks[index].element;
      const [to, frameBox] = [target.getBoundingClientRect(), this.box.getBoundingClientRect()];
      this.box.scrollTop += to.top - frameBox.top - this.box.clientHeight * 0.33;
      return target;
    };
    const target = aim();
    // Heights of chunks out of sight are guesses until they are drawn: aim again once they are.
    frame().then(frame).then(() => target.isConnected && aim());
    return target.classList.contains("on");
  }
  prepare(marks) {
    for (const mark of marks) this.holding(mark.start);
  }
  // The number of the page at the upper third of what is in sight.
  get number() {
    if (this.pages.length < 2) return 1;
    const line = this.box.getBoundingClientRect().top + this.box.clientHeight / 3;
    let { number } = this.pages[0];
    for (const one of this.paper.querySelectorAll(".page-break")) {
      if (one.getBoundingClientRect().top > line) break;
      number = Number(one.dataset.page);
    }
    return number;
  }
  async goToPage(number) {
    const page = this.pages.find((one) => one.number === number);
    if (!page) return;
    const index = await this.holding(page.start);
    const target = this.chunks[index].element.querySelector(`[data-page="${number}"]`) || this.chunks[index].element;
    this.box.scrollTop += target.getBoundingClientRect().top - this.box.getBoundingClientRect().top - 8;
  }
}
