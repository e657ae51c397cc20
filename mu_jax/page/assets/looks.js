// Light and dark: as the system asks, until the switch says otherwise.
const dark = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  const look = document.documentElement.dataset.look;
  return look ? look === "dark" : dark.matches;
}

function showLook() {
  const button = document.getElementById("look");
  button.hidden = false;
  button.textContent = isDark() ? "Light page" : "Dark page";
  document.dispatchEvent(new Event("look"));
}

document.getElementById("look").addEventListener("click", () => {
  const look = isDark() ? "light" : "dark";
  document.documentElement.dataset.look = look;
  try { localStorage.setItem("mu_jax.look", look); } catch { /* a file may keep nothing */ }
  showLook();
});
dark.addEventListener("change", showLook);
showLook();
if (matchMedia("(max-width: 60rem)").matches) document.querySelector("nav details").open = false;
