/* What the page's style sheet cannot do: the colour scheme button, names for assistive technology, and a word when the
   page's kernel has gone. */
(function () {
  const key = "nbops-scheme", root = document.documentElement;
  const stored = () => { try { return localStorage.getItem(key); } catch (e) { return null; } };
  const apply = s => { if (s) root.dataset.scheme = s; else delete root.dataset.scheme; };
  apply(stored());

  function schemeButton() {
    const place = document.querySelector(".nb-head");
    if (!place || document.querySelector(".nb-scheme")) return;
    const button = document.createElement("button");
    button.className = "nb-scheme"; button.type = "button";
    const isDark = () => (root.dataset.scheme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
    const name = () => { button.textContent = isDark() ? "Light" : "Dark"; button.setAttribute("aria-label", "Use " + (isDark() ? "light" : "dark") + " colours"); };
    button.onclick = () => { const s = isDark() ? "light" : "dark"; apply(s); try { localStorage.setItem(key, s); } catch (e) { } name(); };
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
    name(); (place.querySelector(".nb-meta") || place).appendChild(button);
  }

  /* A figure is an image whose name is its card's title. */
  function names() {
    document.querySelectorAll(".nb-card").forEach(card => {
      const title = card.querySelector(".nb-title"), text = title ? title.textContent : "";
      card.querySelectorAll(".js-plotly-plot").forEach(plot => {
        if (plot.getAttribute("aria-label") !== text) { plot.setAttribute("role", "img"); plot.setAttribute("aria-label", text); }
      });
    });
    const heading = document.querySelector(".nb-page h1, .nb-notice h1");
    if (heading && document.title !== heading.textContent) document.title = heading.textContent;
  }

  function skeleton() {
    const bones = document.getElementById("nb-skeleton"), shown = "#rendered_cells .jupyter-widgets, #rendered_cells .jp-OutputArea-output:not([data-mime-type*=widget-view])";
    if (bones && document.querySelector(shown)) bones.remove();
  }

  let queued = false;
  function soon() { if (!queued) { queued = true; setTimeout(() => { queued = false; skeleton(); schemeButton(); names(); }, 60); } }
  document.addEventListener("DOMContentLoaded", () => {
    root.lang = root.lang || "en"; soon();
    new MutationObserver(soon).observe(document.body, { childList: true, subtree: true, characterData: true });
  });

  /* A kernel without a page is ended after some minutes (a laptop that slept, for example): say so instead of doing nothing. */
  let gone = false;
  async function alive() {
    const config = document.getElementById("jupyter-config-data");
    if (gone || document.hidden || !config) return;
    const { baseUrl, kernelId } = JSON.parse(config.textContent);
    let status = 0;
    try { status = (await fetch(baseUrl + "api/kernels/" + kernelId)).status; } catch (e) { return; }
    if (status !== 404) return;
    gone = true;
    const bar = document.createElement("div");
    bar.className = "nb-gone"; bar.setAttribute("role", "alert");
    bar.innerHTML = 'This page has been idle and its filters have stopped. <button type="button">Reload</button>';
    bar.querySelector("button").onclick = () => location.reload();
    document.body.appendChild(bar);
  }
  document.addEventListener("visibilitychange", alive);
  setInterval(alive, 60000);
})();
