// Log in: the token becomes a session, in a cookie that scripts can't read.
import { post, route } from "./api.js";
import { $ } from "./dom.js";

$("#login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const shown = $("#problem");
  shown.hidden = true;
  try {
    await post(route("session"), { token: event.target.elements.token.value.trim() });
    const next = new URLSearchParams(location.search).get("next") || "/";
    location.href = next.startsWith("/") && !next.startsWith("//") ? next : "/";
  } catch (error) {
    shown.textContent = `${error.message} ${error.hint || ""}`;
    shown.hidden = false;
  }
});
