// Light, dark, or as the system says: set before anything is drawn. A classic script, so that it is.
(() => {
  let kept = null;
  try { kept = localStorage.getItem("theme"); } catch { /* no storage here: as the system says */ }
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
})();
