// A decision about a proposed action: what exactly would happen is asked of the controller first, and shown before anything does.

import { h } from "./dom.js";
import { headers, rememberName, you, yourName } from "./session.js";

const post = async (action, approve, by, dry_run) => {
  const answer = await fetch("api/page/decide", {
    method: "POST",
    headers: { ...headers(), "Content-Type": "application/json" },
    body: JSON.stringify({ action, approve, by, dry_run }),
  });
  const text = await answer.text();
  let said = {};
  try {
    said = JSON.parse(text);
  } catch { /* The gate answers in plain words. */ }
  return { ok: answer.ok, text: said.text || said.error || text.trim() || `status ${answer.status}` };
};

// Buttons for an action that waits for a yes, for those who may say it.
export function buttons(action) {
  if (action.state !== "proposed") return null;
  if (!you().decides) return h("p", { class: "quiet small" }, "Waits for an operator's yes.");
  const button = (approve, text, kind) => h("button", { type: "button", class: kind, "data-key": `${text}-${action.id}`, onclick: () => open(action, approve) }, text);
  return h("p", { class: "tools" }, button(true, "Approve…", "yes"), button(false, "Reject…", "no"));
}

function open(action, approve) {
  const said = h("p", { role: "status" }, "Asking what would happen…");
  const named = you().via !== "nothing";
  const name = h("input", { id: "decide-name", autocomplete: "username", maxlength: "100", value: yourName(), required: true });
  const close = h("button", { type: "button" }, "Cancel");
  const go = h("button", { type: "submit", class: approve ? "yes" : "no", disabled: true }, approve ? "Approve" : "Reject");
  const form = h("form", { method: "dialog" },
    h("h2", { id: "decide-title" }, approve ? "Approve: " : "Reject: ", action.text, "?"),
    h("p", { class: "quiet" }, `Because ${action.because}`),
    said,
    named ? h("p", { class: "quiet small" }, `Written down as a decision of ${you().name}.`)
      : h("p", {}, h("label", { for: "decide-name" }, "Your name, for the audit trail"), name),
    h("p", { class: "tools" }, go, close));
  const dialog = h("dialog", { "aria-labelledby": "decide-title" }, form);
  const tell = ({ ok, text }) => {
    said.className = ok ? "sentence" : "banner";
    said.textContent = `${text[0].toUpperCase()}${text.slice(1)}.`;
  };
  const failed = (error) => ({ ok: false, text: `the controller does not answer (${error.message}); nothing is known to have happened` });
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const by = named ? "" : name.value.trim();
    if (!named) rememberName(by);
    go.disabled = true;
    const outcome = await post(action.id, approve, by, false).catch(failed);
    tell(outcome);
    if (!outcome.ok) return void (go.disabled = false);
    go.hidden = true;
    close.textContent = "Close";
    close.focus();
  });
  document.body.append(dialog);
  dialog.showModal();
  close.focus();
  post(action.id, approve, name.value.trim() || "nobody yet", true).catch(failed).then((outcome) => {
    tell(outcome);
    go.disabled = !outcome.ok;
  });
}
