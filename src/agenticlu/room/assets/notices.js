// Messages: what went wrong and what to do, until they are closed; small news, for a few seconds.
import { find, h, iconButton } from "./elements.js";

const NEWS_MS = 6000;
function put(kind, message, hint, lasting) {
  const box = find("notices");
  // The same message twice is one message.
  for (const one of box.children) if (one.dataset.message === message) one.remove();
  const notice = h("div", { class: `notice ${kind}`, role: kind === "wrong" ? "alert" : "status", "data-message": message },
    h("div", {}, h("p", {}, message), hint ? h("p", { class: "hint" }, hint) : null),
    iconButton("close", "Close this message", () => notice.remove()));
  box.append(notice);
  if (!lasting) setTimeout(() => notice.remove(), NEWS_MS);
  return notice;
}
export const news = (message, hint = null) => put("news", message, hint, false);
export const wrong = (message, hint = null) => put("wrong", message, hint, true);
export function failed(error) {
  if (error.name === "AbortError") return;
  wrong(error.message, error.hint);
  if (error.name !== "Error" || error.stack === undefined) return;
  console.error(error);
}
// Does something that may fail, and says so when it does.
export const trying = (act) => async (...given) => {
  try {
    return await act(...given);
  } catch (error) {
    failed(error);
    return undefined;
  }
};
