// Opening documents: dropped, chosen, and what is said where none is open.
import * as api from "./api.js";
import { bytes, find, h, icon, menu, plural } from "./elements.js";
import { room, tell } from "./events.js";
import { failed, trying, wrong } from "./notices.js";

const MOST_FILES = 2000;
const AT_ONCE = 3; // uploads
const isHidden = (path) => path.split("/").some((name) => name.startsWith("."));

function choose(props) {
  const input = h("input", { type: "file", multiple: true, class: "sr", tabindex: -1, "aria-hidden": "true", ...props });
  document.body.append(input);
  const chosen = new Promise((done) => {
    input.addEventListener("change", () => done([...input.files]));
    input.addEventListener("cancel", () => done([]));
  });
  input.click();
  return chosen.finally(() => input.remove());
}
export async function chooseFiles() {
  const files = await choose({ "data-choose": "files" });
  await take(files.map((file) => [file, file.name]));
}
export async function chooseFolder() {
  const files = await choose({ webkitdirectory: true, "data-choose": "folder" });
  const name = files[0]?.webkitRelativePath.split("/")[0];
  if (files.length) await take(files.map((file) => [file, file.webkitRelativePath]), name);
}

// Reads what was dropped: files, and folders with all that is in them.
async function filesIn(entry, path, found) {
  if (found.length > MOST_FILES) return;
  if (entry.isFile) {
    const file = await new Promise((done, fail) => entry.file(done, fail));
    found.push([file, path + entry.name]);
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((done, fail) => reader.readEntries(done, fail));
    if (!some.length) return;
    for (const one of some) await filesIn(one, `${path}${entry.name}/`, found);
  }
}
export async function takeDropped(data) {
  const entries = [...data.items].filter((item) => item.kind === "file").map((item) => item.webkitGetAsEntry?.());
  const plain = [...data.files];
  if (!plain.length && !entries.length) {
    wrong("Only files and folders can be dropped here.", "Save what you want to read as a file first.");
    return;
  }
  if (!entries.some((entry) => entry?.isDirectory)) {
    await take(plain.map((file) => [file, file.name]));
    return;
  }
  const found = [];
  for (const entry of entries) if (entry) await filesIn(entry, "", found);
  const folders = entries.filter((entry) => entry?.isDirectory);
  await take(found, folders.length === 1 && entries.length === 1 ? folders[0].name : `${plural(found.length, "file")}`);
}

// Several loose files: read by themselves, or as one?
function askHow(files) {
  const dialog = h("dialog", { class: "dialog small", "aria-labelledby": "how-title" });
  const answer = (value) => () => { dialog.returnValue = value; dialog.close(value); };
  dialog.append(h("h2", { id: "how-title" }, `Open ${plural(files.length, "file")}`),
    h("p", {}, "Read together, one question is asked of all of them and each source names its file."),
    h("div", { class: "actions" },
      h("button", { type: "button", class: "button", onclick: answer("each") }, "Each by itself"),
      h("button", { type: "button", class: "button main", onclick: answer("together") }, "Read together")));
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((done) => dialog.addEventListener("close", () => { dialog.remove(); done(dialog.returnValue); }));
}

// Takes files, each [file, path], for one reading if it has a name.
export const take = trying(async (given, name = null) => {
  const files = given.filter(([, path]) => !isHidden(path));
  if (!given.length) return;
  if (!files.length) {
    wrong("There is nothing to read in it.", "Hidden files are passed over.");
    return;
  }
  if (files.length > MOST_FILES) {
    wrong(`More than ${plural(MOST_FILES, "file")} cannot be opened here.`, "Open a smaller folder, or: agenticlu read FOLDER");
    return;
  }
  if (name === null && files.length > 1) {
    const how = await askHow(files);
    if (how === "each") await sendEach(files);
    else if (how === "together") await send(files, `${files[0][1]} and ${plural(files.length - 1, "more file")}`);
    return;
  }
  await send(files, name);
});

// A few at a time; the first is looked at, the others open beside it.
async function sendEach(files) {
  const waiting = files.map((one, i) => [one, i]);
  const work = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) await send([next[0]], null, next[1] === 0);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
}
async function send(files, name, look = true) {
  const label = name || files[0][1];
  const size = files.reduce((sum, [file]) => sum + file.size, 0);
  if (size > room.uploadBytes) {
    wrong(`${label} has ${bytes(size)}; at most ${bytes(room.uploadBytes)} can be opened here.`,
      "From the command line there is no such limit: agenticlu read FILE; or start it with a larger --max-upload-mib.");
    return;
  }
  const bar = h("progress", { max: 1, value: 0, "aria-label": `Sending ${label}` });
  const { done, cancel } = api.upload(files, name, (share) => { bar.value = share; });
  const line = h("div", { class: "notice sending" }, h("div", {}, h("p", {}, `Opening ${label}`), bar),
    h("button", { type: "button", class: "button", onclick: cancel }, "Cancel"));
  // What is done at once needs no message.
  const later = setTimeout(() => find("notices").append(line), 250);
  try {
    const info = await done;
    tell("opened", { info, look });
  } catch (error) {
    failed(error);
  } finally {
    clearTimeout(later);
    line.remove();
  }
}

export function openButton() {
  const button = h("button", { type: "button", class: "icon-button", "aria-label": "Open documents", title: "Open documents" }, icon("plus"));
  const item = (picture, text, act) => h("button", { type: "button", role: "menuitem", onclick: act }, icon(picture), text);
  return menu("Open", button, () => [
    item("file", "Open files…", trying(chooseFiles)), item("folder", "Open a folder…", trying(chooseFolder)),
    item("answer", "Take the guided tour", () => tell("tour")),
  ]);
}

// What a reader sees first.
export function renderWelcome() {
  const formats = room.formats.map((one) => one.replace(/^\./, "")).join(", ");
  find("welcome").replaceChildren(h("div", { class: "welcome-card" },
    h("h2", {}, "Ask a long document. See the words behind every answer."),
    h("p", { class: "lead" }, "The model asks itself what it needs to know, points to the passages that say so, and answers. Each sentence leads to the quoted words on the page; a quote is shown only if it stands there word for word."),
    h("div", { class: "drop-here" },
      icon("file"), h("p", {}, "Drop files or a folder here"),
      h("div", { class: "actions" },
        h("button", { type: "button", class: "button main", onclick: trying(chooseFiles), "data-first": true }, "Choose files"),
        h("button", { type: "button", class: "button", onclick: trying(chooseFolder) }, "Choose a folder")),
      formats ? h("details", { class: "formats" }, h("summary", {}, "What can be read"), h("p", {}, formats)) : null),
    h("p", { class: "tour-line" }, "Nothing at hand? ",
      h("button", { type: "button", class: "link", onclick: () => tell("tour") }, "Take the guided tour"), ", 60 seconds with a bundled document."),
    h("p", { class: "quiet" }, "Documents stay on this computer. Their text goes to the model that you choose, and nowhere else.")));
}

// Files dropped anywhere are opened.
export function listenForDrops() {
  const sheet = find("drop");
  const isFiles = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
  let depth = 0;
  window.addEventListener("dragenter", (event) => {
    if (!isFiles(event)) return;
    event.preventDefault();
    depth += 1;
    sheet.hidden = false;
  });
  window.addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    if (!depth) sheet.hidden = true;
  });
  window.addEventListener("dragover", (event) => isFiles(event) && event.preventDefault());
  window.addEventListener("drop", (event) => {
    depth = 0;
    sheet.hidden = true;
    if (!event.dataTransfer) return;
    event.preventDefault();
    trying(takeDropped)(event.dataTransfer);
  });
}
